"""Zeros that are counted: what constraints project after an update, and what is 0 and stays 0."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_reg.backend import numbers_suffice
from keras_reg.binding import is_constraint, structure_key
from keras_reg.ops.dtypes import widen
from keras_reg.ops.projections import without
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

    def zeros(self, variables: Sequence[Any]) -> dict[int, Any]:
        """Before an update: where the weights are 0 that may have to stay, by `id` of the variable."""
        return {id(v): ops.equal(v.value, 0) for v in variables if self._of.keep_zeros or self._holds(v)}

    def _constraint(self, variable: Any) -> Any:
        own = variable.regularizer
        return own.configured.by_prox if is_constraint(own) and self._of.applies_prox_to(variable) else None

    def _holds(self, variable: Any) -> bool:
        constraint = self._constraint(variable)
        return constraint is not None and (constraint.every > 1 or not constraint.regrow)

    def apply(self, variables: Sequence[Any], zero: dict[int, Any], steps: Callable, rate: Any) -> None:
        """After the update and the proxes of penalties."""
        pools: dict[Any, list[Any]] = {}
        for variable in variables:
            constraint = self._constraint(variable)
            if constraint is not None:
                pool = structure_key(variable.regularizer) or constraint.pool
                pools.setdefault(id(variable) if pool is None else pool, []).append(variable)
            elif id(variable) in zero:
                self._assign(variable, without(ops.stop_gradient(variable.value), zero[id(variable)]), rate)
        for members in pools.values():
            before = [ops.stop_gradient(variable.value) for variable in members]
            after = self._project(members, before, [zero.get(id(v)) for v in members], steps)
            for variable, values in zip(members, after, strict=True):
                self._assign(variable, values, rate)
        if self._updates is not None:
            self._updates += 1

    def _assign(self, variable: Any, values: Any, rate: Any) -> None:
        step_sizes.remember(self._of.inner_optimizer, variable, values, rate)
        variable.assign(values)

    def _project(self, members: list[Any], values: list[Any], zero: list[Any], steps: Callable) -> list[Any]:
        constraint = self._of.penalty_in_step(members[:1]).by_prox
        held = zero[0] is not None
        again = constraint.regrow and not self._of.keep_zeros

        def chosen():
            start = [without(x, mask) for x, mask in zip(values, zero, strict=True)] if held and not again else values
            wide = [widen(x)[0] for x in start]
            parts = [self._constraint(variable) for variable in members]
            dropped = constraint.dropped(parts, [ops.cast(x, wide[0].dtype) for x in wide], [steps([v]) for v in members])
            dropped = [ops.broadcast_to(mask, x.shape) for mask, x in zip(dropped, values, strict=True)]
            return dropped if again or not held else [ops.logical_or(*both) for both in zip(dropped, zero, strict=True)]

        due = self._is_due(constraint.every)
        dropped = (chosen() if due else zero) if isinstance(due, bool) else ops.cond(due, chosen, lambda: zero)
        return [without(x, mask) for x, mask in zip(values, dropped, strict=True)]

    def _is_due(self, every: int) -> Any:
        """Whether a choice is made in this update; a number of Python's where steps are not compiled, so that none is read back."""
        if every == 1:
            return True
        if not numbers_suffice():
            return ops.equal(ops.mod(self._of.iterations, every), 0)
        if self._updates is None:
            self._updates = int(ops.convert_to_numpy(self._of.iterations))  # a quotient, where gradients are accumulated
        return self._updates % every == 0
