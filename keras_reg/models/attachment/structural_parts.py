"""The parts of a structural penalty or constraint for the weights of a model: one for each that has to be zero where a unit leaves."""

import itertools
import math
from typing import Any

import numpy as np
from keras import ops

from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.groups import StructuralGroup, WeightSlice, by_root, factors
from keras_reg.regularizers import StructuralGroupLasso, StructuralL0Constraint
from keras_reg.regularizers.costs import smallest_share
from keras_reg.regularizers.part import Part
from keras_reg.weights import read


def structural_parts(model: Any, penalty: Part, allowed: list[Any]) -> list[tuple[Any, Part]]:
    """The weights that the groups of a model reach, each with its part.

    Args:
        model: The model.
        penalty: What they are to get.
        allowed: The weights that may be penalised; a group that reaches beyond them is left out, as it could not leave.
    """
    compaction, ids = Compaction(model), {id(variable) for variable in allowed}
    roots = compaction.tracer.graph.roots(bundled=True)
    groups = by_root(compaction, roots)
    members = {root: [part for part in group.slices if part.produces and _learns(part)] for root, group in groups.items()}
    kept = {root: parts for root, parts in members.items() if parts and all(id(part.variable) in ids for part in parts)}
    if not kept:
        raise ValueError(
            "No unit of the model can leave by these weights: all that make it have to be selected and trainable. `structural_groups` "
            "lists them, and `compaction_plan` names the layers that hold units back."
        )
    found = list(kept)
    families = [[found[index] for index in family] for family in _families(list(kept.values()))]
    if isinstance(penalty, StructuralL0Constraint):
        return _constraint_parts(compaction, roots, kept, families, penalty)
    return _lasso_parts(groups, kept, families, penalty)


def _lasso_parts(
    groups: dict[int, StructuralGroup], kept: dict[int, list[WeightSlice]], families: list[list[int]], penalty: StructuralGroupLasso
) -> list[tuple[Any, StructuralGroupLasso]]:
    costs = {root: getattr(groups[root], penalty.cost) if penalty.cost else 1.0 for root in kept}
    mean = sum(costs.values()) / len(costs)
    parts = []
    for family in families:
        # Where no group frees anything they differ in nothing.
        parts += _family_parts([(kept[root], costs[root] / mean if mean > 0 else 1.0) for root in family], penalty)
    return parts


def _constraint_parts(
    compaction: Compaction,
    roots: np.ndarray,
    kept: dict[int, list[WeightSlice]],
    families: list[list[int]],
    penalty: StructuralL0Constraint,
) -> list[tuple[Any, StructuralL0Constraint]]:
    """The parts of one structure over the whole model, each with the costs of all, as a part may be frozen or taken off."""
    numbers = {root: number for number, root in enumerate(itertools.chain(*families))}
    rest, terms = 0, {}
    for factor in factors(compaction, roots):
        number = 0 if penalty.of == "units" else getattr(factor, penalty.of)
        axes = [[len(own), _runs(np.array([numbers.get(root, -1) for root in own.tolist()]))] for own in factor.axes]
        number *= math.prod(length for length, runs in axes if not runs)
        axes = sorted(axis for axis in axes if axis[1])
        if axes and number:  # many weights have the same axes
            terms.setdefault(str(axes), [0, axes])[0] += number
        else:
            rest += number
    if penalty.of == "units":
        terms = {"": [1, [[len(numbers), [[0, len(numbers), 1]]]]]}
    members = np.array([len({id(part.variable) for part in kept[root]}) for root in numbers])
    costs = {
        "rest": rest,
        "terms": list(terms.values()),
        "members": _runs(np.repeat(np.arange(len(members)), members)),
        "families": _runs(np.repeat(np.arange(len(members)), np.repeat(np.arange(len(families)), [len(f) for f in families]) + 1)),
    }
    parts, name = [], min(part.variable.path for own in kept.values() for part in own)
    for family in families:
        variables = {id(part.variable): part for root in family for part in kept[root]}
        along = {key: np.full(_length(part), -1) for key, part in variables.items()}
        for root in family:
            for part in kept[root]:
                along[id(part.variable)][list(part.indices)] = numbers[root]
        for key, part in variables.items():
            own = along[key]
            consecutive = own[0] >= 0 and np.array_equal(own, own[0] + np.arange(len(own)))
            made = {
                "structure": name,
                "part": len(parts),
                "axis": part.axis,
                "groups": None if consecutive else own.tolist(),
                "first": int(own[0]) if consecutive else 0,
                "costs": costs,
            }
            parts.append((part.variable, StructuralL0Constraint(**{**penalty.get_config(), **made})))
    _check_budget(parts, penalty)
    return parts


def _runs(numbers: np.ndarray) -> list[list[int]]:
    """The groups along an axis as runs: from the first to before the last, each with so many entries."""
    groups, entries = np.unique(numbers[numbers >= 0], return_counts=True)
    starts = [0, *(np.flatnonzero((np.diff(groups) != 1) | (np.diff(entries) != 0)) + 1).tolist()] if len(groups) else []
    ends = [*starts[1:], len(groups)]
    return [[int(groups[a]), int(groups[b - 1]) + 1, int(entries[a])] for a, b in zip(starts, ends, strict=False)]


def _check_budget(parts: list[tuple[Any, StructuralL0Constraint]], penalty: StructuralL0Constraint) -> None:
    """Raise where the budget cannot be met with the units that would stay now."""
    smallest = smallest_share([part for _, part in parts], [ops.convert_to_tensor(np.array(read(v), "float32")) for v, _ in parts])
    if smallest > penalty.budget:
        raise ValueError(
            f"Argument `budget` must be at least {smallest:.4g} for this model: that is left of its {penalty.of} where all units leave "
            "that may, but one in each layer. `compaction_plan` names the layers that hold units back. "
            f"Received: budget={penalty.budget}"
        )


def _learns(part: WeightSlice) -> bool:
    """Statistics follow the weights."""
    return not part.variable.name.startswith("moving_")


def _families(groups: list[list[WeightSlice]]) -> list[list[int]]:
    """Groups that share a weight, directly or through others, come together."""
    family_of: dict[int, int] = {}
    families: dict[int, list[int]] = {}
    for index, parts in enumerate(groups):
        touched = {family_of[id(part.variable)] for part in parts if id(part.variable) in family_of}
        number = min(touched, default=index)
        merged = [one for old in sorted(touched) for one in families.pop(old)]
        families[number] = [*merged, index]
        for member in families[number]:
            for part in groups[member]:
                family_of[id(part.variable)] = number
    return list(families.values())


def _family_parts(groups: list[tuple[list[WeightSlice], float]], penalty: StructuralGroupLasso) -> list[tuple[Any, StructuralGroupLasso]]:
    variables = {id(part.variable): part for parts, _ in groups for part in parts}
    numbers = {key: np.full(_length(part), -1) for key, part in variables.items()}
    weights = np.zeros(len(groups))
    for number, (parts, cost) in enumerate(groups):
        size = 0
        for part in parts:
            numbers[id(part.variable)][list(part.indices)] = number
            size += np.prod(part.variable.shape) // _length(part) * len(part.indices)
        weights[number] = np.sqrt(size) * cost
    structure = min(part.variable.path for part in variables.values())
    made = []
    for key, part in variables.items():
        own = numbers[key]
        spread = np.where(own < 0, 0.0, weights[own])
        groups_along = None if np.array_equal(own, np.arange(len(own))) else own.tolist()
        weight = float(spread[0]) if (spread == spread[0]).all() else spread.tolist()
        place = {"structure": structure, "part": len(made), "axis": part.axis, "groups": groups_along, "weights": weight}
        made.append((part.variable, StructuralGroupLasso(**{**penalty.get_config(), **place})))
    return made


def _length(part: WeightSlice) -> int:
    axes = part.axis if isinstance(part.axis, tuple) else (part.axis,)
    return int(np.prod([part.variable.shape[axis] for axis in axes]))
