"""What the penalties of a model are now, and how many of its weights are zero: the one place that adds up and counts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.binding import is_record, join
from keras_reg.contract import is_penalty, structure_of
from keras_reg.ops.counts import Counts, count
from keras_reg.ops.dtypes import widen
from keras_reg.regularizers.sums import parts_of
from keras_reg.weights import group_axis, read

Values = Mapping[int, np.ndarray] | None


def penalties(model: Any) -> dict[int, float]:
    """What each weight adds to the loss, by `id` of the variable.

    Weights without a penalty add nothing, nor do frozen ones, as Keras counts trainable weights alone. Of a structure that reaches over
    several weights the first has the penalty of all, and the others 0, as in `model.losses`.
    """
    join(model.trainable_variables)
    return {id(v): _penalty(v, v.regularizer) for v in model.trainable_variables if v.regularizer is not None}


def by_class(model: Any, penalties: Mapping[int, float]) -> dict[str, float]:
    """What weights add to the loss, added up for each class of penalties; each part of a sum for itself."""
    sums: dict[str, float] = {}
    for variable in model.trainable_variables:
        if id(variable) in penalties:
            parts = parts_of(variable.regularizer)
            for part in parts:
                value = penalties[id(variable)] if len(parts) == 1 else _penalty(variable, part)
                sums[part.__class__.__name__] = sums.get(part.__class__.__name__, 0.0) + value
    return sums


def _penalty(variable: keras.Variable, regularizer: Any) -> float:
    tensor = ops.stop_gradient(ops.convert_to_tensor(variable))
    if not is_penalty(regularizer):
        return float(ops.convert_to_numpy(regularizer(tensor)))
    # Not by calling it: that would warn of what is for training.
    tensor, _ = widen(tensor)
    if structure_of(regularizer) is None:
        value = regularizer.value(tensor)
    else:
        members = regularizer.members() if is_record(regularizer) else [variable]
        if members[0] is not variable:
            return 0.0
        tensors = [ops.cast(ops.stop_gradient(ops.convert_to_tensor(v)), tensor.dtype) for v in members]
        value = regularizer.joint_total([v.regularizer for v in members], tensors)
    return float(ops.convert_to_numpy(value))


@dataclass(frozen=True)
class Totals:
    """Of several weights together. Groups that reach over several weights count once."""

    size: int
    zeros: int
    near_zeros: int
    groups: int
    zero_groups: int
    l1: float
    l2: float
    non_finite: int

    @property
    def sparsity(self) -> float:
        """The share of the weights that are exactly zero."""
        return self.zeros / self.size if self.size else 0.0

    @property
    def group_sparsity(self) -> float:
        """The share of the groups that are exactly zero."""
        return self.zero_groups / self.groups if self.groups else 0.0


def totals(variables: Mapping[str, Any], counts: Mapping[str, Counts], values: Values = None) -> Totals:
    """The counts of weights added up; both by the same names."""
    own = list(counts.values())
    apart = [counts[name] for name, variable in variables.items() if structure_of(variable.regularizer) is None]
    joint = [_structural_groups(members, values) for members in _structures(variables.values())]
    return Totals(
        size=sum(one.size for one in own),
        zeros=sum(one.zeros for one in own),
        near_zeros=sum(one.near_zeros for one in own),
        groups=sum(one.groups for one in apart) + sum(groups for groups, _ in joint),
        zero_groups=sum(one.zero_groups for one in apart) + sum(zero for _, zero in joint),
        l1=sum(one.l1 for one in own),
        l2=math.hypot(*(one.l2 for one in own)),
        non_finite=sum(one.nan + one.infinite for one in own),
    )


def count_weights(variables: Mapping[str, Any], near_zero: float = 0.0, values: Values = None) -> dict[str, Counts]:
    """What is in each weight, or would be with other values."""
    return {name: count(_values(variable, values), near_zero, group_axis(variable)) for name, variable in variables.items()}


def _values(variable: Any, values: Values) -> np.ndarray:
    found = (values or {}).get(id(variable))
    return read(variable) if found is None else found


def zeros(variables: Iterable[Any], groups_of_penalties: bool = False, values: Values = None) -> Totals:
    """The zeros of weights together.

    Args:
        variables: The weights.
        groups_of_penalties: Whether to count the groups of group penalties alone, rather than units and filters elsewhere as well.
        values: Other values than the present ones, by `id` of the variable.
    """
    named = {str(index): variable for index, variable in enumerate(variables)}
    if groups_of_penalties:
        named = {name: v for name, v in named.items() if getattr(v.regularizer, "axis", None) is not None}
    return totals(named, count_weights(named, values=values), values)


def _structures(variables: Iterable[Any]) -> list[list[Any]]:
    """The weights of each structure."""
    found: dict[Any, list[Any]] = {}
    for variable in variables:
        regularizer = variable.regularizer
        if (name := structure_of(regularizer)) is not None:
            # Copies of a model within one have structures of the same name.
            key = id(regularizer.members()[0]) if is_record(regularizer) else name
            found.setdefault(key, []).append(variable)
    return list(found.values())


def _structural_groups(members: list[Any], values: Values) -> tuple[int, int]:
    """How many groups there are, and how many have no entry that is not zero in any of the weights."""
    numbers = [variable.regularizer.numbers(tuple(variable.shape)) for variable in members]
    alive = np.zeros(max((int(own.max(initial=-1)) for own in numbers), default=-1) + 1, bool)
    present = np.zeros_like(alive)
    for variable, own in zip(members, numbers, strict=True):
        along = np.any(_values(variable, values).reshape(variable.regularizer.flat_shape(tuple(variable.shape))) != 0, axis=(0, 2))
        inside = own >= 0
        present[own[inside]] = True
        np.logical_or.at(alive, own[inside], along[inside])
    return int(present.sum()), int((present & ~alive).sum())
