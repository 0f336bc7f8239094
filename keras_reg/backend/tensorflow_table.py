"""A weight of many rows on TensorFlow, of which a step reads and writes few."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

PER_UPDATE = 2**14
"""All rows are brought up to date, and the penalty in the loss with them, so often that there are at most so many weights for each update:
little beside the time of a step."""


class Table(keras.Variable):
    """Rows that no step touches are left alone, and the proxes that they have missed are applied as one when they are read.

    That works for penalties whose prox after a step `a` and then after a step `b` is the prox after a step `a + b`: norms. The steps,
    times strengths, of all updates so far are added up in a clock; of each row is known at what time it was last up to date. Whoever
    reads the whole variable finds it up to date.
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
            value_of: The penalty of all rows.
        """
        self.be_eager()
        with tf.init_scope():
            if not hasattr(self, "_clock"):
                # Added up over many updates: in float32 the last ones would be lost.
                self._clock, self._all_up_to_date = (tf.Variable(0.0, trainable=False, dtype=tf.float64) for _ in range(2))
                self._up_to_date = tf.Variable(tf.zeros(self._value.shape[:1], tf.float64), trainable=False)
                self._shown = tf.Variable(0.0, trainable=False, dtype=self.dtype)
                self._period = math.ceil(math.prod(self._value.shape) / PER_UPDATE)
            self._prox, self._value_of = prox, value_of
            self._shown.assign(value_of(self._value.value()))

    def be_eager(self) -> None:
        """From here on every update goes over all rows."""
        if self.is_lazy:
            with tf.init_scope():
                self.catch_up()
            self._prox = self._value_of = None

    @property
    def shown(self) -> Any:
        """The penalty, when all rows were last up to date."""
        return self._shown.value()

    def catch_up(self) -> None:
        """Bring all rows up to date, in their place."""
        since = tf.maximum(self._up_to_date, self._all_up_to_date)
        self._value.assign(self._prox(self._value.value(), self._due(since), None))
        self._all_up_to_date.assign(self._clock)
        self._shown.assign(self._value_of(self._value.value()))

    def _due(self, since: Any) -> Any:
        return tf.cast(self._clock - since, self.dtype)[:, None]

    def _current(self, ids: Any) -> Any:
        rows = tf.stop_gradient(tf.gather(self._value, ids))
        return self._prox(rows, self._due(tf.maximum(tf.gather(self._up_to_date, ids), self._all_up_to_date)), ids)

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

    def update_rows(self, gradient: Any, change: Callable[[Any, Any, Any, Any], Any], due: Any, updates: Any) -> None:
        """A step of an optimizer, and its prox, on the rows that a gradient has.

        Args:
            gradient: `tf.IndexedSlices`.
            change: `change(ids, rows, slopes, squares)` gives the rows after the step. Of what a row has several gradients of, `slopes`
                has the sum, and `squares` the sum of their squares as `tf.IndexedSlices`.
            due: The step times the strength of the prox.
            updates: The number of those before this one.
        """
        ids, places = tf.unique(gradient.indices)
        values, number = tf.cast(gradient.values, self.dtype), tf.size(ids)
        slopes, squares = (tf.math.unsorted_segment_sum(part, places, number) for part in (values, tf.square(values)))
        rows = change(ids, self._current(ids), slopes, tf.IndexedSlices(squares, ids))
        due = tf.cast(due, self.dtype)
        self._clock.assign_add(tf.cast(due, tf.float64))
        self._value.scatter_update(tf.IndexedSlices(self._prox(rows, due * tf.ones((number, 1), self.dtype), ids), ids))
        self._up_to_date.scatter_update(tf.IndexedSlices(tf.fill((number,), self._clock.value()), ids))
        tf.cond(tf.equal((updates + 1) % self._period, 0), self._caught_up, lambda: False)

    def _caught_up(self) -> bool:
        self.catch_up()
        return True

    # What Keras reads and writes the whole of it by.

    @property
    def value(self) -> Any:
        # In a graph it is asked for the variable far more often than for its values; `__tf_tensor__` is asked for these.
        if self.is_lazy and tf.executing_eagerly() and self._clock.numpy() != self._all_up_to_date.numpy():
            self.catch_up()
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
            self._all_up_to_date.assign(self._clock)
            self._shown.assign(self._value_of(self._value.value()))


@tf.custom_gradient
def _in_place_of(rows, current):
    return tf.identity(current), lambda upstream: (upstream, None)
