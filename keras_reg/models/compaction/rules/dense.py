"""Dense and Embedding."""

import keras
import numpy as np

from keras_reg.models.compaction.activations import continuous, entrywise, name_of
from keras_reg.models.compaction.constants import apply
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
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
        return self.activated(sums if bias is None else sums + bias.astype("float64"))

    def activated(self, total: np.ndarray) -> np.ndarray:
        if not entrywise(self.layer.activation):
            return np.full(len(total), np.nan)
        return apply(self.layer.activation, total, self.layer.compute_dtype, continuous(self.layer.activation))

    def finish_outputs(self, signal: Signal) -> Signal:
        """Outputs of an activation that mixes units keep their width."""
        if not entrywise(self.layer.activation):
            reason = f"its activation {name_of(self.layer.activation)} is not known to be entrywise"
            self.graph.pin(signal.units, self.name, reason)
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
    grids = True

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
