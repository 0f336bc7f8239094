"""A weight of many rows on TensorFlow, of which a step reads and writes few."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

PER_UPDATE = 2**14
"""All rows are brought up to date, and the penalty in the loss with them, so often that there are at most so many weights for each update:
little beside the time of a step."""
LONGEST = 1000
"""Updates after which they are at the latest: in float32 the last of very many steps that are added up would be lost."""


class Table(keras.Variable):
    """Rows that no step touches are left alone, and the proxes that they have missed are applied as one when they are read.

    That works for penalties whose prox after a step `a` and then after a step `b` is the prox after a step `a + b`: norms. The steps,
    times strengths, of all updates since the whole table was up to date are added up in a clock; of each row is known at what time it was
    last up to date. Whoever reads the whole variable finds it up to date.
    """

    _prox: Callable | None = None  # until an optimizer has claimed the table; of the class, so that a variable can become one
    _value_of: Callable | None = None

    @property
    def is_lazy(self) -> bool:
        return self._prox is not None

    def be_lazy(self, prox: Callable[[Any, Any, Any], Any], value_of: Callable[[Any], Any]) -> None:
        """From here on an optimizer calls `update_rows`.

        Args:
            prox: `prox(rows, due, ids)` is what proxes of the steps `due`, a column, at strength 1 make of the rows; without `ids` of all.
            value_of: The penalty of all rows at strength 1.
        """
        self.be_eager()
        with tf.init_scope():
            if not hasattr(self, "_clock"):
                self._clock, self._shown = (tf.Variable(0.0, trainable=False, dtype=self.dtype) for _ in range(2))
                self._up_to_date = tf.Variable(tf.zeros(self._value.shape[:1], self.dtype), trainable=False)
                self._period = min(math.ceil(math.prod(self._value.shape) / PER_UPDATE), LONGEST)
            self._prox, self._value_of = prox, value_of
            self._all_are_up_to_date()

    def be_eager(self) -> None:
        """From here on every update goes over all rows."""
        if self.is_lazy:
            with tf.init_scope():
                self.catch_up()
            self._prox = self._value_of = None

    @property
    def shown(self) -> Any:
        """The penalty at strength 1; in a graph that of when all rows were last up to date."""
        if tf.executing_eagerly():
            self._catch_up_if_behind()
        return self._shown.value()

    def catch_up(self) -> None:
        """Bring all rows up to date, in their place."""
        self._value.assign(self._prox(self._value.value(), self._due(self._up_to_date), None))
        self._all_are_up_to_date()

    def _catch_up_if_behind(self) -> None:
        if self._clock.numpy() != 0:
            self.catch_up()

    def _all_are_up_to_date(self) -> None:
        self._clock.assign(0.0)
        self._up_to_date.assign(tf.zeros_like(self._up_to_date))
        self._shown.assign(self._value_of(self._value.value()))

    def _due(self, since: Any) -> Any:
        return (self._clock - since)[:, None]

    def _current(self, ids: Any) -> Any:
        rows = tf.stop_gradient(tf.gather(self._value, ids))
        return self._prox(rows, self._due(tf.gather(self._up_to_date, ids)), ids)

    def rows(self, ids: Any) -> Any:
        """The rows of these numbers, up to date; of the others nothing is read, and gradients are `tf.IndexedSlices`."""
        ids = tf.where(ids < 0, ids + tf.cast(self._value.shape[0], ids.dtype), ids)  # as Keras has it
        rows = tf.gather(self._value, ids)
        if not self.is_lazy:
            return rows
        current = self._current(tf.reshape(ids, (-1,)))
        return _in_place_of(rows, tf.reshape(current, tf.shape(rows)))

    def has_rows_of(self, gradient: Any) -> bool:
        """Whether the gradient says which rows it is of."""
        return isinstance(gradient, tf.IndexedSlices)

    def update_rows(self, gradient: Any, step: Callable[[Any, Any], None], due: Any, updates: Any) -> None:
        """A step of an optimizer, and its prox, on the rows that a gradient has.

        Args:
            gradient: `tf.IndexedSlices`.
            step: `step(gradient, rows)` makes the optimizer's step on TensorFlow's own variable, in which those rows are up to date.
            due: The step times the strength of the prox.
            updates: The number of those before this one.
        """
        ids, _ = tf.unique(gradient.indices)
        self._value.scatter_update(tf.IndexedSlices(self._current(ids), ids))
        step(gradient, self._value)
        due = tf.cast(due, self.dtype)
        self._clock.assign_add(due)
        rows = self._prox(tf.gather(self._value, ids), due * tf.ones((tf.size(ids), 1), self.dtype), ids)
        self._value.scatter_update(tf.IndexedSlices(rows, ids))
        self._up_to_date.scatter_update(tf.IndexedSlices(tf.fill((tf.size(ids),), self._clock.value()), ids))
        tf.cond(tf.equal((updates + 1) % self._period, 0), self._caught_up, lambda: False)

    def _caught_up(self) -> bool:
        self.catch_up()
        return True

    # What Keras reads and writes the whole of it by.

    @property
    def value(self) -> Any:
        # In a graph it is asked for the variable far more often than for its values; `__tf_tensor__` is asked for these.
        if self.is_lazy and tf.executing_eagerly():
            self._catch_up_if_behind()
        return super().value

    @property
    def handle(self) -> Any:
        return self._value.handle

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        if self.is_lazy and not tf.executing_eagerly():
            self.catch_up()
        return super().__tf_tensor__(dtype, name)

    def _direct_assign(self, value: Any) -> None:
        super()._direct_assign(value)
        if self.is_lazy:
            self._all_are_up_to_date()


@tf.custom_gradient
def _in_place_of(rows, current):
    return tf.identity(current), lambda upstream: (upstream, None)
