"""What is known of a tensor in the graph: the axes that its units index, and which of them are constant."""

from collections.abc import Callable

import numpy as np

from keras_reg.models.compaction.units import FIXED, Units


class Signal:
    """A tensor of the model.

    Most have units along one axis. Where one was spread over several, as heads and their dimensions are, `followed` has them all, and
    `axis`, `units` and `constants` are those of the first: all that a rule sees that is not for `grids`.

    Args:
        shape: Its shape, the batch first; `None` for unknown lengths.
        axis: The axis that its units index, counted from the front, or `None` if no axis can be followed.
        units: The units along that axis.
        constants: For each of them the value that it has at every position and for every input, NaN where there is none.
    """

    # That of the tensor; the tracer sets it.
    dtype = "float32"
    # The axis of the examples.
    batch = 0

    def __init__(self, shape: tuple, axis: int | None = None, units: np.ndarray | None = None, constants: np.ndarray | None = None):
        self.shape = tuple(shape)
        self.followed: dict[int, np.ndarray] = {} if axis is None else {axis: units}
        # Those of all axes together, in their order.
        self.joint: np.ndarray | None = None
        if axis is not None:
            self.joint = np.full(len(units), np.nan) if constants is None else constants
        self._check()

    @classmethod
    def of(cls, shape: tuple, followed: dict[int, np.ndarray], joint: np.ndarray | None = None) -> "Signal":
        """A tensor with units along any number of axes; the constants of all of these together, in the order of the axes."""
        signal = cls(shape)
        signal.followed = dict(sorted(followed.items()))
        if followed:
            signal.joint = np.full([len(units) for units in signal.followed.values()], np.nan) if joint is None else joint
        signal._check()
        return signal

    def _check(self) -> None:
        for axis, units in self.followed.items():
            if self.shape[axis] != len(units):
                raise AssertionError(f"{len(units)} units for axis {axis} of shape {self.shape}")

    @property
    def axis(self) -> int | None:
        return next(iter(self.followed), None)

    @property
    def units(self) -> np.ndarray | None:
        return next(iter(self.followed.values()), None)

    @property
    def constants(self) -> np.ndarray | None:
        return None if self.axis is None else self.constants_along(self.axis)

    @constants.setter
    def constants(self, values: np.ndarray) -> None:
        if len(self.followed) != 1:
            raise AssertionError(f"constants of one axis for {len(self.followed)}")
        self.joint = values

    def constants_along(self, axis: int) -> np.ndarray:
        """For each unit of an axis what it is everywhere, NaN where that is not the same."""
        if len(self.followed) == 1:
            return self.joint
        rows = np.moveaxis(self.joint, list(self.followed).index(axis), 0).reshape(len(self.followed[axis]), -1)
        return np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)

    def pin(self, graph: Units, layer: str, reason: str, but: int | None = None) -> None:
        """All units of this tensor stay, `but` those of one axis."""
        for axis, units in self.followed.items():
            if axis != but:
                graph.pin(units, layer, reason, self.constants_along(axis))

    def along(self, axis: int, graph: Units, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """The units and constants along an axis, fixed ones if it is not followed; those along all others are pinned."""
        axis = axis % len(self.shape)
        for other in self.followed:
            if other != axis:
                reason = f"works along axis {axis} of a tensor whose units are along axis {other}"
                graph.pin(self.followed[other], layer, reason, self.constants_along(other))
        if axis in self.followed:
            return self.followed[axis], self.constants_along(axis)
        if self.shape[axis] is None:
            raise AssertionError(f"axis {axis} of {self.shape} has no fixed length")
        return np.full(self.shape[axis], FIXED), np.full(self.shape[axis], np.nan)

    def like(self, shape: tuple, axis: int | None = None, constants: np.ndarray | None = None) -> "Signal":
        """The same units in another tensor: of one axis alone, if it is said where that is now, or what is constant."""
        if axis is None and constants is None:
            return Signal.of(shape, self.followed, self.joint)
        if self.axis is None:
            return Signal(shape)
        if len(self.followed) > 1:
            raise AssertionError("one axis is not all that is followed")
        return Signal(shape, self.axis if axis is None else axis, self.units, self.constants if constants is None else constants)

    def mapped(self, shape: tuple, function: Callable[[np.ndarray], np.ndarray]) -> "Signal":
        """The same units where something is done to each entry: to constants, too."""
        if self.axis is None:
            return Signal(shape)
        return Signal.of(shape, self.followed, function(self.joint.ravel()).reshape(self.joint.shape))

    def moved(self, shape: tuple, axes: dict[int, int]) -> "Signal":
        """The same with its axes in other places: the new ones by the old."""
        places = sorted(self.followed, key=axes.__getitem__)
        joint = None if self.axis is None else self.joint.transpose([list(self.followed).index(axis) for axis in places])
        return Signal.of(shape, {axes[axis]: self.followed[axis] for axis in places}, joint)

    def only(self, axes: list[int], graph: Units, layer: str, reason: str) -> "Signal":
        """Followed along these axes alone: the units of the others are pinned."""
        lost = [axis for axis in self.followed if axis not in axes]
        for axis in lost:
            graph.pin(self.followed[axis], layer, reason, self.constants_along(axis))
        if not lost:
            return self
        kept = {axis: units for axis, units in self.followed.items() if axis in axes}
        order = [list(self.followed).index(axis) for axis in (*kept, *lost)]
        rows = self.joint.transpose(order).reshape(*[len(units) for units in kept.values()], -1)
        signal = Signal.of(self.shape, kept, np.where((rows == rows[..., :1]).all(-1), rows[..., 0], np.nan) if kept else None)
        signal.dtype, signal.batch = self.dtype, self.batch
        return signal
