"""What the crossentropies share: the dtype they compute in and give back, and logarithms of probabilities."""

from typing import Any

import keras
from keras import ops

from keras_reg._keras import set_mask
from keras_reg.ops.dtypes import like


class Crossentropy(keras.losses.Loss):
    """A loss that is computed and summed in float32 or wider, and given back in its dtype."""

    def __init__(self, name: str | None, reduction: str | None, dtype: Any):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._given_dtype = None if dtype is None else self._dtype_policy.name

    @property
    def dtype(self) -> str:
        """What Keras makes of labels and predictions, and sums in: half precision has no room for large class ids."""
        return "float64" if self._dtype == "float64" else "float32"

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        loss = super().__call__(y_true, y_pred, sample_weight)
        return loss if self._dtype == self.dtype else ops.cast(loss, self._dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "dtype": self._given_dtype}


def log_probabilities(y_pred: Any) -> Any:
    """Logarithms of what is scaled to sum to 1 and clipped, as in Keras's crossentropy."""
    epsilon = keras.config.epsilon()
    y_pred = y_pred / ops.sum(y_pred, axis=-1, keepdims=True)
    return ops.log(ops.clip(y_pred, epsilon, 1 - epsilon))


def targets(y_true: Any, y_pred: Any, ignore_class: int | None) -> Any:
    """One-hot or soft targets in the dtype of the predictions."""
    if ignore_class is not None:
        raise ValueError(
            "Argument `ignore_class` goes with integer labels; give positions with one-hot or soft targets a `sample_weight` of 0. "
            f"Received: ignore_class={ignore_class} and y_true of the shape of y_pred, {tuple(y_true.shape)}"
        )
    return like(y_pred, y_true)


def dense_crossentropy(target: Any, scores: Any) -> Any:
    """`-sum_k target[k] * scores[k]`, to which a class without mass adds nothing, even where it has no probability at all."""
    return -ops.sum(target * ops.where(ops.equal(target, 0) & ops.isinf(scores), ops.zeros_like(scores), scores), axis=-1)


def leave_out(losses: Any, counted: Any) -> Any:
    """0 where a label is ignored, with a mask for Keras, which leaves it out of the count when it reduces."""
    losses = ops.where(counted, losses, ops.zeros_like(losses))
    set_mask(losses, counted)
    return losses
