"""Updates of tables of many rows, of which a step touches few: see `keras_reg.layers.Embedding`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_reg.backend import table
from keras_reg.binding import record
from keras_reg.ops.groups import group_axes
from keras_reg.regularizers.convex import L1
from keras_reg.regularizers.grouped import GroupLasso


class Rows:
    """What `Proximal` does to the rows that a gradient has, where no more needs to be done.

    Args:
        optimizer: The `Proximal` that this is a part of.
    """

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def refresh(self) -> None:
        """Take up the tables whose penalties, as they are now, allow for it."""
        for variable in self.optimizer._trainable_variables:
            if (own := table(variable)) is None:
                continue
            if self._suffices(variable):
                unit, factor = record(variable).configured.with_strength(1.0), self._factor(variable)
                own.be_lazy(lambda rows, due, ids, unit=unit, factor=factor: unit.prox(rows, factor(due, ids)), unit.value)
            else:
                own.be_eager()

    def _suffices(self, variable: Any) -> bool:
        """Whether the rows that a gradient has are all that has to be written, and the proxes of the others can wait."""
        outer, inner = self.optimizer, self.optimizer.inner_optimizer
        adds_up = (type(inner) is keras.optimizers.SGD and not inner.momentum) or type(inner) is keras.optimizers.Adagrad
        more = inner.weight_decay or inner.use_ema or outer.keep_zeros
        # Steps are added up in the dtype of the variable.
        if variable.dtype not in ("float32", "float64") or not adds_up or more or not outer.applies_prox_to(variable):
            return False
        penalty = record(variable).configured
        if type(penalty) is GroupLasso:
            return group_axes(penalty.axis, 2)[0] == (0,) and outer.metric == "euclidean"
        return type(penalty) is L1

    def _factor(self, variable: Any) -> Callable[[Any, Any], Any]:
        """What the optimizer's own metric makes of the steps that are due."""
        if self.optimizer.metric == "euclidean":
            return lambda due, ids: due
        total = self._total(variable)  # once: to be asked for its place the variable is read
        return lambda due, ids: due / self._root(total, ids)

    def _total(self, variable: Any) -> Any:
        inner = self.optimizer.inner_optimizer
        return inner._accumulators[inner._get_variable_index(variable)]

    def _root(self, total: Any, ids: Any) -> Any:
        total = total.value
        return ops.sqrt((total if ids is None else ops.take(total, ids, axis=0)) + self.optimizer.inner_optimizer.epsilon)

    def update(self, grads: Sequence[Any], variables: Sequence[Any], rate: Any) -> tuple[list[Any], list[Any]]:
        """Make step and prox where the rows of a gradient are all that has to be written; gives the gradients and variables of the rest."""
        rest = []
        for gradient, variable in zip(grads, variables, strict=True):
            own = table(variable)
            if own is not None and own.is_lazy and own.has_rows_of(gradient):
                strength = self.optimizer.strength_in_step(self.optimizer._get_variable_index(variable))
                own.update_rows(gradient, self._step(variable, rate), rate * strength, self.optimizer.iterations)
                continue
            if own is not None and own.is_lazy:
                own.catch_up()
            rest.append((gradient, variable))
        return [gradient for gradient, _ in rest], [variable for _, variable in rest]

    def _step(self, variable: Any, rate: Any) -> Callable[[Any, Any], None]:
        inner = self.optimizer.inner_optimizer
        if isinstance(inner, keras.optimizers.SGD):
            return lambda gradient, rows: inner.update_step(gradient, rows, rate)

        def adagrad(gradient, rows):
            # Keras's own takes the root of every accumulator.
            total = self._total(variable)
            inner.assign_add(total, ops.square(gradient))
            steps = ops.cast(rate, rows.dtype) * gradient.values / self._root(total, gradient.indices)
            inner.assign_sub(rows, type(gradient)(steps, gradient.indices, gradient.dense_shape))

        return adagrad
