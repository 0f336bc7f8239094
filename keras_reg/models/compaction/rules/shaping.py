"""Flatten, reshape, permute and their like: where the axis of the units can be followed."""

import numpy as np
from keras import layers

from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for


def reshaped(signal: Signal, shape: tuple) -> Signal | None:
    """The signal in another shape, if its units come to lie along one axis there; `None` if not."""
    # A length that is not known gets two different ones.
    after = len(shape) - len(signal.shape) + signal.axis
    if after > 0 and tuple(shape[after:]) == signal.shape[signal.axis :] and None not in shape[after:]:
        # From their axis on it is the same, whatever becomes of those before it: windows that go to the examples, say.
        return Signal(shape, after, signal.units, signal.constants)
    found = {_along(signal, shape, length) for length in ((4, 6) if None in (*signal.shape[1:], *shape[1:]) else (0,))}
    if len(found) > 1 or None in found:
        return None
    axis, positions = found.pop()
    positions = np.frombuffer(positions, np.int64)
    return Signal(shape, axis, signal.units[positions], signal.constants[positions])


def _along(signal: Signal, shape: tuple, unknown: int) -> tuple[int, bytes] | None:
    lengths = [length or unknown for length in signal.shape[1:]]
    if sum(length is None for length in shape[1:]) > 1:
        return None
    known = int(np.prod([length for length in shape[1:] if length is not None]))
    total = int(np.prod(lengths))
    if total % known or (None not in shape[1:] and total != known):
        return None
    index = np.arange(lengths[signal.axis - 1]).reshape([-1 if axis == signal.axis - 1 else 1 for axis in range(len(lengths))])
    index = np.broadcast_to(index, lengths).reshape([total // known if length is None else length for length in shape[1:]])
    for axis in reversed(range(index.ndim)):
        rows = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)
        if shape[axis + 1] is not None and (rows == rows[:, :1]).all():
            return axis + 1, np.ascontiguousarray(rows[:, 0]).tobytes()
    return None


@rule_for(layers.Flatten)
class FlattenRule(Rule):
    def call(self, args, kwargs, shapes):
        (signal,) = args
        if signal.axis is None:
            return [Signal(shapes[0])]
        rank = len(signal.shape)
        if self.layer.data_format == "channels_first" and rank > 2:
            axis = rank - 1 if signal.axis == 1 else signal.axis - 1
            signal = Signal((signal.shape[0], *signal.shape[2:], signal.shape[1]), axis, signal.units, signal.constants)
        output = reshaped(signal, shapes[0])
        return [output] if output is not None else self.barrier(args, kwargs, shapes, "flattens a shape that is not known")


class Reshaping(Rule):
    """One shape for all calls: their units are united."""

    result: Signal | None = None
    others: tuple | list = ()

    def reshape(self, args, kwargs, shapes):
        signal = args[0]
        output = reshaped(signal, shapes[0]) if signal.axis is not None else None
        if output is None:
            return self.barrier(args, kwargs, shapes, f"spreads units over several axes of {shapes[0]}")
        first, self.result = self.result or output, output
        if first.axis != output.axis or len(first.units) != len(output.units):
            self.others = [*self.others, first.units]
            return self.barrier(args, kwargs, shapes, "is called with different shapes")
        self.graph.unite(output.units, first.units)
        return [output]

    def held(self):
        return [] if self.result is None else [self.result.units, *self.others]

    def target(self, shape: tuple, first: int) -> tuple:
        """The shape, whose axis 0 is this one of the tensor, with the width that is left."""
        if self.result is None or self.barred:
            return tuple(shape)
        shape = list(shape)
        shape[self.result.axis - first] = self.width(self.result.units)
        return tuple(shape)


@rule_for(layers.Reshape)
class ReshapeRule(Reshaping):
    def call(self, args, kwargs, shapes):
        return self.reshape(args, kwargs, shapes)

    def changes(self):
        return {"target_shape": self.target(self.layer.target_shape, 1)}


@rule_for("Reshape")
class ReshapeOperation(Reshaping):
    def call(self, args, kwargs, shapes):
        if not all(isinstance(length, int) or length is None for length in self.layer.newshape):
            return self.barrier(args, kwargs, shapes, "reshapes by the values of a tensor")
        return self.reshape(args, kwargs, shapes)

    def rebuild(self):
        shape = [-1 if length is None else length for length in self.layer.newshape]
        return type(self.layer)(self.target(shape, 0), name=self.layer.name)


@rule_for(layers.Permute, "Transpose", "Swapaxes", "Moveaxis")
class PermuteRule(Rule):
    def call(self, args, kwargs, shapes):
        signal = args[0]
        rank = len(signal.shape)
        order = self._order(rank)
        if signal.axis is None or order[0] != 0:
            return self.barrier(args, kwargs, shapes, "moves the axis of the examples")
        return [signal.like(shapes[0], axis=order.index(signal.axis))]

    def _order(self, rank: int) -> list[int]:
        layer, kind = self.layer, type(self.layer).__name__
        if isinstance(layer, layers.Permute):
            return [0, *layer.dims]
        if kind == "Transpose":
            return [axis % rank for axis in layer.axes or reversed(range(rank))]
        axes = np.empty(range(1, rank + 1), bool)  # each axis as long as its number
        moved = np.swapaxes(axes, layer.axis1, layer.axis2) if kind == "Swapaxes" else np.moveaxis(axes, layer.source, layer.destination)
        return [length - 1 for length in moved.shape]


@rule_for(layers.RepeatVector)
class RepeatRule(Rule):
    def call(self, args, kwargs, shapes):
        return [args[0].like(shapes[0], axis=2)]


@rule_for("ExpandDims", "Squeeze")
class DimensionRule(Rule):
    """An axis of length one comes or goes."""

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis is None:
            return [Signal(shapes[0])]
        rank, wanted = max(len(signal.shape), len(shapes[0])), self.layer.axis
        if wanted is None:
            return self.barrier(args, kwargs, shapes, "drops all axes of length one")
        ones = {axis % rank for axis in (wanted if isinstance(wanted, (list, tuple)) else [wanted])}
        longer = [axis for axis in range(rank) if axis not in ones]
        if len(shapes[0]) > len(signal.shape):
            return [signal.like(shapes[0], axis=longer[signal.axis])]
        if signal.axis in ones or 0 in ones:
            return self.barrier(args, kwargs, shapes, "drops the axis of the units")
        return [signal.like(shapes[0], axis=longer.index(signal.axis))]


@rule_for("Mean", "Max", "Min", "Amax", "Amin", "Sum", "Var", "Std")
class ReduceRule(Rule):
    def call(self, args, kwargs, shapes):
        signal = args[0]
        rank = len(signal.shape)
        axes = self.layer.axis
        axes = range(rank) if axes is None else axes if isinstance(axes, (list, tuple)) else [axes]
        axes = {axis % rank for axis in axes}
        if getattr(self.layer, "initial", None) is not None:
            return self.barrier(args, kwargs, shapes, "has a value to start from")
        if signal.axis is None or signal.axis in axes or 0 in axes:
            return self.barrier(args, kwargs, shapes, "reduces over its units")
        axis = signal.axis if self.layer.keepdims else signal.axis - sum(reduced < signal.axis for reduced in axes)
        constants = signal.constants
        if type(self.layer).__name__ in ("Sum", "Var", "Std"):
            constants = np.where(constants == 0, 0.0, np.nan)
        return [signal.like(shapes[0], axis=axis, constants=constants)]
