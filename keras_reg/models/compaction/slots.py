"""Weights and their units: which axes units index, and what a weight reads and produces."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_reg.models.compaction.units import Read, Units


def resolve(layer: Any, path: str) -> Any:
    """What is at a path of attributes, and of numbers for members of lists."""
    for part in path.split("."):
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return layer


@dataclass
class Slot:
    """A weight of a layer and the units along its axes.

    Args:
        path: The attribute of the layer, as `"kernel"` or `"cell.bias"`.
        axes: By axis, or by several that follow one another, the units that index it, in the shape of these axes.
        produces: Those of the axes whose units this weight produces; the others read theirs.
        finish: What is done to the values once they are cut: an addend, a factor.
    """

    path: str
    axes: dict[int | tuple[int, ...], np.ndarray]
    produces: tuple = ()
    finish: Callable[[np.ndarray], np.ndarray] | None = None

    def variable(self, layer: Any) -> keras.Variable | None:
        return resolve(layer, self.path)

    def cut(self, values: np.ndarray, graph: Units) -> np.ndarray:
        """What is left of an array of this weight's shape, such as its values or its momenta."""
        for axis, units in self.axes.items():
            kept = graph.kept(units)
            if kept.ndim == 1:
                values = np.compress(kept, values, axis)
            else:
                rows = kept.any(1)
                shape = list(values.shape)
                shape[axis[0]], shape[axis[1]] = rows.sum(), kept[rows].sum(1)[0]
                merged = values.reshape((*values.shape[: axis[0]], kept.size, *values.shape[axis[1] + 1 :]))
                values = np.compress(kept.ravel(), merged, axis[0]).reshape(shape)
        return values


@dataclass
class Matrix:
    """A weight that reads units and produces others: output `j` is the sum over taps and inputs `i` of `array[:, i, j]` times input `i`.

    Args:
        graph: The units of the model.
        inputs: The units that it reads.
        outputs: The units that it produces.
        array: The weight, as `(taps, inputs, outputs)`.
        reach: Where it is not zero, if that is not where `array` is not.
    """

    graph: Units
    inputs: np.ndarray
    outputs: np.ndarray
    array: np.ndarray
    reach: np.ndarray | None = None
    constants: np.ndarray | None = field(default=None, init=False)
    exact: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self):
        self._uses = None
        # Zero times infinity is not zero.
        self._finite = np.isfinite(self.array).all((0, 2))
        self.graph.reads.append(Read(self.inputs, self.outputs, self.uses, self.replaceable))

    def uses(self) -> np.ndarray:
        """What each output needs; in a trial of what leaves at zero, everything."""
        return np.ones(self.array.shape[1:], bool) if self.graph.trial else self._reached()

    def _reached(self) -> np.ndarray:
        if self._uses is None:
            self._uses = (self.array != 0).any(0) if self.reach is None else self.reach
        return self._uses

    def feed(self, units: np.ndarray, constants: np.ndarray, exact: bool) -> np.ndarray:
        """Notes a call on these units and returns what their constants add to each output, NaN where it is not constant.

        `exact` says whether a constant input adds the same to the output at every position.
        """
        if units is not self.inputs:
            self.graph.unite(units, self.inputs)
        takes = np.isfinite(constants) & (exact | (constants == 0)) & self._finite
        if self.constants is None:
            self.constants, self.exact = constants, takes
        else:
            self.constants = np.where(self.constants == constants, constants, np.nan)
            self.exact = self.exact & takes & np.isfinite(self.constants)
        total = self._total(constants, takes)
        # In a trial all groups are zero at once, but each has to leave alone: then the others are no constants.
        read = self._reached() if self.graph.trial else self._reached()[~takes]
        return np.where(read.any(0), np.nan, total)

    def replaceable(self) -> np.ndarray:
        return self.exact if self.exact is not None else np.zeros(len(self.inputs), bool)

    def stuck(self) -> np.ndarray:
        """Constants that cannot be folded: the border of a padded convolution does not see them."""
        return np.isfinite(self.constants) & ~self.exact

    def _total(self, constants: np.ndarray, which: np.ndarray) -> np.ndarray:
        rows = which & (np.nan_to_num(constants) != 0)
        sums = self.array[:, rows].astype("float64").sum(0)
        return constants[rows] @ sums if rows.any() else np.zeros(self.array.shape[2])

    def addend(self) -> np.ndarray:
        """After `mark`: what the bias of each output has to take over from the inputs that went."""
        return self._total(self.constants, self.exact & ~self.graph.kept(self.inputs))
