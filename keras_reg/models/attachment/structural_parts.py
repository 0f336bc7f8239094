"""The parts of a structural group lasso for the weights of a model: one for each that has to be zero where a unit leaves."""

from typing import Any

import numpy as np

from keras_reg.models.compaction.groups import StructuralGroup, WeightSlice
from keras_reg.regularizers import StructuralGroupLasso


def structural_parts(
    groups: list[StructuralGroup], penalty: StructuralGroupLasso, allowed: list[Any]
) -> list[tuple[Any, StructuralGroupLasso]]:
    """The weights that the groups reach, each with its part.

    Args:
        groups: The groups of the model.
        penalty: What they are to get.
        allowed: The weights that may be penalised; a group that reaches beyond them is left out, as it could not leave.
    """
    ids = {id(variable) for variable in allowed}
    members = [[part for part in group.slices if part.produces and _learns(part)] for group in groups]
    kept = [(group, parts) for group, parts in zip(groups, members, strict=True) if parts and all(id(p.variable) in ids for p in parts)]
    if not kept:
        raise ValueError(
            "No unit of the model can leave by these weights: all that make it have to be selected and trainable. `structural_groups` "
            "lists them, and `compaction_plan` names the layers that hold units back."
        )
    costs = np.array([getattr(group, penalty.cost) if penalty.cost else 1.0 for group, _ in kept])
    # Where no group frees anything they differ in nothing.
    costs = costs / costs.mean() if costs.mean() > 0 else np.ones(len(kept))
    parts = []
    for family in _families([parts for _, parts in kept]):
        parts += _family_parts([(kept[index][1], costs[index]) for index in family], penalty)
    return parts


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
        own_part = StructuralGroupLasso(penalty.strength, penalty.cost, structure, part.axis, groups_along, weight, penalty.proximal)
        made.append((part.variable, own_part))
    return made


def _length(part: WeightSlice) -> int:
    axes = part.axis if isinstance(part.axis, tuple) else (part.axis,)
    return int(np.prod([part.variable.shape[axis] for axis in axes]))
