"""Label smoothing towards what the model itself said of each class in the epoch before."""

from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_reg._keras import check, mask_of
from keras_reg._labels import checked_ids, classes_last
from keras_reg._registration import register
from keras_reg._validation import boolean, real_number, whole_number
from keras_reg.backend import nan_where
from keras_reg.losses.crossentropy import Crossentropy, dense_crossentropy, leave_out, log_probabilities, targets
from keras_reg.losses.label_smoothing import checked
from keras_reg.ops.dtypes import like, widen
from keras_reg.running import running_models


class SoftLabels(keras.metrics.Metric):
    """The state of the loss. It is a metric because that is what Keras's JAX trainer carries through a compiled step."""

    def __init__(self, shares: np.ndarray, dtype: str, name: str):
        super().__init__(name=name, dtype=dtype)
        num_classes = len(shares)
        self.table = keras.Variable(np.tile(shares, (num_classes, 1)), dtype=dtype, trainable=False, name="soft_labels")
        self.collecting = keras.Variable(1.0, dtype=dtype, trainable=False, name="collecting")
        self.sums = self.add_variable((num_classes, num_classes), "zeros", dtype=dtype, name="sums")

    def collect(self, labels: Any, right: Any, probabilities: Any) -> None:
        classes = probabilities.shape[-1]
        rows = ops.reshape(probabilities * ops.expand_dims(ops.cast(right, self.dtype), -1), (-1, classes))
        sums = ops.segment_sum(rows, ops.reshape(labels, (-1,)), classes)
        self.sums.assign_add(self.collecting * sums)

    def join(self, model: Any) -> None:
        """Have the trainer of JAX know it, which takes what it does not know as state for constants; Keras has no public way."""
        if hasattr(model, "jax_state_sync") and not any(self is metric for metric in model.metrics):
            check("model", model)
            model._metrics.append(self)

    def reset_state(self):
        """Keras's trainer resets its metrics at every epoch and evaluation; this state outlives them."""

    def result(self):
        return {}  # nothing to log


@register
class OnlineLabelSmoothingCrossentropy(Crossentropy):
    """Crossentropy with soft labels that are learnt while training, one distribution for each class.

    The target of an example with label `y` is `hard * onehot(y) + (1 - hard) * soft[y]`. `soft[y]` is the mean of the probabilities that
    the model gave, in the epoch before, to the examples of class `y` that it got right; a class with none keeps what it had. At
    first it is uniform. An ignored class has no share in it. Where uniform label smoothing treats all wrong classes alike, this gives
    similar classes more.

    An epoch ends where `next_epoch()` is called: `keras_reg.callbacks.OnlineLabelSmoothing` does it in `fit`, which without it
    goes on with uniform labels. The soft labels are saved with a compiled model and restored.

    Args:
        num_classes: Number of classes. The state has twice its square.
        hard: Share of the label itself in the target, in `[0, 1]`. Defaults to 0.5, the paper's choice.
        from_logits: Whether `y_pred` holds logits. Otherwise it is scaled to sum to 1 and clipped as in `LabelSmoothingCrossentropy`.
        ignore_class: A class id, of a class or not. Positions with this label leave the sum, the count and the soft labels. Integer labels
            only.
        axis: The class axis of `y_pred`, and of targets of its shape.
        reduction: As for every Keras loss.
        name: As for every Keras loss.
        dtype: As for every Keras loss. With half precision the loss is computed and summed in float32, then cast.

    Labels are integers, one-hot or soft, as in `LabelSmoothingCrossentropy`; a soft target mixes the soft labels of its classes, and
    counts for the largest. Positions that a Keras mask leaves out teach nothing; sample weights weigh the loss only.

    Example:

    >>> import numpy as np
    >>> from keras_reg.losses import OnlineLabelSmoothingCrossentropy
    >>> loss = OnlineLabelSmoothingCrossentropy(2)
    >>> y, p = np.array([0, 1]), np.array([[0.8, 0.2], [0.7, 0.3]], "float32")
    >>> round(float(loss(y, p)), 4)  # targets [0.75, 0.25] and [0.25, 0.75]
    0.7809
    >>> loss.next_epoch()
    >>> np.round(loss.soft_labels.astype("float64"), 4).tolist()  # the second example was wrong
    [[0.8, 0.2], [0.5, 0.5]]

    Reference: [Zhang et al., 2021](https://arxiv.org/abs/2011.12562).
    """

    def __init__(
        self,
        num_classes: int,
        hard: float = 0.5,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "online_label_smoothing_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        num_classes = whole_number(num_classes, "num_classes", at_least=1)
        if not 0 <= real_number(hard, "hard") <= 1:
            raise ValueError(f"Argument `hard` must be from 0 to 1. Received: hard={hard}")
        checked(0.0, from_logits, ignore_class, None, None, "uniform")
        self.num_classes, self.hard, self.axis = num_classes, float(hard), whole_number(axis, "axis")
        self.from_logits = boolean(from_logits, "from_logits")
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self._mask = None
        self._allowed = np.arange(num_classes) != self.ignore_class
        if not self._allowed.any():
            raise ValueError(f"Argument `ignore_class` must leave a class. Received: num_classes=1, ignore_class={ignore_class}")
        self.state = SoftLabels(self._allowed / self._allowed.sum(), self.dtype, f"{name}_state")

    @property
    def soft_labels(self) -> np.ndarray:
        """The present soft labels: row `y` is the distribution for class `y`."""
        return ops.convert_to_numpy(self.state.table)

    def next_epoch(self) -> None:
        """Make soft labels of what was collected since the last call, and start to collect anew."""
        if self.state.sums._value is None:  # JAX's trainer has it
            raise ValueError("Within an epoch of `fit` on JAX call `model.jax_state_sync()` before `next_epoch()`.")
        sums = ops.convert_to_numpy(self.state.sums) * self._allowed
        total = sums.sum(axis=1, keepdims=True)
        self.state.table.assign(np.where(total > 0, sums / np.where(total > 0, total, 1), self.soft_labels))
        self.discard()

    def discard(self) -> None:
        """Forget what was collected since the last `next_epoch()`."""
        self.state.sums.assign(np.zeros(self.state.sums.shape, self.dtype))

    def collect(self, collecting: bool) -> None:
        """Whether calls are learnt from, as they are at first: not while a model is evaluated."""
        self.state.collecting.assign(float(collecting))

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self._mask = mask_of(y_pred)
        try:
            return super().__call__(y_true, y_pred, sample_weight)
        finally:
            self._mask = None

    def call(self, y_true: Any, y_pred: Any) -> Any:
        for model in running_models():
            self.state.join(model)  # Keras builds a model's loss before it gathers the state of its steps
        y_pred, dtype = widen(y_pred, "y_pred")
        y_true = y_true if isinstance(y_true, KerasTensor) else ops.convert_to_tensor(y_true)
        y_true, y_pred, dense = classes_last(y_true, y_pred, self.axis, one_class_is_labels=self.ignore_class is not None)
        if y_pred.shape[-1] != self.num_classes:
            raise ValueError(
                f"Argument `y_pred` must have num_classes={self.num_classes} classes on axis {self.axis}. Received: {y_pred.shape[-1]}"
            )
        table, counted, missing = like(y_pred, ops.convert_to_tensor(self.state.table)), None, None
        if dense:
            y_true = targets(y_true, y_pred, self.ignore_class)
            labels = ops.argmax(y_true, axis=-1)
            target = self.hard * y_true + (1 - self.hard) * ops.matmul(y_true, table)
        else:
            labels, missing, counted = checked_ids(y_true, self.num_classes, self.ignore_class)
            one_hot = ops.one_hot(labels, self.num_classes, dtype=y_pred.dtype)
            target = self.hard * one_hot + (1 - self.hard) * ops.take(table, labels, axis=0)
        if counted is not None:
            # Whatever stands at an ignored position, even a NaN, it has no gradient.
            y_pred = ops.where(ops.expand_dims(counted, -1), y_pred, ops.ones_like(y_pred))
        scores = ops.log_softmax(y_pred) if self.from_logits else log_probabilities(y_pred)
        known = None if missing is None else ops.logical_not(missing)
        self._learn(labels, scores, [part for part in (counted, known, self._mask) if part is not None])
        losses = dense_crossentropy(target, scores)
        if missing is not None:
            losses = nan_where(missing, losses)
        return ops.cast(losses if counted is None else leave_out(losses, counted), dtype)

    def _learn(self, labels: Any, scores: Any, conditions: list) -> None:
        if isinstance(scores, KerasTensor):
            return
        scores = ops.stop_gradient(scores)
        right = ops.equal(ops.argmax(scores, axis=-1), ops.cast(labels, "int32"))
        for condition in conditions:
            right = right & ops.cast(condition, "bool")
        self.state.collect(labels, right, ops.exp(scores))

    def save_own_variables(self, store):
        for variable in (self.state.table, self.state.sums):
            store[variable.name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        for variable in (self.state.table, self.state.sums):
            variable.assign(np.asarray(store[variable.name]))

    def get_config(self) -> dict:
        config = {name: getattr(self, name) for name in ("num_classes", "hard", "from_logits", "ignore_class", "axis")}
        return {**config, **super().get_config()}
