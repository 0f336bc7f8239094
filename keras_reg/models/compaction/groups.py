"""The same graph turned round: which slices of which weights have to go together for a unit to leave."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.slots import resolve
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
    return list(by_root(compaction, compaction.tracer.graph.roots(bundled=True)).values())


def by_root(compaction: Compaction, roots: np.ndarray) -> dict[int, StructuralGroup]:
    """The groups by the units that stand for theirs."""
    graph = compaction.tracer.graph
    slices, costs = _collected(compaction, roots, graph.held(roots))
    found = [root for root, parts in slices.items() if any(part.produces for part in parts)]
    leaving = _leaving(compaction.model, {root: slices[root] for root in found}, roots)
    return {root: StructuralGroup(tuple(slices[root]), *costs[root]) for root in sorted(leaving)}


def unit_costs(compaction: Compaction, names: np.ndarray) -> dict[int, list[int]]:
    """How many parameters and multiplications the leaving of units of one name would free, whether or not they may leave."""
    return _collected(compaction, names, np.arange(len(names)) == FIXED)[1]


def _collected(compaction: Compaction, roots: np.ndarray, held: np.ndarray) -> tuple[dict, dict]:
    """The slices of weights, and the costs, of all units but those that are held."""
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
    return slices, costs


@dataclass(frozen=True)
class Factor:
    """What a weight costs, or what else is multiplied: the product of the lengths of its axes, so many times.

    Attributes:
        parameters: 1 where it is counted as a weight.
        macs: How often each of its entries multiplies.
        axes: For each axis the unit that stands for those of each entry.
    """

    parameters: int
    macs: int
    axes: tuple[np.ndarray, ...]


def factors(compaction: Compaction, roots: np.ndarray) -> list[Factor]:
    """All that a model costs: what is left of it where units leave is exact."""
    found, counted = [], set()
    for rule in compaction.rules:
        slots = {id(slot.variable(rule.layer)): slot for slot in rule.slots()}
        for variable in rule.owned():
            slot = slots.get(id(variable))
            positions = rule.positions.get(slot.path, 0) if slot is not None else 0
            parameters = int(id(variable) not in counted)
            counted.add(id(variable))
            found.append(Factor(parameters, positions, _roots_along(variable, slot, roots)))
        owned = {id(variable) for variable in rule.owned()}
        for path, positions in rule.positions.items():  # what is multiplied by and owned by none, or has no slot
            variable = resolve(rule.layer, path)
            if id(variable) not in owned or id(variable) not in slots:
                found.append(Factor(0, positions, _roots_along(variable, slots.get(id(variable)), roots)))
        found += [Factor(0, each, (roots[units.ravel()],)) for units, each in rule.unit_macs()]
    return found


def _roots_along(variable: Any, slot: Any, roots: np.ndarray) -> tuple[np.ndarray, ...]:
    along = {} if slot is None else {axis: roots[units.ravel()] for axis, units in slot.axes.items()}
    rank = len(variable.shape)
    taken = {axis % rank for axes in along for axis in ((axes,) if isinstance(axes, int) else axes)}
    rest = math.prod([length for axis, length in enumerate(variable.shape) if axis not in taken])
    return (*along.values(), np.full(rest, roots[FIXED]))


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
