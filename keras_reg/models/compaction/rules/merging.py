"""Sums, products, maxima and concatenations, as layers and as operators between tensors."""

import itertools
import numbers
import re

import keras
import numpy as np
from keras import layers, ops

from keras_reg.models.attachment.carrier import original_class
from keras_reg.models.compaction.adding import adds_wrongly
from keras_reg.models.compaction.constants import apply, combine
from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import FIXED


class Entrywise(Rule):
    """A function of the entries at the same place: its tensors share their units, by the rules of broadcasting."""

    def merge(self, operands: list, shape: tuple, function, adds: bool = False) -> list[Signal]:
        """The output; `operands` are signals and numbers, `function` takes an array for each of them, `adds` says that it is a sum."""
        signals = [operand for operand in operands if isinstance(operand, Signal)]
        # The last of several: so has a reshape that leaves one unit, which has no axis for certain.
        axis = max(
            (
                len(shape) - len(s.shape) + s.axis
                for s in signals
                if s.axis is not None and _length(s, s.axis - len(s.shape)) == _length(Signal(shape), s.axis - len(s.shape))
            ),
            default=None,
        )
        if axis is None:
            for signal in signals:
                signal.pin(self.graph, self.name, "spreads its one unit over others")
            return [Signal(shape)]
        width, back = shape[axis], axis - len(shape)
        units, columns = None, []
        for operand in operands:
            if not isinstance(operand, Signal):
                columns.append(_column(operand, width, back))
                continue
            length = _length(operand, back)
            if length is None:
                # At run time it is one, or the width: so that stays.
                operand.pin(self.graph, self.name, "has a length that is not known")
                own, constants = np.full(width, FIXED), np.full(width, np.nan)
                self.graph.unite(own, units if units is not None else own)
                units = own if units is None else units
            elif length == width:
                own, constants = operand.along(back, self.graph, self.name)
                if units is None:
                    units = own
                elif own is not units:
                    self.graph.unite(own, units)
            else:
                # Of length one, or missing: the same for all units.
                operand.pin(self.graph, self.name, "spreads its one unit over others")
                followed = operand.axis is not None and operand.axis - len(operand.shape) == back
                constants = np.repeat(operand.constants, width) if followed else np.full(width, np.nan)
            columns.append(constants)
        if adds:
            arrays = [operand for operand in operands if isinstance(operand, Signal) or np.ndim(operand)]
            self._mind_the_axis([o if isinstance(o, Signal) else Signal(o.shape) for o in arrays], back, units)
        self.followed = (back, units)
        return [Signal(shape, axis, units, function(*columns))]

    def _mind_the_axis(self, signals: list[Signal], back: int, units: np.ndarray) -> None:
        """No cut leads into, or out of, Keras's mistake; see `adds_wrongly`."""
        for one, other in itertools.pairwise(signals):

            def wrongly(width, one=one, other=other):
                return adds_wrongly(*(_with_length(signal, back, width) for signal in (one, other)))

            self.mind_addition(units, wrongly)


def _column(operand, width: int, back: int) -> np.ndarray:
    """A number, or what of an array is the same at all places of a unit."""
    values = np.asarray(operand, "float64")
    rows = np.moveaxis(values, back, 0).reshape(values.shape[back], -1) if -back <= values.ndim else values.reshape(1, -1)
    return np.broadcast_to(np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan), width)


def _length(signal: Signal, back: int) -> int | None:
    return signal.shape[back] if -back <= len(signal.shape) else 1


def _with_length(signal: Signal, back: int, length: int) -> list[int | None]:
    shape = list(signal.shape)
    if -back <= len(shape) and shape[back] not in (1, None):
        shape[back] = length
    return shape


def united(graph, signals: list[Signal]) -> np.ndarray:
    """Have the tensors share their units; their constants, where they agree."""
    first, *others = signals
    constants = first.constants
    for signal in others:
        graph.unite(signal.units, first.units)
        constants = np.where(signal.constants == constants, constants, np.nan)
    return constants


def product(*columns: np.ndarray) -> np.ndarray:
    """Zero if any factor is, whatever the others are."""
    product = np.prod(columns, axis=0)
    return np.where(np.any([column == 0 for column in columns], axis=0), 0.0, product)


_MERGES = {
    layers.Add: lambda *columns: np.sum(columns, axis=0),
    layers.Subtract: lambda one, other: one - other,
    layers.Multiply: product,
    layers.Average: lambda *columns: np.mean(columns, axis=0),
    layers.Maximum: lambda *columns: np.max(columns, axis=0),
    layers.Minimum: lambda *columns: np.min(columns, axis=0),
}


@rule_for(*_MERGES)
class MergeRule(Entrywise):
    several = True

    def call(self, args, kwargs, shapes):
        signals = list(args[0])
        if len({len(signal.shape) for signal in signals}) > 1:
            return self.barrier(args, kwargs, shapes, "merges tensors of different ranks")
        kind = original_class(self.layer)
        adds = kind in (layers.Add, layers.Average)

        def function(*columns):
            if self.tracer.masks and kind in (layers.Multiply, layers.Maximum, layers.Minimum):
                # They leave out what is masked.
                return np.full(len(columns[0]), np.nan)
            return _MERGES[kind](*columns)

        return self.merge(signals, shapes[0], function, adds)


@rule_for("keras.src.applications.inception_resnet_v2.CustomScaleLayer")
class ScaledSumRule(Entrywise):
    """The first input and a multiple of the second."""

    several = True

    def call(self, args, kwargs, shapes):
        return self.merge(list(args[0]), shapes[0], lambda one, other: one + other * self.layer.scale)


def _number(operand):
    """A tensor that is at hand as an array, or as its number if it has but one."""
    if isinstance(operand, (Signal, numbers.Real)) or not hasattr(operand, "shape"):
        return operand
    array = np.asarray(ops.convert_to_numpy(ops.cast(operand, "float32") if "bfloat16" in str(operand.dtype) else operand))
    return array if array.shape else float(array)


_COMPARISONS = {"Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "LogicalAnd", "LogicalOr", "LogicalXor"}
_BINARY = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power", "FloorDivide", "Mod"}


@rule_for(*_BINARY, *_COMPARISONS)
class BinaryOperation(Entrywise):
    arrays = True
    # The axis of the units, from the back, and these; by the first call.
    followed: tuple[int, np.ndarray] | None = None

    def call(self, args, kwargs, shapes):
        operands = [_number(operand) for operand in (*args, *kwargs.values())]
        known = all(isinstance(operand, (Signal, numbers.Real)) or _is_finite(operand) for operand in operands)
        if not known or (self.followed and any(isinstance(operand, np.ndarray) for operand in operands)):
            return self.barrier(args, kwargs, shapes, "takes an array of a fixed width")
        self.dtype = next(operand.dtype for operand in operands if isinstance(operand, Signal))
        return self.merge(operands, shapes[0], self._function, adds=type(self.layer).__name__ == "Add")

    def arguments(self, args, kwargs):
        if self.followed is None or self.barred:
            return args, kwargs
        back, units = self.followed

        def cut(value):
            if isinstance(value, (keras.KerasTensor, numbers.Real)) or len(getattr(value, "shape", ())) < -back or value.shape[back] == 1:
                return value
            kept = np.compress(self.graph.kept(units), ops.convert_to_numpy(value), back)
            return kept if isinstance(value, np.ndarray) else ops.convert_to_tensor(kept, keras.backend.standardize_dtype(value.dtype))

        return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}

    def held(self):
        return [] if self.followed is None else [self.followed[1]]

    def _function(self, *columns):
        kind = type(self.layer).__name__
        if kind == "Multiply":
            return product(*columns)
        names = {"Divide": "true_divide", "TrueDivide": "true_divide"}
        function = getattr(np, names.get(kind) or re.sub("(?<=.)(?=[A-Z])", "_", kind).lower())
        return combine(function, columns, self.dtype, continuous=kind in ("Add", "Subtract", "Maximum", "Minimum"))


def _is_finite(operand) -> bool:
    return isinstance(operand, np.ndarray) and operand.dtype.kind in "biuf" and bool(np.isfinite(operand).all())


@rule_for("Where")
class WhereRule(Entrywise):
    def call(self, args, kwargs, shapes):
        operands = [_number(operand) for operand in (*args, *kwargs.values())]
        if len(operands) != 3 or not all(isinstance(operand, (Signal, numbers.Real)) for operand in operands):
            return self.barrier(args, kwargs, shapes, "takes an array of a fixed width, or gives indices")

        def choose(which, one, other):
            return np.where(np.isfinite(which), np.where(which != 0, one, other), np.where(one == other, one, np.nan))

        return [*self.merge(operands, shapes[0], choose)]


_CONTINUOUS = {
    *("Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "Softsign", "SoftShrink", "SparsePlus", "Silu", "Squareplus", "LogSigmoid"),
    *("LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu", "Gelu", "Celu", "TanhShrink", "HardTanh"),
    *("Absolute", "Abs", "Fabs", "Cbrt", "Clip", "Copy", "Cos", "Cosh", "Exp", "Exp2", "Expm1"),
    *("Negative", "Sin", "Sinh", "Square", "Sqrt", "Tanh", "Erf", "StopGradient"),
}
# With jumps or poles.
_OTHERS = {"HardShrink", "Threshold", "Log", "Log1p", "Log2", "Log10", "Reciprocal", "Rsqrt", "Sign", "Tan", "Cast", "LogicalNot"}


@rule_for(*_CONTINUOUS, *_OTHERS)
class UnaryOperation(Rule):
    def call(self, args, kwargs, shapes):
        if len(signals_in((args, kwargs))) != 1 or not isinstance(args[0], Signal):
            return self.barrier(args, kwargs, shapes, "takes several tensors")
        if any(tuple(getattr(value, "shape", ())) or isinstance(value, (list, tuple)) for value in self._settings()):
            return self.barrier(args, kwargs, shapes, "takes an array of a fixed width")
        signal = args[0]
        if signal.axis is None:
            return [Signal(shapes[0])]

        def function(tensor):
            return self.layer.call(tensor, *args[1:], **kwargs)

        continuous = type(self.layer).__name__ in _CONTINUOUS
        return [signal.like(shapes[0], constants=apply(function, signal.constants, signal.dtype, continuous))]

    def _settings(self) -> list:
        """What an operation was made with; a layer has it in its config."""
        return [] if isinstance(self.layer, layers.Layer) else [v for k, v in vars(self.layer).items() if not k.startswith("_")]


@rule_for(layers.Concatenate, "Concatenate")
class ConcatenateRule(Entrywise):
    several = True

    def call(self, args, kwargs, shapes):
        (signals,) = args
        shape = shapes[0]
        axis = self.layer.axis % len(shape)
        followed = {signal.axis for signal in signals if signal.axis is not None}
        if not followed or followed == {axis} or (shape[axis] is not None and axis in followed):
            if not followed or any(signal.shape[axis] is None for signal in signals):
                return self.barrier(args, kwargs, shapes, "joins lengths that are not known")
            parts = [signal.along(axis, self.graph, self.name) for signal in signals]
            units, constants = (np.concatenate(column) for column in zip(*parts, strict=True))
            return [Signal(shape, axis, units, constants)]
        if len(followed) > 1 or any(signal.axis is None for signal in signals):
            return self.barrier(args, kwargs, shapes, "joins tensors along another axis than that of their units")
        return [signals[0].like(shape, constants=united(self.graph, signals))]
