"""Which weights get their prox in one call: a step takes as long as it has operations, on GPUs and for compilers."""

import math
from collections.abc import Iterable
from typing import Any

from keras import ops

from keras_reg.backend import materialized
from keras_reg.binding import structure_key

STACKED = 2**20
"""At most so many weights are copied into one tensor; from some size on the copies cost more than the operations."""


def together(variables: Iterable[Any]) -> list[list[Any]]:
    """Weights under proximal penalties, in lists: those of one structure, and those of one shape under penalties that differ in their
    strengths alone."""
    found: dict[Any, list[list[Any]]] = {}
    for variable in variables:
        own = variable.regularizer
        if (structure := structure_key(own)) is not None:
            key, limit = structure, math.inf
        else:
            key, limit = (own.kind, tuple(variable.shape), variable.dtype), STACKED
            if own.kind is None:
                key = id(variable)
        lists = found.setdefault(key, [[]])
        if lists[-1] and (len(lists[-1]) + 1) * math.prod(variable.shape) > limit:
            lists.append([])
        lists[-1].append(variable)
    return [members for lists in found.values() for members in lists]


def stacked(tensors: list[Any]) -> Any:
    """One tensor as it is, several along a new first axis."""
    # XLA would copy all of them in each of its loops, which takes it long to compile.
    return tensors[0] if len(tensors) == 1 else materialized(ops.stack(tensors))


def unstacked(tensor: Any, number: int) -> list[Any]:
    return [tensor] if number == 1 else ops.unstack(materialized(tensor), number)
