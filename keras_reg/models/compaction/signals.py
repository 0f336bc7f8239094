"""What is known of a tensor in the graph: the axis that its units index, and which of them are constant."""

import numpy as np

from keras_reg.models.compaction.units import FIXED, Units


class Signal:
    """A tensor of the model.

    Args:
        shape: Its shape, the batch first; `None` for unknown lengths.
        axis: The axis that its units index, counted from the front, or `None` if no axis can be followed.
        units: The units along that axis.
        constants: For each of them the value that it has at every position and for every input, NaN where there is none.
    """

    # That of the tensor; the tracer sets it.
    dtype = "float32"

    def __init__(self, shape: tuple, axis: int | None = None, units: np.ndarray | None = None, constants: np.ndarray | None = None):
        self.shape = tuple(shape)
        self.axis = axis
        self.units = units
        self.constants = np.full(len(units), np.nan) if constants is None and units is not None else constants
        if axis is not None and self.shape[axis] != len(units):
            raise AssertionError(f"{len(units)} units for axis {axis} of shape {self.shape}")

    def pin(self, graph: Units, layer: str, reason: str) -> None:
        """All units of this tensor stay."""
        if self.axis is not None:
            graph.pin(self.units, layer, reason, self.constants)

    def along(self, axis: int, graph: Units, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """The units and constants along an axis; fixed ones, and all others pinned, if it is not the one that is followed."""
        axis = axis % len(self.shape)
        if axis == self.axis:
            return self.units, self.constants
        self.pin(graph, layer, f"works along axis {axis} of a tensor whose units are along axis {self.axis}")
        if self.shape[axis] is None:
            raise AssertionError(f"axis {axis} of {self.shape} has no fixed length")
        return np.full(self.shape[axis], FIXED), np.full(self.shape[axis], np.nan)

    def like(self, shape: tuple, axis: int | None = None, constants: np.ndarray | None = None) -> "Signal":
        """The same units in another tensor."""
        if self.axis is None:
            return Signal(shape)
        return Signal(shape, self.axis if axis is None else axis, self.units, self.constants if constants is None else constants)
