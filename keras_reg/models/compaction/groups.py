"""The same graph turned round: which slices of which weights have to go together for a unit to leave."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.units import FIXED
from keras_reg.weights import read


@dataclass(frozen=True, eq=False)
class WeightSlice:
    """A part of a weight: the entries at `indices` along `axis` (or along two axes that follow one another, as one).

    `produces` tells weights that make the unit's value, which zero makes zero, from those that only read it.
    """

    layer: str
    variable: keras.Variable
    axis: int | tuple[int, ...]
    indices: tuple[int, ...]
    produces: bool

    def values(self) -> np.ndarray:
        """The present values, the axis first."""
        return self._rows(np.array(read(self.variable)))[list(self.indices)]

    def _rows(self, values: np.ndarray) -> np.ndarray:
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        axes = [axis % values.ndim for axis in axes]
        moved = np.moveaxis(values, axes, range(len(axes)))
        return moved.reshape(-1, *moved.shape[len(axes) :]) if len(axes) > 1 else moved

    def mark(self, mask: np.ndarray) -> None:
        """Sets the entries of an array of the weight's shape."""
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        axes = [axis % mask.ndim for axis in axes]
        moved = np.moveaxis(mask, axes, range(len(axes)))
        moved[np.unravel_index(list(self.indices), moved.shape[: len(axes)])] = True


@dataclass(frozen=True, eq=False)
class StructuralGroup:
    """What goes together: the slices of weights, and the parameters and multiplications that their leaving frees."""

    slices: tuple[WeightSlice, ...]
    parameters: int
    macs: int

    def norm(self) -> float:
        """The Euclidean norm of the weights that produce the unit: at zero `compact` takes it out."""
        return float(np.sqrt(sum(np.sum(np.square(part.values(), dtype="float64")) for part in self.slices if part.produces)))

    def zero(self) -> None:
        """Sets the weights that produce the unit to zero, so that `compact` takes it out."""
        zero([self])

    def __str__(self) -> str:
        parts = ", ".join(f"{part.layer}/{part.variable.name}[{part.axis}: {_numbers(part.indices)}]" for part in self.slices)
        return f"{parts}: {self.parameters:,} parameters, {self.macs:,} MACs"

    __repr__ = __str__


def _numbers(indices: tuple[int, ...]) -> str:
    return ", ".join(map(str, indices[:4])) + (f", … ({len(indices)})" if len(indices) > 4 else "")


def groups(compaction: Compaction) -> list[StructuralGroup]:
    """All groups whose weights something produces, that no layer holds back, and that leave at zero."""
    graph = compaction.tracer.graph
    roots = graph.roots(bundled=True)
    held = np.zeros(len(roots), bool)
    held[roots[FIXED]] = True
    for pin in graph.pins:
        held[roots[pin.units]] = True
    for units in graph.never_empty:
        if len(own := set(roots[units.ravel()].tolist())) == 1:  # the one unit that some tensor has
            held[list(own)] = True
    slices: dict[int, list[WeightSlice]] = {}
    costs: dict[int, list[int]] = {}
    for rule in compaction.rules:
        for slot in rule.slots():
            if (variable := slot.variable(rule.layer)) is None:
                continue
            _parts(rule, slot, variable, roots, held, slices, costs)
        for units, each in rule.unit_macs():
            for root in roots[units].tolist():
                costs.setdefault(root, [0, 0])[1] += each
    found = [root for root, parts in slices.items() if any(part.produces for part in parts)]
    leaving = _leaving(compaction.model, {root: slices[root] for root in found}, roots)
    return [StructuralGroup(tuple(slices[root]), *costs[root]) for root in sorted(leaving)]


def _leaving(model: Any, slices: dict[int, list[WeightSlice]], roots: np.ndarray) -> set[int]:
    """Those of the groups that leave once what produces them is zero, and all else stays."""
    left = set(slices)
    while left:
        masks = {key: mask for key, (_, mask) in _masks([part for root in left for part in slices[root]]).items()}
        graph = Compaction(model, zeroed=masks).tracer.graph
        staying = graph.read_by_others(roots) & left
        if not staying:
            break
        left -= staying
    return left


def _parts(rule: Any, slot: Any, variable: Any, roots: Any, held: Any, slices: dict, costs: dict) -> None:
    size = int(np.prod(variable.shape))
    left: dict[int, float] = {}
    for axis, units in slot.axes.items():
        own = roots[units.ravel()]
        order = np.argsort(own, kind="stable")
        kinds, starts = np.unique(own[order], return_index=True)
        for root, indices in zip(kinds.tolist(), np.split(order, starts[1:]), strict=True):
            if held[root]:
                continue
            part = WeightSlice(rule.name, variable, axis, tuple(indices.tolist()), axis in slot.produces)
            slices.setdefault(root, []).append(part)
            left[root] = left.get(root, 1.0) * (1 - len(indices) / len(own))
    for root, share in left.items():
        freed = size - round(size * share)
        cost = costs.setdefault(root, [0, 0])
        cost[0] += freed
        cost[1] += freed * rule.positions.get(slot.path, 0)


def zero(chosen: list[StructuralGroup]) -> None:
    """Sets what produces these units to zero."""
    for variable, mask in _masks([part for group in chosen for part in group.slices]).values():
        variable.assign(ops.where(ops.convert_to_tensor(mask), ops.zeros_like(variable.value), variable.value))


def _masks(parts: list[WeightSlice]) -> dict[int, tuple[keras.Variable, np.ndarray]]:
    """The entries of weights that produce something, by the `id` of the weight."""
    masks: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for part in parts:
        if part.produces:
            _, mask = masks.setdefault(id(part.variable), (part.variable, np.zeros(part.variable.shape, bool)))
            part.mark(mask)
    return masks
