"""A budget for a whole model: the units that are worth most for what they cost stay, the others become zero."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from keras_reg._registration import register
from keras_reg._validation import greater_than, one_of, whole_number
from keras_reg.ops.projections import magnitudes
from keras_reg.regularizers.constraint import Constraint
from keras_reg.regularizers.costs import Table, checked_costs
from keras_reg.regularizers.part import Part

BUDGETS = ("macs", "parameters", "units")


@register
class StructuralL0Constraint(Part, Constraint):
    """At most the share `budget` of what a model costs is left: units that are worth least for what they cost are zero.

    `keras_reg.models.attach(model, StructuralL0Constraint(0.3))` finds the groups in the graph of the model (`structural_groups`) and gives
    each of its weights a part. Under `Proximal` groups become zero as a whole, those of least importance for their cost first, until the
    budget of the whole model is met, exact to one group; `compact` takes their units out. What is left of the costs is exact where
    several units leave: a kernel costs the product of the inputs and outputs that are left. One unit stays in every layer.

    The importance of a group is the sum of `w**2 / step` over its weights in the optimizer's own metric, an estimate of what its leaving
    does to the loss; with SGD, or `metric="euclidean"`, the sum of `w**2` relative to the mean over the groups of its layer.

    The budget moves as the strength of a penalty does, without compiling anew:
    `StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(1.0, 1000, 0.3, power=3))`.

    Args:
        budget: Which share of today's costs may be left: above 0, up to 1.
        of: What costs: `"macs"` (default), the multiplications for one example; `"parameters"`; `"units"`, each group one.
        every: The choice is made at each so-manieth update, as in `L0Constraint`.
        regrow: Whether groups that are zero may come back where a choice is made, as in `L0Constraint`.
        structure, part, axis, groups, first, costs: Set by `attach`. The name that the parts share, and the number of this one; the axis
            (or axes that follow one another) whose entries belong to groups; for each entry along it the number of its group, -1 for none
            (`None`: the numbers from `first`); and what the groups of the model cost.

    Raises:
        ValueError: by `attach`, where no unit can leave, or not enough of them: with the smallest budget that can be met.

    Example:

    >>> import keras
    >>> from keras_reg.models import attach, compaction_plan
    >>> from keras_reg.optimizers import Proximal
    >>> from keras_reg.regularizers import StructuralL0Constraint
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
    >>> attached = attach(model, StructuralL0Constraint(0.5))
    >>> model.compile(Proximal("adam"), "mse")
    >>> history = model.fit(keras.random.normal((32, 8)), keras.random.normal((32, 1)), verbose=0)
    >>> compaction_plan(model).total.macs
    (144, 72)
    """

    strength_names = ("budget",)
    idle = 1.0

    def __init__(
        self,
        budget: float,
        of: str = "macs",
        every: int = 1,
        regrow: bool = True,
        structure: str | None = None,
        part: int | None = None,
        axis: int | tuple[int, ...] = -1,
        groups: Sequence[int] | None = None,
        first: int = 0,
        costs: Mapping[str, Any] | None = None,
    ):
        super().__init__(every, regrow)
        self.budget = _checked_budget(budget)
        self.of = one_of(of, BUDGETS, "of")
        self.place(structure, part, axis, groups)
        self.first = whole_number(first, "first", at_least=0)
        self.costs = None if costs is None else checked_costs(costs)

    @property
    def strength(self) -> float:
        return self.budget

    def with_strength(self, strength: float) -> "StructuralL0Constraint":
        # The rest of a large config has been checked.
        made = copy.copy(self)
        made.budget = _checked_budget(strength)
        return made

    def joint_total(self, parts: Sequence[Constraint], tensors: Sequence[Any]) -> Any:
        del parts
        return ops.zeros((), tensors[0].dtype)

    def dropped(self, parts: Sequence[Constraint], tensors: Sequence[Any], steps: Sequence[Any]) -> list[Any]:
        table = Table.of(tuple(parts), tuple(tuple(w.shape) for w in tensors))
        if not table.number:
            return [ops.zeros(w.shape, "bool") for w in tensors]
        in_metric = any(len(getattr(step, "shape", ())) for step in steps)
        squares = [ops.square(magnitudes(w, step)) for w, step in zip(tensors, steps, strict=True)]
        drop = table.dropped(table.importance(parts, squares), self.budget, relative=not in_metric)
        return [part.spread(ops.cast(drop, w.dtype), tuple(w.shape)) > 0 for part, w in zip(parts, tensors, strict=True)]

    def get_config(self) -> dict:
        return {
            "budget": self.budget,
            "of": self.of,
            **self.place_config(),
            "first": self.first,
            "costs": self.costs,
            **super().get_config(),
        }

    def __repr__(self) -> str:
        of = "" if self.of == "macs" else f", of={self.of!r}"
        part = "" if self.structure is None else f", structure={self.structure!r}, axis={self.axis}"
        return f"{type(self).__name__}({self.budget!r}{of}{part})"


def _checked_budget(budget: Any) -> float:
    budget = greater_than(budget, 0, "budget")
    if budget > 1:
        raise ValueError(f"Argument `budget` must be a share of today's costs, above 0 and up to 1. Received: budget={budget}")
    return budget
