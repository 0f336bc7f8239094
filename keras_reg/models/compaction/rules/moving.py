"""What pads, turns, repeats, stacks, splits, or takes parts of tensors: by its own axes the order of the units, by others nothing."""

import numbers

import numpy as np

from keras_reg.models.compaction.rule import Rule
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
    """Parts along the axis of the units keep their borders; along others they all have the same units."""

    parts_of_units: list[np.ndarray] | None = None

    def call(self, args, kwargs, shapes):
        signal = args[0]
        axis = self.layer.axis % len(signal.shape)
        if signal.axis is None:
            return [Signal(shape) for shape in shapes]
        if axis != signal.axis:
            return [signal.like(shape) for shape in shapes]
        bounds = np.cumsum([shape[axis] for shape in shapes])[:-1]
        units, constants = np.split(signal.units, bounds), np.split(signal.constants, bounds)
        if not all(len(part) for part in units):
            return self.barrier(args, kwargs, shapes, "gives parts without units")
        if self.parts_of_units is None:
            self.parts_of_units = units
        else:
            self.graph.unite(np.concatenate(units), np.concatenate(self.parts_of_units))
        return [Signal(*parts) for parts in zip(shapes, [axis] * len(shapes), units, constants, strict=True)]

    def held(self):
        return self.parts_of_units or []

    def rebuild(self):
        if self.parts_of_units is None:
            return super().rebuild()
        bounds = np.cumsum([self.width(units) for units in self.parts_of_units])[:-1]
        return type(self.layer)(bounds.tolist(), axis=self.layer.axis, name=self.layer.name)


@rule_for("GetItem")
class SliceRule(Rule):
    """Slices and numbers along other axes than that of the units; along theirs slices that leave nothing out within."""

    # By the first call: the place of the units' axis in the key, the units before the part, and those of it.
    part: tuple[int, np.ndarray, np.ndarray] | None = None

    def call(self, args, kwargs, shapes):
        signal, key = args[0], args[1]
        if not isinstance(signal, Signal) or signal.axis is None or (key := _whole(key, len(signal.shape))) is None:
            return self.barrier(args, kwargs, shapes, "takes a part by something else than slices")
        taken = key[signal.axis]
        if not (isinstance(taken, slice) and isinstance(key[0], slice)) or not _plain(taken):
            return self.barrier(args, kwargs, shapes, "takes a part of the units")
        axis = sum(isinstance(item, slice) for item in key[: signal.axis])
        units, constants = signal.units[taken], signal.constants[taken]
        if taken != slice(None):
            start = taken.indices(len(signal.units))[0]
            if not len(units):
                return self.barrier(args, kwargs, shapes, "takes none of the units")
            if self.part is None:
                self.part = (signal.axis, signal.units[:start], units)
            else:
                self.graph.unite(np.concatenate([signal.units[:start], units]), np.concatenate(self.part[1:]))
        return [Signal(shapes[0], axis, units, constants)]

    def held(self):
        return [] if self.part is None else list(self.part[1:])

    def arguments(self, args, kwargs):
        if self.part is None or self.barred:
            return args, kwargs
        axis, before, units = self.part
        key = _whole(args[1] if len(args) > 1 else kwargs["key"], len(args[0].shape))
        start = self.width(before)
        key[axis] = slice(start, start + self.width(units))
        return (args[0], tuple(key)), {}


def _plain(part: slice) -> bool:
    """Whether it is a run of neighbours."""
    bounds = (part.start, part.stop)
    return part.step in (None, 1) and all(bound is None or isinstance(bound, numbers.Integral) for bound in bounds)


def _whole(key, rank: int) -> list | None:
    """The key with an entry for each axis; `None` if others than numbers and slices are in it."""
    key = list(key) if isinstance(key, tuple) else [key]
    if any(not (isinstance(item, (int, slice)) or item is Ellipsis) for item in key):
        return None
    if any(item is Ellipsis for item in key):
        place = next(number for number, item in enumerate(key) if item is Ellipsis)
        key[place : place + 1] = [slice(None)] * (rank - len(key) + 1)
    return key + [slice(None)] * (rank - len(key))
