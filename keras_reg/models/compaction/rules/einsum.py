"""EinsumDense: the labels that the kernel gives to the output are followed, and those that it sums over."""

import math

import keras
import numpy as np

from keras_reg.models.compaction.adding import adds_wrongly
from keras_reg.models.compaction.rules.dense import Reader
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import FIXED


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
    """Labels that the kernel gives are followed, all of them if nobody says which; those that it sums over where its input is."""

    grids = True
    # Which one of the labels that the kernel gives is followed, the others then being columns of its units.
    place: int | None = None

    def call(self, args, kwargs, shapes):
        (signal,) = args
        equation = Equation(self.layer.equation, len(signal.shape))
        if reason := self.unsupported() or equation.refusal(self.layer.equation):
            return self.barrier(args, kwargs, shapes, reason)
        if self.layer.bias is not None and adds_wrongly(shapes[0], self.layer.bias.shape):
            return self.barrier(args, kwargs, shapes, "has a bias that Keras may add along another axis")
        axes = {equation.inputs.index(label): label for label in equation.contracted}
        read = "".join(axes[axis] for axis in signal.followed if axis in axes)
        if getattr(self, "read", read) != read:
            return self.barrier(args, kwargs, shapes, "is called along several axes")
        signal = signal.only(list(axes), self.graph, self.name, "works along another axis than that of the units")
        self.equation, self.read = equation, read
        if self.matrix is None:
            self._prepare(signal, shapes[0])
        for units, own in zip(signal.followed.values(), self.reading, strict=True):
            self.graph.unite(units, own)
        self.count("kernel", tuple(n for label, n in zip(equation.inputs, signal.shape, strict=True) if label not in equation.kernel)[1:])
        constants = np.full(len(self.inputs), np.nan) if signal.joint is None else signal.joint.ravel()
        made = self.produced(self.matrix.feed(self.inputs, constants, exact=self.foldable))
        followed = {equation.output.index(label): units for label, units in self.outputs.items()}
        return [self.finish_outputs(Signal.of(shapes[0], followed, made))]

    def finish_outputs(self, signal):
        for units in signal.followed.values():
            super().finish_outputs(Signal((len(units),), 0, units))
        return signal

    def _prepare(self, signal: Signal, shape: tuple) -> None:
        equation, values = self.equation, self.values("kernel")
        size = dict(zip(equation.kernel, values.shape, strict=True))
        labels = equation.given if self.place is None else [equation.given[max(self.place, -len(equation.given))]]
        self.others = {label: size[label] for label in equation.given if label not in labels}
        # Where nothing that it sums over is followed, one of them stands for it.
        summed = self.read or equation.contracted[-1]
        taps = [label for label in equation.kernel if label not in summed and label not in equation.given]
        order = [equation.kernel.index(label) for label in [*taps, *summed, *self.others, *labels]]
        self.reading = list(signal.followed.values())
        self.inputs = np.full(size[summed], FIXED) if not self.read else self._together(self.reading)
        self.outputs = {label: self.graph.new(size[label]) for label in labels}
        self.columns = np.tile(self._together(list(self.outputs.values())), math.prod(self.others.values()))
        array = values.transpose(order).reshape(-1, len(self.inputs), len(self.columns))
        # What a sum adds must have a place in the bias for each of its columns.
        self.foldable = self.layer.bias_axes is None or set(equation.given) <= set(self.layer.bias_axes)
        self.matrix = Matrix(self.graph, self.inputs, self.columns, array)
        bias = self._bias_labels(self.layer.bias_axes or "".join(equation.given))
        lengths = dict(zip(equation.output, shape, strict=True))

        def wrongly(widths):
            short = {**lengths, **dict(zip(self.outputs, widths, strict=True))}
            own = self.layer.bias_axes or equation.given
            return adds_wrongly([short[label] for label in equation.output], [short[label] if label in own else 1 for label in bias])

        self.graph.avoid(list(self.outputs.values()), wrongly)

    def _together(self, axes: list[np.ndarray]) -> np.ndarray:
        return axes[0] if len(axes) == 1 else self.graph.gather(axes).ravel()

    def _bias_labels(self, axes: str) -> str:
        """The labels of the axes of a bias: those of the output from its first one on."""
        return self.equation.output[min(map(self.equation.output.index, axes)) :]

    def produced(self, sums: np.ndarray) -> np.ndarray:
        """What is constant for all labels that are followed: the same in all other columns, and at all places that the bias tells apart."""
        widths = [len(units) for units in self.outputs.values()]
        total = sums.reshape(1, -1, math.prod(widths))
        if self.layer.bias is not None:
            labels = self._bias_labels(self.layer.bias_axes)
            bias = self.values("bias").astype("float64")
            places = [label for label in labels if label not in self.equation.given]
            own = [*places, *self.others, *self.outputs]
            # With an axis for each label, of length one where the bias has none.
            bias = bias.transpose([labels.index(label) for label in own if label in labels])
            lengths = iter(bias.shape)
            bias = bias.reshape([next(lengths) if label in labels else 1 for label in own])
            bias = np.broadcast_to(bias, (*bias.shape[: len(places)], *self.others.values(), *widths))
            total = total + bias.reshape(-1, *total.shape[1:])
        rows = total.reshape(-1, math.prod(widths))
        return self.activated(np.where((rows == rows[:1]).all(0), rows[0], np.nan)).reshape(widths)

    def slots(self):
        if self.matrix is None:
            return []
        kernel = self.equation.kernel
        given = {kernel.index(label): units for label, units in self.outputs.items()}
        read = {kernel.index(label): units for label, units in zip(self.read, self.reading, strict=True)}
        slots = [Slot("kernel", {**read, **given}, tuple(given))]
        axes = self.layer.bias_axes or "".join(self.equation.given)
        labels = self._bias_labels(axes)
        cut = {labels.index(label): units for label, units in self.outputs.items() if label in axes}
        if cut or self.foldable:
            slots.append(Slot("bias", cut, tuple(cut), self._finish(labels) if self.foldable else None))
        return slots

    def _finish(self, labels: str):
        def add(bias):
            widths = [self.width(units) for units in self.outputs.values()]
            addend = self.matrix.addend()[self.graph.kept(self.columns)].reshape(*self.others.values(), *widths)
            own = [*self.others, *self.outputs]
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
        for label, units in self.outputs.items():
            shape[self.equation.told.index(label)] = self.width(units)
        return {"output_shape": tuple(shape), "bias_axes": "".join(self.equation.given) if self.needs_bias() else self.layer.bias_axes}
