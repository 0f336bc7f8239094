"""What pads, turns, repeats, stacks, splits, or takes parts of tensors: by its own axes the order of the units, by others nothing."""

import numbers
from typing import Any

import numpy as np
from keras import ops

from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.rules.merging import united
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for


@rule_for("Flip", "Repeat", "Tile")
class RearrangeRule(Rule):
    """The same is done to the units as to the tensor, whatever their number is."""

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis is None:
            return [Signal(shapes[0])]
        positions = self._rearranged(np.arange(len(signal.units)), signal)
        if positions is None or len(positions) != shapes[0][signal.axis]:
            return self.barrier(args, kwargs, shapes, "rearranges its units in a way that is not followed")
        return [Signal(shapes[0], signal.axis, signal.units[positions], signal.constants[positions])]

    def _rearranged(self, positions: np.ndarray, signal: Signal) -> np.ndarray | None:
        kind, rank = type(self.layer).__name__, len(signal.shape)
        if kind == "Tile":
            repeats = self.layer.repeats
            repeats = [repeats] if isinstance(repeats, numbers.Integral) else list(repeats)
            if len(repeats) > rank or not all(isinstance(number, numbers.Integral) for number in repeats):
                return None
            return np.tile(positions, [*[1] * (rank - len(repeats)), *repeats][signal.axis])
        axes = self.layer.axis
        if kind == "Repeat":
            if axes is None or not isinstance(self.layer.repeats, numbers.Integral):
                return None
            return np.repeat(positions, self.layer.repeats) if axes % rank == signal.axis else positions
        axes = range(rank) if axes is None else axes if isinstance(axes, (list, tuple)) else [axes]
        return positions[::-1] if signal.axis in [axis % rank for axis in axes] else positions


@rule_for("Roll", "Cumsum", "Pad")
class AlongOthersRule(Rule):
    """Each unit by itself, along other axes than theirs."""

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis is None:
            return [Signal(shapes[0])]
        axes, keeps = self._axes(args, len(signal.shape))
        if axes is None or signal.axis in axes:
            return self.barrier(args, kwargs, shapes, "works along the axis of the units")
        constants = signal.constants if keeps is None else np.where(signal.constants == keeps, keeps, np.nan)
        return [signal.like(shapes[0], constants=constants)]

    def _axes(self, args: tuple, rank: int) -> tuple[list[int] | None, float | None]:
        """The axes that it works along, and the one constant that stays what it is (`None` for all of them)."""
        if type(self.layer).__name__ == "Pad":
            widths = list(self.layer.pad_width)
            widths = widths * rank if len(widths) == 1 else widths
            constant = (args[1] if len(args) > 1 else None) or 0
            if len(widths) != rank or not isinstance(constant, numbers.Real):
                return None, None
            return [axis for axis, pair in enumerate(widths) if any(pair)], float(constant) if self.layer.mode == "constant" else None
        axes = self.layer.axis
        if axes is None:
            return None, None
        axes = [axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes])]
        return axes, 0.0 if type(self.layer).__name__ == "Cumsum" else None


@rule_for("Stack")
class StackRule(Rule):
    """Tensors beside each other along a new axis share their units."""

    several = True

    def call(self, args, kwargs, shapes):
        signals = list(args[0])
        if not all(isinstance(signal, Signal) and signal.axis is not None for signal in signals) or len({s.axis for s in signals}) > 1:
            return self.barrier(args, kwargs, shapes, "stacks tensors whose units are along different axes")
        first, constants = signals[0], united(self.graph, signals)
        new = self.layer.axis % len(shapes[0])
        if new == 0:
            return self.barrier(args, kwargs, shapes, "makes a new axis before that of the examples")
        return [first.like(shapes[0], axis=first.axis + (new <= first.axis), constants=constants)]


@rule_for("Split")
class SplitRule(Rule):
    """Parts along an axis of units keep their borders; along others they all have the same units."""

    grids = True
    parts_of_units: list[np.ndarray] | None = None
    # Whether the parts are of units; in all calls or in none.
    cuts: bool | None = None

    def call(self, args, kwargs, shapes):
        signal = args[0]
        axis = self.layer.axis % len(signal.shape)
        if self.cuts is None:
            self.cuts = axis in signal.followed
        if self.cuts != (axis in signal.followed):
            return self.barrier(args, kwargs, shapes, "is called along several axes")
        if not self.cuts:
            return [signal.like(shape) for shape in shapes]
        bounds = np.cumsum([shape[axis] for shape in shapes])[:-1]
        units = np.split(signal.followed[axis], bounds)
        if not all(len(part) for part in units):
            return self.barrier(args, kwargs, shapes, "gives parts without units")
        if self.parts_of_units is None:
            self.parts_of_units = units
        else:
            self.graph.unite(np.concatenate(units), np.concatenate(self.parts_of_units))
        joint = np.split(signal.joint, bounds, list(signal.followed).index(axis))
        return [Signal.of(shape, {**signal.followed, axis: own}, part) for shape, own, part in zip(shapes, units, joint, strict=True)]

    def held(self):
        return self.parts_of_units or []

    def rebuild(self):
        if self.parts_of_units is None:
            return super().rebuild()
        bounds = np.cumsum([self.width(units) for units in self.parts_of_units])[:-1]
        return type(self.layer)(bounds.tolist(), axis=self.layer.axis, name=self.layer.name)


class Picking(Rule):
    """What takes units of an axis by their numbers: those that are left have others."""

    grids = anywhere = True

    def __init__(self, layer, tracer):
        super().__init__(layer, tracer)
        # By the first call: for each axis of which not all is taken its units, and the numbers of those that are.
        self.picked: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        # The units along the axes that come of it, where there are several.
        self.spread: dict[int, list[np.ndarray]] = {}
        # What is followed, in all calls.
        self.axes: list[int] | None = None

    def refusal(self, signal: Signal) -> str | None:
        """Why a call cannot be like the others."""
        if self.axes is None:
            self.axes = [*signal.followed]
        return None if self.axes == [*signal.followed] else "is called along several axes"

    def pick(self, signal: Signal, numbers: dict[int, np.ndarray], places: dict[int, int], shape: tuple) -> Signal:
        """The output, given the numbers along axes (one number, a row, or an array of them), and the first new place of each axis."""
        for axis, taken in numbers.items():
            units = signal.followed[axis]
            if axis in self.picked:
                self.graph.unite(units, self.picked[axis][0])
            elif not np.array_equal(taken, np.arange(len(units))):
                self.picked[axis] = units, taken
            if not taken.ndim:
                self.graph.pin(units[taken : taken + 1], self.name, "takes this one by its number")
        joint, followed, done = signal.joint, {}, 0
        for axis, units in signal.followed.items():
            taken = numbers.get(axis, np.arange(len(units)))
            joint = joint.take(taken, done)
            done += taken.ndim
            own = [units[taken]] if taken.ndim == 1 else []
            if taken.ndim > 1:
                own = self.graph.spread(units[taken])
                for one, other in zip(own, self.spread.setdefault(axis, own), strict=True):
                    self.graph.unite(one, other)
            followed |= {places[axis] + number: each for number, each in enumerate(own)}
        order = np.argsort(list(followed)) if followed else []
        return Signal.of(shape, followed, joint.transpose(order) if followed else None)

    def held(self):
        return [units for units, _ in self.picked.values()]

    def numbers(self, axis: int) -> np.ndarray:
        """After `mark`: the numbers along an axis of those that are taken and left."""
        units, taken = self.picked[axis]
        kept = self.graph.kept(units)
        left = (np.cumsum(kept) - 1)[taken]
        if taken.ndim < 2:
            return left[kept[taken]] if taken.ndim else left
        return left[np.ix_(*map(self.graph.kept, self.spread[axis]))]


@rule_for("GetItem")
class SliceRule(Picking):
    """Numbers and slices."""

    def call(self, args, kwargs, shapes):
        signal, key = args[0], args[1]
        if not isinstance(signal, Signal) or (key := _whole(key, len(signal.shape))) is None:
            return self.barrier(args, kwargs, shapes, "takes a part by something else than slices")
        places, axes = {}, [place for place, item in enumerate(key) if item is not None]
        for axis, place in enumerate(axes):
            places[axis] = sum(not isinstance(item, numbers.Integral) for item in key[:place])
        if not isinstance(key[axes[signal.batch]], slice):
            return self.barrier(args, kwargs, shapes, "takes one of the examples")
        if reason := self.refusal(signal):
            return self.barrier(args, kwargs, shapes, reason)
        taken = {}
        for axis, units in signal.followed.items():
            item = key[axes[axis]]
            if not _static(item):
                return self.barrier(args, kwargs, shapes, "takes a part of the units by the values of a tensor")
            taken[axis] = np.asarray(np.arange(len(units))[item])
            if not taken[axis].size:
                return self.barrier(args, kwargs, shapes, "takes none of the units")
        output = self.pick(signal, taken, places, shapes[0])
        output.batch = places[signal.batch]
        return [output]

    def rebuild(self):
        return super().rebuild() if self.barred or not self._irregular() else self._take

    def _irregular(self) -> list[int]:
        """Axes of which no slice takes what is left."""
        return [axis for axis in self.picked if self.picked[axis][1].ndim and _as_slice(self.numbers(axis)) is None]

    def _take(self, x, key):
        """Those by their numbers, and then the rest of the key."""
        for axis in self._irregular():
            x = ops.take(x, self.numbers(axis).tolist(), axis=axis)
        return x[key]

    def arguments(self, args, kwargs):
        if not self.picked or self.barred:
            return args, kwargs
        key = _whole(args[1] if len(args) > 1 else kwargs["key"], len(args[0].shape))
        axes = [place for place, item in enumerate(key) if item is not None]
        for axis in self.picked:
            left = self.numbers(axis)
            key[axes[axis]] = _as_slice(left) or slice(None) if left.ndim else int(left)
        return (args[0], tuple(key)), {}


def _as_slice(numbers: np.ndarray) -> slice | None:
    """The slice that takes these, if there is one."""
    steps = np.unique(np.diff(numbers))
    if len(steps) > 1 or 0 in steps:
        return None
    first, step = int(numbers[0]), int(steps[0]) if len(steps) else 1
    stop = int(numbers[-1]) + (1 if step > 0 else -1)
    return slice(first, stop if stop >= 0 else None, step if step != 1 else None)


def _static(item: Any) -> bool:
    bounds = (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)
    return all(bound is None or isinstance(bound, numbers.Integral) for bound in bounds)


def _whole(key: Any, rank: int) -> list | None:
    """The key with an entry for each axis, and `None` for new ones; `None` if others than numbers and slices are in it."""
    key = list(key) if isinstance(key, (tuple, list)) else [key]
    if any(not (item is None or isinstance(item, (numbers.Integral, slice)) or item is Ellipsis) for item in key):
        return None
    given = sum(item is not None and item is not Ellipsis for item in key)
    if any(item is Ellipsis for item in key):
        place = next(number for number, item in enumerate(key) if item is Ellipsis)
        key[place : place + 1] = [slice(None)] * (rank - given)
        return key
    return key + [slice(None)] * (rank - given)


@rule_for("Take")
class TakeRule(Picking):
    """By a list of numbers."""

    arrays = True

    def call(self, args, kwargs, shapes):
        signal, indices = args[0], args[1]
        axis = self.layer.axis
        if not isinstance(signal, Signal) or signals_in(indices) or axis is None or axis % len(signal.shape) == signal.batch:
            return self.barrier(args, kwargs, shapes, "takes a part by the values of a tensor, or some of the examples")
        if reason := self.refusal(signal):
            return self.barrier(args, kwargs, shapes, reason)
        taken = np.array(ops.convert_to_numpy(indices)).astype("int64")
        axis = axis % len(signal.shape)
        more = taken.ndim - 1
        places = {own: own + (more if own > axis else 0) for own in range(len(signal.shape))}
        numbers = {}
        if axis in signal.followed:
            length = len(signal.followed[axis])
            if not taken.size or taken.min() < -length or taken.max() >= length:
                return self.barrier(args, kwargs, shapes, "takes none of the units, or more than there are")
            numbers[axis] = taken % length
        output = self.pick(signal, numbers, places, shapes[0])
        output.batch = places[signal.batch]
        return [output]

    def arguments(self, args, kwargs):
        if not self.picked or self.barred:
            return args, kwargs
        (axis,) = self.picked
        return (args[0] if args else kwargs["x"], self.numbers(axis).tolist()), {}


@rule_for("Unstack")
class UnstackRule(Rule):
    """Its outputs stay as many as they are; each has the other axes."""

    grids = anywhere = True

    def call(self, args, kwargs, shapes):
        signal = args[0]
        axis = self.layer.axis % len(signal.shape)
        if axis == signal.batch:
            return self.barrier(args, kwargs, shapes, "takes the examples apart")
        if axis in signal.followed:
            self.graph.pin(signal.followed[axis], self.name, "takes them apart", signal.constants_along(axis))
        outputs = []
        for number in range(len(shapes)):
            followed = {own - (own > axis): units for own, units in signal.followed.items() if own != axis}
            joint = signal.joint
            if axis in signal.followed:
                joint = joint.take(number, list(signal.followed).index(axis))
            outputs.append(Signal.of(shapes[number], followed, joint if followed else None))
            outputs[-1].batch = signal.batch - (signal.batch > axis)
        return outputs
