"""Zeros that are counted: what constraints project after an update, and what is 0 and stays 0."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_reg.backend import alive, numbers_suffice, only
from keras_reg.binding import structure_key
from keras_reg.contract import is_constraint
from keras_reg.ops.dtypes import widen
from keras_reg.optimizers import step_sizes


class Counted:
    """The part of a `Proximal` that holds zeros.

    Args:
        optimizer: The `Proximal`.
    """

    def __init__(self, optimizer: Any):
        self._of = optimizer
        self._updates = None

    def restart(self) -> None:
        """The iterations are others, as after loading."""
        self._updates = None

    def alive(self, variables: Sequence[Any]) -> dict[int, Any]:
        """Before an update: where weights are not 0 whose zeros may have to stay, by `id` of the variable."""
        return {id(v): alive(ops.stop_gradient(v.value)) for v in variables if self._of.keep_zeros or self._holds(v)}

    def _constraint(self, variable: Any) -> Any:
        own = variable.regularizer
        return own.configured.by_prox if is_constraint(own) and self._of.applies_prox_to(variable) else None

    def _holds(self, variable: Any) -> bool:
        constraint = self._constraint(variable)
        return constraint is not None and (constraint.every > 1 or not constraint.regrow)

    def apply(self, variables: Sequence[Any], before: dict[int, Any], steps: Callable, rate: Any) -> None:
        """After the update and the proxes of penalties."""
        pools: dict[Any, list[Any]] = {}
        for variable in variables:
            constraint = self._constraint(variable)
            if constraint is not None:
                pool = structure_key(variable.regularizer) or constraint.pool
                pools.setdefault(id(variable) if pool is None else pool, []).append(variable)
            elif id(variable) in before:
                self._assign(variable, only(ops.stop_gradient(variable.value), before[id(variable)]), rate)
        for members in pools.values():
            values = [ops.stop_gradient(variable.value) for variable in members]
            after = self._project(members, values, [before.get(id(v)) for v in members], steps)
            for variable, values in zip(members, after, strict=True):
                self._assign(variable, values, rate)
        if self._updates is not None:
            self._updates += 1

    def _assign(self, variable: Any, values: Any, rate: Any) -> None:
        step_sizes.remember(self._of.inner_optimizer, variable, values, rate)
        variable.assign(values)

    def _project(self, members: list[Any], values: list[Any], before: list[Any], steps: Callable) -> list[Any]:
        constraint = self._of.penalty_in_step(members[:1]).by_prox
        held = before[0] is not None
        again = constraint.regrow and not self._of.keep_zeros

        def chosen():
            start = [only(x, mask) for x, mask in zip(values, before, strict=True)] if held and not again else values
            wide = [widen(x)[0] for x in start]
            parts = [self._constraint(variable) for variable in members]
            dropped = constraint.dropped(parts, [ops.cast(x, wide[0].dtype) for x in wide], [steps([v]) for v in members])
            left = [ops.broadcast_to(ops.logical_not(mask), x.shape) for mask, x in zip(dropped, values, strict=True)]
            return left if again or not held else [ops.logical_and(*both) for both in zip(left, before, strict=True)]

        due = self._is_due(constraint.every)
        left = (chosen() if due else before) if isinstance(due, bool) else ops.cond(due, chosen, lambda: before)
        return [only(x, mask) for x, mask in zip(values, left, strict=True)]

    def _is_due(self, every: int) -> Any:
        """Whether a choice is made in this update; a number of Python's where steps are not compiled, so that none is read back."""
        if every == 1:
            return True
        if not numbers_suffice():
            return ops.equal(ops.mod(self._of.iterations, every), 0)
        if self._updates is None:
            self._updates = int(ops.convert_to_numpy(self._of.iterations))  # a quotient, where gradients are accumulated
        return self._updates % every == 0
