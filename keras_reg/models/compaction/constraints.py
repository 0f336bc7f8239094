"""Constraints on what is left of a model: so much stays as would have stayed, as the zeros that left were among those it asked for."""

import warnings
from typing import Any

import numpy as np
from keras import ops

from keras_reg.binding import present, structure_key
from keras_reg.ops.dtypes import widen
from keras_reg.ops.projections import number_of
from keras_reg.regularizers import L0Constraint, StructuralL0Constraint, Sum
from keras_reg.regularizers.costs import Table
from keras_reg.regularizers.sums import parts_of


def fitted(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Weights of the smaller model and the penalties they are to get.

    Args:
        pairs: Weights of the smaller model, each with the one that it was, which has a constraint.
    """
    current = [present(old.regularizer) for _, old in pairs]
    constraints = [constraint_of(penalty) for penalty in current]
    pools: dict[Any, list[int]] = {}
    for place, constraint in enumerate(constraints):
        if constraint is not None:
            pools.setdefault(place if constraint.pool is None else constraint.pool, []).append(place)
    made, lost = {}, []
    for places in pools.values():
        smaller = _smaller([constraints[place] for place in places], [pairs[place] for place in places])
        for place, constraint in zip(places, smaller, strict=True):
            made[place] = constraint
            if constraint is None:
                lost.append(f"{constraints[place]!r} of {pairs[place][0].path!r}")
    if lost:
        warnings.warn(
            f"What was cut has other blocks or patterns than before, so that the smaller model is without {', '.join(lost)}. Its zeros are "
            "kept by `Proximal(optimizer, keep_zeros=True)`.",
            stacklevel=4,
        )
    return [(new, _with(penalty, made.get(place))) for place, ((new, _), penalty) in enumerate(zip(pairs, current, strict=True))]


def constraint_of(penalty: Any) -> Any:
    """The `L0Constraint` in a penalty, if there is one; what reaches over several weights has done its part where units have left."""
    return next((part for part in parts_of(penalty) if isinstance(part, L0Constraint)), None)


def _smaller(constraints: list[Any], pairs: list[tuple[Any, Any]]) -> list[Any]:
    """The constraints of a pool on its weights as they are now."""
    same = [tuple(new.shape) == tuple(old.shape) for new, old in pairs]
    if all(same):
        return constraints
    one = constraints[0]
    if one.block_size is not None or one.n_of_m is not None:
        return [constraint if as_before else None for constraint, as_before in zip(constraints, same, strict=True)]
    before, after = (sum(one.units.number(tuple(weights[side].shape)) for weights in pairs) for side in (1, 0))
    alive = sum(int(np.count_nonzero(ops.convert_to_numpy(one.units.sizes(ops.absolute(widen(new.value)[0]))))) for new, _ in pairs)
    stay = min(alive, before - number_of(one.sparsity, before))
    sparsity = max(0.0, 1 - stay / after) if after else 0.0
    return [constraint.with_strength(sparsity) for constraint in constraints]


def fitted_budgets(model: Any, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The same for the budgets of structures: the parts that a smaller model gets, in which what has left is not to leave again."""
    from keras_reg.models.attachment.structural_parts import structural_parts  # which looks at the model by what is here

    structures: dict[Any, list[tuple[Any, Any]]] = {}
    for new, old in pairs:
        structures.setdefault(structure_key(old.regularizer), []).append((new, old))
    made = []
    for members in structures.values():
        current = [present(old.regularizer) for _, old in members]
        one = current[0]
        allowed = one.budget * Table.of(tuple(current), tuple(tuple(old.shape) for _, old in members)).total
        try:
            parts = structural_parts(model, StructuralL0Constraint(1.0, one.of, one.every, one.regrow), [new for new, _ in members])
        except ValueError:  # nothing can leave any more
            continue
        today = Table.of(tuple(part for _, part in parts), tuple(tuple(new.shape) for new, _ in parts)).total
        made += [(new, part.with_strength(min(1.0, allowed / today))) for new, part in parts]
    return made


def _with(penalty: Any, constraint: Any) -> Any:
    """The penalty with another constraint in it, or none."""
    if not isinstance(penalty, Sum):
        return constraint
    return Sum([part for part in [constraint, *penalty.penalties] if part is not None and part is not constraint_of(penalty)])
