"""EinsumDense: one contracted label is followed, and one of those that the kernel gives to the output, the last if nobody says else."""

import math

import keras
import numpy as np

from keras_reg.models.compaction.adding import adds_wrongly
from keras_reg.models.compaction.rules.dense import Reader
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for


class Equation:
    """The labels of an equation, with a letter for each axis that `...` stands for."""

    def __init__(self, equation: str, rank: int):
        left, output = equation.replace(" ", "").split("->")
        inputs, self.kernel = left.split(",")
        elided = "".join(chr(0x3B1 + number) for number in range(rank - len(inputs.replace("...", ""))))
        self.inputs, self.output = inputs.replace("...", elided), output.replace("...", elided)
        self.contracted = [label for label in self.inputs if label in self.kernel and label not in self.output]
        self.given = [label for label in self.output if label in self.kernel and label not in self.inputs]
        # The constructor is told the lengths of these.
        self.told = [label for label in self.output[1:] if label not in elided]

    def refusal(self, equation: str) -> str | None:
        """Why it cannot be followed."""
        labels = (self.inputs, self.kernel, self.output)
        both = any(label in self.kernel and label in self.output for label in self.inputs)
        if not self.contracted or not self.given or both or any(len(set(part)) < len(part) for part in labels):
            return f"has the equation {equation}"
        if any(label not in self.kernel and label not in self.output for label in self.inputs):
            return "sums its inputs over an axis that its kernel does not have"
        return None


@rule_for(keras.layers.EinsumDense)
class EinsumDenseRule(Reader):
    """Labels that the kernel gives beside the one that is followed multiply its columns: a unit is in several."""

    # Which of the labels that the kernel gives is followed.
    place = -1

    def call(self, args, kwargs, shapes):
        (signal,) = args
        equation = Equation(self.layer.equation, len(signal.shape))
        if reason := self.unsupported() or equation.refusal(self.layer.equation):
            return self.barrier(args, kwargs, shapes, reason)
        if self.layer.bias is not None and adds_wrongly(shapes[0], self.layer.bias.shape):
            return self.barrier(args, kwargs, shapes, "has a bias that Keras may add along another axis")
        axes = {label: equation.inputs.index(label) for label in equation.contracted}
        read = next((label for label, axis in axes.items() if axis == signal.axis), equation.contracted[-1])
        if getattr(self, "read", read) != read:
            return self.barrier(args, kwargs, shapes, "is called along several axes")
        units, constants = signal.along(axes[read], self.graph, self.name)
        self.equation, self.read = equation, read
        if self.matrix is None:
            self._prepare(units, shapes[0])
        self.count("kernel", tuple(n for label, n in zip(equation.inputs, signal.shape, strict=True) if label not in equation.kernel)[1:])
        sums = self.matrix.feed(units, constants, exact=self.foldable)
        return [self.finish_outputs(Signal(shapes[0], equation.output.index(self.label), self.outputs, self.produced(sums)))]

    def _prepare(self, units: np.ndarray, shape: tuple) -> None:
        equation, values = self.equation, self.values("kernel")
        size = dict(zip(equation.kernel, values.shape, strict=True))
        self.label = equation.given[max(self.place, -len(equation.given))]
        self.others = {label: size[label] for label in equation.given if label != self.label}
        taps = [label for label in equation.kernel if label != self.read and label not in equation.given]
        order = [equation.kernel.index(label) for label in [*taps, self.read, *self.others, self.label]]
        self.inputs, self.outputs = units, self.graph.new(size[self.label])
        self.columns = np.tile(self.outputs, math.prod(self.others.values()))
        array = values.transpose(order).reshape(-1, len(units), len(self.columns))
        # What a sum adds must have a place in the bias for each of its columns.
        self.foldable = self.layer.bias_axes is None or set(equation.given) <= set(self.layer.bias_axes)
        self.matrix = Matrix(self.graph, units, self.columns, array)
        labels = self._bias_labels(self.layer.bias_axes or "".join(equation.given))
        lengths = dict(zip(equation.output, shape, strict=True))

        def wrongly(width):
            short = {**lengths, self.label: width}
            own = self.layer.bias_axes or equation.given
            return adds_wrongly([short[label] for label in equation.output], [short[label] if label in own else 1 for label in labels])

        self.graph.avoid(self.outputs, wrongly)

    def _bias_labels(self, axes: str) -> str:
        """The labels of the axes of a bias: those of the output from its first one on."""
        return self.equation.output[min(map(self.equation.output.index, axes)) :]

    def produced(self, sums: np.ndarray) -> np.ndarray:
        """A unit is constant if it is the same in all its columns, and at all places that the bias tells apart."""
        total = sums.reshape(1, -1, len(self.outputs))
        if self.layer.bias is not None:
            labels = self._bias_labels(self.layer.bias_axes)
            bias = self.values("bias").astype("float64")
            places = [label for label in labels if label not in self.equation.given]
            own = [*places, *self.others, self.label]
            # With an axis for each label, of length one where the bias has none.
            bias = bias.transpose([labels.index(label) for label in own if label in labels])
            lengths = iter(bias.shape)
            bias = bias.reshape([next(lengths) if label in labels else 1 for label in own])
            bias = np.broadcast_to(bias, (*bias.shape[: len(places)], *self.others.values(), len(self.outputs)))
            total = total + bias.reshape(-1, total.shape[1], len(self.outputs))
        rows = total.reshape(-1, len(self.outputs))
        return self.activated(np.where((rows == rows[:1]).all(0), rows[0], np.nan))

    def slots(self):
        if self.matrix is None:
            return []
        kernel = self.equation.kernel
        axis = kernel.index(self.label)
        slots = [Slot("kernel", {kernel.index(self.read): self.inputs, axis: self.outputs}, (axis,))]
        axes = self.layer.bias_axes or "".join(self.equation.given)
        labels = self._bias_labels(axes)
        cut = {labels.index(self.label): self.outputs} if self.label in axes else {}
        if cut or self.foldable:
            slots.append(Slot("bias", cut, tuple(cut), self._finish(labels) if self.foldable else None))
        return slots

    def _finish(self, labels: str):
        def add(bias):
            addend = self.matrix.addend()[self.graph.kept(self.columns)].reshape(*self.others.values(), -1)
            own = [*self.others, self.label]
            addend = addend.transpose([own.index(label) for label in self.equation.given])
            lengths = iter(addend.shape)
            return bias + addend.reshape([next(lengths) if label in own else 1 for label in labels])

        return add

    def needs_bias(self):
        return self.layer.bias_axes is None and self.foldable and bool(np.any(self.matrix.addend()))

    def added(self):
        return self.width(self.columns) if self.matrix is not None and self.needs_bias() else 0

    def changes(self):
        if self.matrix is None:
            return {}
        shape = self.layer.partial_output_shape
        shape = list(shape) if isinstance(shape, (list, tuple)) else [shape]
        shape[self.equation.told.index(self.label)] = self.width(self.outputs)
        return {"output_shape": tuple(shape), "bias_axes": "".join(self.equation.given) if self.needs_bias() else self.layer.bias_axes}
