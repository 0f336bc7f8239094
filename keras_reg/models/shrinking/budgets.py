"""The budgets of `shrink`, and whether a model can be cut down to them."""

from typing import Any

import numpy as np
from keras import ops

from keras_reg._validation import greater_than, non_negative
from keras_reg.models.attachment.structural_parts import structural_parts
from keras_reg.models.compaction.compact import compaction_plan, structural_groups
from keras_reg.regularizers import StructuralL0Constraint
from keras_reg.regularizers.costs import smallest_share
from keras_reg.weights import read

WALK = 0.7
"""With `metric_drop` each budget is this share of the one before."""


def budgets_of(given: dict[str, Any], metric_drop: Any, validation_data: Any) -> tuple[str, list[float]]:
    """Of what, and the budgets that are tried one after the other."""
    chosen = [name for name, value in {**given, "metric_drop": metric_drop}.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(
            "Exactly one of the arguments `macs`, `parameters`, `units` and `metric_drop` must be given. "
            f"Received: {', '.join(chosen) or 'none of them'}"
        )
    if metric_drop is not None:
        non_negative(metric_drop, "metric_drop")
        if validation_data is None:
            raise ValueError("Argument `metric_drop` needs `validation_data`, on which it is measured. Received: validation_data=None")
        return "macs", [WALK**number for number in range(1, 40)]
    (of,) = chosen
    budget = greater_than(given[of], 0, of)
    if budget > 1:
        raise ValueError(f"Argument `{of}` must be a share of what the model has today, above 0 and up to 1. Received: {of}={budget}")
    return of, [budget]


def check_smallest(model: Any, of: str, budget: float, argument: str, full: float) -> None:
    """Raise where a budget, as a number, cannot be met."""
    try:
        least = _smallest(model, of)
    except ValueError as error:
        raise ValueError(f"{error}{_blockers(model)}") from None
    if least > budget:
        raise ValueError(
            f"Argument `{argument}` cannot be met: at least {least / full:.4g} of the {of} are left of this model where all units leave "
            f"that may, but one in each layer.{_blockers(model)} Received: {argument} with a budget of {budget / full:.4g} of the {of}"
        )


def can_be_met(model: Any, of: str, budget: float) -> bool:
    try:
        return _smallest(model, of) <= budget
    except ValueError:  # nothing can leave any more
        return False


def _smallest(model: Any, of: str) -> float:
    """How much is left where all units leave that may."""
    pairs = structural_parts(model, StructuralL0Constraint(1.0, of), model.trainable_variables)
    share = smallest_share([part for _, part in pairs], [ops.convert_to_tensor(np.array(read(v), "float32")) for v, _ in pairs])
    return share * cost(model, of)


def _blockers(model: Any) -> str:
    return "".join(f" {blocker.layer} keeps {blocker.width} units: {blocker.reason}." for blocker in compaction_plan(model).blockers)


def cost(model: Any, of: str) -> int:
    return len(structural_groups(model)) if of == "units" else getattr(compaction_plan(model).total, of)[0]
