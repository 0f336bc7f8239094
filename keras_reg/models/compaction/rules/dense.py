"""Dense, EinsumDense and Embedding."""

import keras
import numpy as np

from keras_reg.models.compaction.activations import entrywise
from keras_reg.models.compaction.rule import Matrix, Rule, Slot, apply
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for


class Reader(Rule):
    """What layers with a kernel, a bias and an activation have in common."""

    matrix: Matrix | None = None
    outputs: np.ndarray

    def matrices(self):
        return [self.matrix] if self.matrix is not None else []

    def produced(self, sums: np.ndarray) -> np.ndarray:
        """The constant outputs: the activation of bias and constant inputs."""
        bias = self.values("bias")
        total = sums if bias is None else sums + bias.astype("float64").reshape(-1)[-len(sums) :]
        if not entrywise(self.layer.activation):
            return np.full(len(total), np.nan)
        return apply(self.layer.activation, total, self.layer.compute_dtype)

    def finish_outputs(self, signal: Signal) -> Signal:
        """Outputs of an activation that mixes units keep their width."""
        if not entrywise(self.layer.activation):
            activation = self.layer.activation
            self.graph.pin(
                signal.units, self.name, f"its activation {getattr(activation, '__name__', activation)} is not known to be entrywise"
            )
        return signal

    def unsupported(self) -> str | None:
        if getattr(self.layer, "lora_enabled", False):
            return "has LoRA enabled: merge it first"
        if getattr(self.layer, "quantization_mode", None):
            return "is quantized"
        return None

    def needs_bias(self) -> bool:
        """Whether a bias has to be added for constants that went."""
        return not self.layer.use_bias and bool(np.any(self.matrix.addend()))

    def added(self):
        return self.width(self.outputs) if self.matrix is not None and self.needs_bias() else 0

    def bias_slot(self) -> Slot:
        return Slot("bias", {0: self.outputs}, (0,), lambda bias: bias + self.addend().reshape(bias.shape))

    def addend(self) -> np.ndarray:
        return self.matrix.addend()[self.graph.kept(self.outputs)]


@rule_for(keras.layers.Dense)
class DenseRule(Reader):
    def call(self, args, kwargs, shapes):
        if reason := self.unsupported():
            return self.barrier(args, kwargs, shapes, reason)
        (signal,) = args
        units, constants = signal.along(-1, self.graph, self.name)
        if self.matrix is None:
            kernel = self.values("kernel")
            self.inputs, self.outputs = units, self.graph.new(kernel.shape[1])
            self.matrix = Matrix(self.graph, units, self.outputs, kernel[None])
        self.count("kernel", signal.shape[1:-1])
        constants = self.produced(self.matrix.feed(units, constants, exact=True))
        return [self.finish_outputs(Signal(shapes[0], len(shapes[0]) - 1, self.outputs, constants))]

    def slots(self):
        if self.matrix is None:
            return []
        return [Slot("kernel", {0: self.inputs, 1: self.outputs}, (1,)), self.bias_slot()]

    def changes(self):
        if self.matrix is None:
            return {}
        return {"units": self.width(self.outputs), "use_bias": self.layer.use_bias or self.needs_bias()}


@rule_for(keras.layers.EinsumDense)
class EinsumDenseRule(Reader):
    """One contracted label is followed, and the last label that the kernel gives to the output."""

    def call(self, args, kwargs, shapes):
        if reason := self.unsupported():
            return self.barrier(args, kwargs, shapes, reason)
        (signal,) = args
        left, output = self.layer.equation.replace(" ", "").split("->")
        inputs, kernel = left.split(",")
        if "..." in kernel or "..." in inputs[3:]:
            return self.barrier(args, kwargs, shapes, f"has the equation {self.layer.equation}")
        inputs, output = inputs.removeprefix("..."), output.removeprefix("...")
        contracted = [label for label in inputs if label in kernel and label not in output]
        given = [label for label in output if label in kernel and label not in inputs]
        if not contracted or not given or any(label in kernel and label in output for label in inputs):
            return self.barrier(args, kwargs, shapes, f"has the equation {self.layer.equation}")
        if any(label not in kernel and label not in output for label in inputs):
            return self.barrier(args, kwargs, shapes, "sums its inputs over an axis that its kernel does not have")
        axes = {label: len(signal.shape) - len(inputs) + inputs.index(label) for label in contracted}
        read = next((label for label, axis in axes.items() if axis == signal.axis), contracted[-1])
        if getattr(self, "read", read) != read:
            return self.barrier(args, kwargs, shapes, "is called along several axes")
        units, constants = signal.along(axes[read], self.graph, self.name)
        values = self.values("kernel")
        self.axis_in, self.axis_out = kernel.index(read), kernel.index(given[-1])
        # A bias has a place for the sum if no other label distinguishes outputs.
        self.foldable = len(given) == 1 and self.layer.bias_axes in (None, given[-1])
        if self.matrix is None:
            self.label, self.inputs, self.outputs = given[-1], units, self.graph.new(values.shape[self.axis_out])
            taps = np.moveaxis(values, (self.axis_in, self.axis_out), (-2, -1))
            self.matrix = Matrix(self.graph, units, self.outputs, taps.reshape(-1, *taps.shape[-2:]))
        self.read, self.output = read, output
        positions = [length for label, length in zip(inputs[::-1], signal.shape[::-1], strict=False) if label not in kernel]
        self.count("kernel", tuple(positions[:-1] if "..." not in left else positions))
        sums = self.matrix.feed(units, constants, exact=self.foldable)
        if not self.foldable:
            # Zero comes out as the bias, which may differ between the places of one unit.
            sums = np.where(sums == 0, 0.0, np.nan) if self.layer.bias is None else np.full(len(sums), np.nan)
        axis = len(shapes[0]) - len(output) + output.index(self.label)
        return [self.finish_outputs(Signal(shapes[0], axis, self.outputs, self.produced(sums)))]

    def slots(self):
        if self.matrix is None:
            return []
        kernel = Slot("kernel", {self.axis_in: self.inputs, self.axis_out: self.outputs}, (self.axis_out,))
        if self.layer.bias_axes is None:
            return [kernel, self.bias_slot()]
        if self.label not in self.layer.bias_axes:
            return [kernel]
        # The bias lacks the axes before its first label.
        first = min(self.output.index(label) for label in self.layer.bias_axes)
        axis = self.output.index(self.label) - first
        finish = self.bias_slot().finish if self.foldable else None
        return [kernel, Slot("bias", {axis: self.outputs}, (axis,), finish)]

    def needs_bias(self):
        return self.layer.bias_axes is None and self.foldable and bool(np.any(self.matrix.addend()))

    def changes(self):
        if self.matrix is None:
            return {}
        shape = self.layer.partial_output_shape
        shape = list(shape) if isinstance(shape, (list, tuple)) else [shape]
        shape[self.output.index(self.label) - len(self.output)] = self.width(self.outputs)
        return {"output_shape": tuple(shape), "bias_axes": self.label if self.needs_bias() else self.layer.bias_axes}


@rule_for(keras.layers.Embedding)
class EmbeddingRule(Rule):
    outputs: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        for reason in ("lora_enabled", "quantization_mode"):
            if getattr(self.layer, reason, None):
                return self.barrier(args, kwargs, shapes, f"has {reason}")
        args[0].pin(self.graph, self.name, "looks its inputs up")
        self.tracer.masks |= self.layer.mask_zero
        values = self.values("embeddings").astype("float64")
        if self.outputs is None:
            self.outputs = self.graph.new(values.shape[1])
        constants = np.where((values == values[:1]).all(0), values[0], np.nan)
        return [Signal(shapes[0], len(shapes[0]) - 1, self.outputs, constants)]

    def stays(self):
        rows = (self.values("embeddings") == 0).all(1)
        if not rows.any():
            return []
        return [(len(rows), int(rows.sum()), "rows are looked up by their numbers, which would be others if one left")]

    def slots(self):
        return [] if self.outputs is None else [Slot("embeddings", {1: self.outputs}, (1,))]

    def changes(self):
        return {} if self.outputs is None else {"output_dim": self.width(self.outputs)}
