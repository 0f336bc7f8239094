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

    grids = True

    def merge(self, operands: list, shape: tuple, function, adds: bool = False) -> list[Signal]:
        """The output; `operands` are signals and numbers, `function` takes an array for each of them, `adds` says that it is a sum."""
        signals = [operand for operand in operands if isinstance(operand, Signal)]
        # Those along which an operand is followed that is as wide as the output.
        backs = {axis - len(s.shape) for s in signals for axis in s.followed if s.shape[axis] == shape[axis - len(s.shape)]}
        backs = sorted(back for back in backs if shape[back] is not None)
        for signal in signals:
            for axis, units in signal.followed.items():
                if axis - len(signal.shape) not in backs or (signal.shape[axis] != shape[axis - len(signal.shape)]):
                    # Of length one, where the output is longer.
                    self.graph.pin(units, self.name, "spreads its one unit over others", signal.constants_along(axis))
        if not backs:
            return [Signal(shape)]
        self._mind_others(signals, backs, shape)
        followed = {back: self._units(signals, back, shape[back]) for back in backs}
        columns = [_column(operand, [shape[back] for back in backs], backs) for operand in operands]
        if adds:
            tensors = [operand if isinstance(operand, Signal) else Signal(np.shape(operand)) for operand in operands]
            self._mind_the_axis([tensor for tensor in tensors if tensor.shape], followed)
        self.followed = followed
        joint = function(*(column.ravel() for column in columns)).reshape(columns[0].shape)
        return [Signal.of(shape, {len(shape) + back: units for back, units in followed.items()}, joint)]

    def _mind_others(self, signals: list[Signal], backs: list[int], shape: tuple) -> None:
        """Tensors that are followed along different axes hold each other."""
        for signal in signals:
            for axis, units in signal.followed.items():
                back = axis - len(signal.shape)
                if back in backs and any(
                    other.followed and length_at(other, back) == shape[back] and len(other.shape) + back not in other.followed
                    for other in signals
                ):
                    self.graph.pin(units, self.name, "meets a tensor whose units are along another axis", signal.constants_along(axis))

    def _units(self, signals: list[Signal], back: int, width: int) -> np.ndarray:
        """The units along an axis that all share which have it."""
        units = None
        for signal in signals:
            length = length_at(signal, back)
            if length is None:
                # At run time it is one, or the width: so that stays.
                own = np.full(width, FIXED)
            elif length != width:
                continue
            else:
                own = signal.followed.get(len(signal.shape) + back)
                own = np.full(width, FIXED) if own is None else own
            if units is not None and own is not units:
                self.graph.unite(own, units)
            units = own if units is None else units
        return units

    def _mind_the_axis(self, signals: list[Signal], followed: dict[int, np.ndarray]) -> None:
        """No cut leads into, or out of, Keras's mistake; see `adds_wrongly`."""
        for pair in itertools.pairwise(signals):

            def wrongly(widths, pair=pair):
                return adds_wrongly(*(_with_lengths(signal, dict(zip(followed, widths, strict=True))) for signal in pair))

            self.mind_addition(list(followed.values()), wrongly)


def _column(operand, widths: list[int], backs: list[int]) -> np.ndarray:
    """The constants of an operand along these axes: a number, what of an array is the same at all other places, or those of a signal."""
    if not isinstance(operand, Signal):
        values = np.asarray(operand, "float64")
        own = [back for back in backs if -back <= values.ndim]
        rows = np.moveaxis(values, own, range(len(own)))
        rows = rows.reshape(*rows.shape[: len(own)], -1)
        found = np.where((rows == rows[..., :1]).all(-1), rows[..., 0], np.nan)
    else:
        own = [axis - len(operand.shape) for axis in operand.followed]
        if not own:
            return np.full(widths, np.nan)
        places = [place for place, back in enumerate(own) if back in backs]
        found = np.moveaxis(operand.joint, places, range(len(places)))
        # Along others it has one unit.
        found = found.reshape(found.shape[: len(places)])
        own = [own[place] for place in places]
    lengths = iter(found.shape)
    return np.broadcast_to(found.reshape([next(lengths) if back in own else 1 for back in backs]), widths)


def length_at(signal: Signal, back: int) -> int | None:
    """The length of an axis, counted from the back; one where there is none."""
    return signal.shape[back] if -back <= len(signal.shape) else 1


def _with_lengths(signal: Signal, lengths: dict[int, int]) -> list[int | None]:
    shape = list(signal.shape)
    for back, length in lengths.items():
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


def finite_array(operand) -> bool:
    """Whether it is an array of numbers: zero times each of them is zero."""
    array = None if isinstance(operand, Signal) else _number(operand)
    return isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


_COMPARISONS = {"Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "LogicalAnd", "LogicalOr", "LogicalXor"}
_BINARY = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power", "FloorDivide", "Mod"}


@rule_for(*_BINARY, *_COMPARISONS)
class BinaryOperation(Entrywise):
    arrays = True
    # The axes of units, from the back, and these; by the first call.
    followed: dict[int, np.ndarray] | None = None

    def call(self, args, kwargs, shapes):
        operands = [_number(operand) for operand in (*args, *kwargs.values())]
        known = all(isinstance(operand, (Signal, numbers.Real)) or self._known(operand) for operand in operands)
        if not known or (self.followed and any(isinstance(operand, np.ndarray) for operand in operands)):
            return self.barrier(args, kwargs, shapes, "takes an array of a fixed width")
        self.kind = type(self.layer).__name__
        if self.kind in ("Divide", "TrueDivide") and isinstance(operands[1], np.ndarray) and operands[1].all():
            # Zero stays zero, even where the array is another one at each place.
            self.kind, operands[1] = "Multiply", 1 / operands[1]
        dtypes = [operand.dtype for operand in operands if isinstance(operand, Signal)]
        self.dtype = next(filter(keras.backend.is_float_dtype, dtypes), dtypes[0])
        return self.merge(operands, shapes[0], self._function, adds=self.kind == "Add")

    def _known(self, operand) -> bool:
        """Whether it is an array that can be followed."""
        return finite_array(operand)

    def arguments(self, args, kwargs):
        if self.followed is None or self.barred:
            return args, kwargs

        def cut(value):
            if isinstance(value, (keras.KerasTensor, numbers.Real)) or not getattr(value, "shape", ()):
                return value
            kept = ops.convert_to_numpy(value)
            for back, units in self.followed.items():
                if -back <= kept.ndim and kept.shape[back] != 1:
                    kept = np.compress(self.graph.kept(units), kept, back)
            return kept if isinstance(value, np.ndarray) else ops.convert_to_tensor(kept, keras.backend.standardize_dtype(value.dtype))

        return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}

    def held(self):
        return list((self.followed or {}).values())

    def _function(self, *columns):
        if self.kind == "Multiply":
            return product(*columns)
        names = {"Divide": "true_divide", "TrueDivide": "true_divide"}
        function = getattr(np, names.get(self.kind) or re.sub("(?<=.)(?=[A-Z])", "_", self.kind).lower())
        return combine(function, columns, self.dtype, continuous=self.kind in ("Add", "Subtract", "Maximum", "Minimum"))


@rule_for("Where")
class WhereRule(BinaryOperation):
    """Nothing is computed with what it chooses from: that may be infinite."""

    def call(self, args, kwargs, shapes):
        if len(args) + len(kwargs) != 3:
            return self.barrier(args, kwargs, shapes, "gives indices")
        return super().call(args, kwargs, shapes)

    def _known(self, operand):
        return isinstance(operand, np.ndarray) and operand.dtype.kind in "biuf"

    def _function(self, which, one, other):
        return np.where(np.isfinite(which), np.where(which != 0, one, other), np.where(one == other, one, np.nan))


_CONTINUOUS = {
    *("Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "Softsign", "SoftShrink", "SparsePlus", "Silu", "Squareplus", "LogSigmoid"),
    *("LeakyRelu", "HardSigmoid", "HardSilu", "Elu", "Selu", "Gelu", "Celu", "TanhShrink", "HardTanh"),
    *("Absolute", "Abs", "Fabs", "Cbrt", "Clip", "Copy", "Cos", "Cosh", "Exp", "Exp2", "Expm1"),
    *("Negative", "Sin", "Sinh", "Square", "Sqrt", "Tanh", "Erf", "Arctan", "Arcsinh", "StopGradient"),
}
# With jumps or poles.
_OTHERS = {"HardShrink", "Threshold", "Log", "Log1p", "Log2", "Log10", "Reciprocal", "Rsqrt", "Sign", "Tan", "Cast", "LogicalNot"}
_OTHERS |= {"Round", "Floor", "Ceil", "Trunc", "Isnan", "Isinf", "Isfinite", "NanToNum"}


@rule_for(*_CONTINUOUS, *_OTHERS)
class UnaryOperation(Rule):
    grids = anywhere = True

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
        output = signal.mapped(shapes[0], lambda constants: apply(function, constants, signal.dtype, continuous))
        output.batch = signal.batch
        return [output]

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
        signals = list(signals)
        axes = {own for signal in signals for own in signal.followed}
        if not axes or (axis in axes and any(signal.shape[axis] is None for signal in signals)):
            return self.barrier(args, kwargs, shapes, "joins lengths that are not known")
        # Along others than the one that they are joined along all have the same units.
        common = [own for own in axes - {axis} if all(own in signal.followed for signal in signals)]
        if not common and axis not in axes:
            return self.barrier(args, kwargs, shapes, "joins tensors along another axis than that of their units")
        reason = "joins tensors along another axis than that of their units"
        signals = [signal.only([*common, axis], self.graph, self.name, reason) for signal in signals]
        followed = {own: signals[0].followed[own] for own in common}
        for signal in signals[1:]:
            for own, units in followed.items():
                self.graph.unite(signal.followed[own], units)
        if axis not in axes:
            joints = [signal.joint for signal in signals]
            return [Signal.of(shape, followed, np.where((np.array(joints) == joints[0]).all(0), joints[0], np.nan))]
        followed[axis] = np.concatenate([signal.followed.get(axis, np.full(signal.shape[axis], FIXED)) for signal in signals])
        place = sorted(followed).index(axis)
        joints = [
            signal.joint if axis in signal.followed else np.full([signal.shape[own] for own in sorted(followed)], np.nan)
            for signal in signals
        ]
        return [Signal.of(shape, followed, np.concatenate(joints, place))]


@rule_for("Glu")
class GluRule(Rule):
    """The first half of an axis, times a function of the second: what is multiplied leaves together."""

    grids = True

    def call(self, args, kwargs, shapes):
        signal = args[0]
        axis = self.layer.axis % len(signal.shape)
        if axis not in signal.followed:
            return [of_zeros(signal, shapes[0])]
        one, other = np.split(signal.followed[axis], 2)
        self.graph.unite(one, other)
        first, second = np.split(signal.joint, 2, list(signal.followed).index(axis))
        joint = product(first, 1 / (1 + np.exp(-second)))
        return [Signal.of(shapes[0], {**signal.followed, axis: one}, joint)]


def of_zeros(signal: Signal, shape: tuple) -> Signal:
    """The same units in a weighted mean, or multiplied: of constants zero stays what it is, whatever the weights are."""
    return signal.mapped(shape, lambda constants: np.where(constants == 0, 0.0, np.nan))
