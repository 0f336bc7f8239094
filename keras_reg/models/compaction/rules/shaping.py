"""Flatten, reshape, permute and their like: where the axis of the units can be followed."""

import math

import numpy as np
from keras import layers, ops

from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import Units


def reshaped(signal: Signal, shape: tuple, graph: Units) -> Signal | None:
    """The signal in another shape; `None` if the units of an axis of it do not come to lie along axes there.

    In and out, an entry stays where the units of all its axes do. So units that come to lie along one axis are the same there; those that
    are spread over several leave by whole rows of each of these from now on, and so do those of several axes that become one.
    """
    after = len(shape) - len(signal.shape) + (signal.axis or 0)
    if after > 0 and tuple(shape[after:]) == signal.shape[signal.axis :] and None not in shape[after:]:
        # From the first axis on it is the same, whatever becomes of those before it: windows that go to the examples, say.
        return signal.moved(shape, {axis: axis + len(shape) - len(signal.shape) for axis in signal.followed})
    found = [_places(signal, shape, unknown) for unknown in ((4, 6) if None in (*signal.shape[1:], *shape[1:]) else (1,))]
    if None in found or any(not _same(one, found[0]) for one in found):
        return None
    return _put(signal, shape, found[0], graph)


Parts = list[tuple[list[int], list[int], np.ndarray]]


def _places(signal: Signal, shape: tuple, unknown: int) -> Parts | None:
    """Which axes become which, and at each place of the new ones the number of the entry of the old ones."""
    lengths = [length or unknown for length in signal.shape[1:]]
    if sum(length is None for length in shape[1:]) > 1:
        return None
    known, total = (math.prod(numbers) for numbers in ([length for length in shape[1:] if length is not None], lengths))
    # Where examples are split or joined by as many as it takes.
    examples = signal.shape[0] or (1 if total % known == 0 and (None in shape[1:] or total == known) else known // math.gcd(known, total))
    if examples * total > 2**26:
        return None
    inner = known if None not in shape[1:] else total
    if examples * total % inner:
        return None
    new = [examples * total // inner, *(total // known if length is None else length for length in shape[1:])]
    if 0 in new or math.prod(new) != examples * total:
        return None
    old = [examples, *lengths]
    along = {}
    for axis in signal.followed:
        index = np.arange(old[axis]).reshape([-1 if place == axis else 1 for place in range(len(old))])
        index = np.broadcast_to(index, old).reshape(new)
        along[axis] = index, {place for place in range(len(new)) if (index != index.take([0], place)).any()}
    parts, joined = [], _joined({axis: places for axis, (_, places) in along.items()})
    taken = {place for _, places in joined for place in places}
    for axes, places in joined:
        if not places:
            # One unit, which lies along any.
            places = [place for place in range(1, len(new)) if place not in taken and shape[place] is not None][-1:]
            taken.update(places)
        if any(place == 0 or shape[place] is None for place in places):
            return None
        corner = tuple(slice(None) if place in places else 0 for place in range(len(new)))
        number = np.ravel_multi_index([along[axis][0][corner] for axis in axes], [old[axis] for axis in axes])
        parts.append((axes, places, number))
    return parts


def _joined(places: dict[int, set[int]]) -> list[tuple[list[int], list[int]]]:
    """Old axes with the new ones that they go to: apart, where they have none in common."""
    parts: list[tuple[set[int], set[int]]] = []
    for axis, own in places.items():
        meeting = [part for part in parts if part[1] & own]
        parts = [part for part in parts if part not in meeting]
        parts.append(({axis}.union(*(part[0] for part in meeting)), own.union(*(part[1] for part in meeting))))
    return [(sorted(axes), sorted(own)) for axes, own in parts]


def _same(one: Parts, other: Parts) -> bool:
    return len(one) == len(other) and all(a[:2] == b[:2] and np.array_equal(a[2], b[2]) for a, b in zip(one, other, strict=True))


def _put(signal: Signal, shape: tuple, parts: Parts, graph: Units) -> Signal:
    order = [list(signal.followed).index(axis) for axes, _, _ in parts for axis in axes]
    joint, followed, places = signal.joint.transpose(order), {}, []
    for axes, own, positions in parts:
        units = [signal.followed[axis] for axis in axes]
        cells = units[0] if len(axes) == 1 else graph.gather(units)
        cells = cells.ravel()[positions]
        if own:
            followed |= dict(zip(own, [cells] if len(own) == 1 else graph.spread(cells), strict=True))
        # What has been done lies first, what is still to do last.
        done = joint.shape[: len(places)]
        joint = joint.reshape(*done, -1, *joint.shape[len(places) + len(axes) :]).take(positions, len(places))
        places += own
    if not followed:
        return Signal(shape)
    return Signal.of(shape, followed, joint.transpose(np.argsort(places)))


@rule_for(layers.Flatten)
class FlattenRule(Rule):
    grids = True

    def call(self, args, kwargs, shapes):
        (signal,) = args
        if signal.axis is None:
            return [Signal(shapes[0])]
        rank = len(signal.shape)
        if self.layer.data_format == "channels_first" and rank > 2:
            axes = {axis: rank - 1 if axis == 1 else axis - 1 for axis in signal.followed}
            signal = signal.moved((signal.shape[0], *signal.shape[2:], signal.shape[1]), axes)
        output = reshaped(signal, shapes[0], self.graph)
        return [output] if output is not None else self.barrier(args, kwargs, shapes, "flattens a shape that is not known")


class Reshaping(Rule):
    """One shape for all calls: their units are united."""

    grids = True
    result: Signal | None = None
    others: tuple | list = ()

    def reshape(self, args, kwargs, shapes):
        signal = args[0]
        output = reshaped(signal, shapes[0], self.graph) if signal.axis is not None else None
        if output is None:
            return self.barrier(args, kwargs, shapes, f"spreads units over several axes of {shapes[0]}")
        first, self.result = self.result or output, output
        if [(axis, len(units)) for axis, units in first.followed.items()] != [(axis, len(u)) for axis, u in output.followed.items()]:
            self.others = [*self.others, *first.followed.values()]
            return self.barrier(args, kwargs, shapes, "is called with different shapes")
        for one, other in zip(output.followed.values(), first.followed.values(), strict=True):
            self.graph.unite(one, other)
        return [output]

    def held(self):
        return [] if self.result is None else [*self.result.followed.values(), *self.others]

    def target(self, shape: tuple, first: int) -> tuple:
        """The shape, whose axis 0 is this one of the tensor, with the width that is left."""
        if self.result is None or self.barred:
            return tuple(shape)
        shape = list(shape)
        for axis, units in self.result.followed.items():
            shape[axis - first] = self.width(units)
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
    grids = anywhere = True

    def call(self, args, kwargs, shapes):
        signal = args[0]
        order = self._order(len(signal.shape))
        output = signal.moved(shapes[0], {axis: order.index(axis) for axis in signal.followed})
        output.batch = order.index(signal.batch)
        return [output]

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

    grids = anywhere = True

    def call(self, args, kwargs, shapes):
        signal = args[0]
        rank, wanted = max(len(signal.shape), len(shapes[0])), self.layer.axis
        if wanted is None:
            return self.barrier(args, kwargs, shapes, "drops all axes of length one")
        ones = {axis % rank for axis in (wanted if isinstance(wanted, (list, tuple)) else [wanted])}
        longer = [axis for axis in range(rank) if axis not in ones]
        if signal.batch or (len(shapes[0]) < len(signal.shape) and (0 in ones or ones & set(signal.followed))):
            return self.barrier(args, kwargs, shapes, "drops the axis of the units")
        grows = len(shapes[0]) > len(signal.shape)
        output = signal.moved(shapes[0], {axis: longer[axis] if grows else longer.index(axis) for axis in signal.followed})
        output.batch = longer[signal.batch] if grows else 0
        return [output]


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


@rule_for("DepthToSpace", "SpaceToDepth")
class BlocksRule(Rule):
    """Channels that come to lie at different places leave together; of places that become channels each has all units."""

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis is None:
            return [Signal(shapes[0])]
        if signal.axis != 3 or self.layer.data_format != "channels_last":
            return self.barrier(args, kwargs, shapes, "has its channels along another axis than the units")
        block, wide = self.layer.block_size, len(signal.units)
        if type(self.layer).__name__ == "DepthToSpace":
            index = np.arange(wide).reshape(1, 1, 1, -1)
        else:
            index = np.broadcast_to(np.arange(wide), (1, block, block, wide))
        # Where they come to lie is what the operation says.
        places = ops.convert_to_numpy(self.layer.call(ops.convert_to_tensor(index, "float32"))).astype(int)
        rows = places.reshape(-1, shapes[0][3])
        for row in rows[1:]:
            self.graph.unite(signal.units[row], signal.units[rows[0]])
        constants = np.where((signal.constants[rows] == signal.constants[rows[0]]).all(0), signal.constants[rows[0]], np.nan)
        return [Signal(shapes[0], 3, signal.units[rows[0]], constants)]
