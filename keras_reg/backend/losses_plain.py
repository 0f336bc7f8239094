"""The crossentropy of a smoothed label in `keras.ops`: its definition, and the oracle of its tests."""

from typing import Any

import numpy as np
from keras import ops

from keras_reg.ops.dtypes import like


def smoothed_crossentropy(logits: Any, labels: Any, weight: float | Any, spread: float | np.ndarray) -> Any:
    """`-weight * log p[label] - sum_k spread[k] * log p[k]` at every position, with `p = softmax(logits)`.

    Its gradient is `(weight + sum(spread)) * p - spread - weight * onehot(label)`.

    Args:
        logits: `(..., classes)`, float32 or wider.
        labels: `(...)`, class ids from 0 to `classes - 1`.
        weight: What `-log p[label]` is multiplied with: one number for all, or `(...)`, in the dtype of `logits`.
        spread: What each `-log p[k]` is multiplied with: one number for all, or `(classes,)`.
    """
    return mixed(logits, pick(logits, labels), weight, spread, ops.logsumexp(logits, axis=-1))


def mixed(scores: Any, label: Any, weight: float | Any, spread: float | np.ndarray, *shifts: Any) -> Any:
    """The loss from all log-probabilities and that of the label, each still to be lowered by the `shifts`, one number a position."""
    for shift in shifts:
        label = label - shift
    if isinstance(spread, float):
        if not spread:
            return -weight * label
        rest = -spread * ops.sum(scores, axis=-1)
    else:
        # A class without mass may have no probability at all. (A matrix product is faster, but not in full precision everywhere.)
        scores = scores if np.all(spread) else ops.where(like(scores, spread) > 0, scores, ops.zeros_like(scores))
        rest = -ops.sum(scores * like(scores, spread), axis=-1)
    for shift in shifts:
        rest = rest + total(spread, scores.shape[-1]) * shift
    return rest - weight * label


def pick(scores: Any, labels: Any) -> Any:
    """`scores[..., labels]`."""
    # XLA makes one pass of this and what else reads the scores, forward and back; a look-up has to be written back by itself.
    classes = ops.arange(scores.shape[-1], dtype="int32")
    return ops.sum(ops.where(ops.equal(classes, ops.expand_dims(labels, -1)), scores, ops.zeros_like(scores)), axis=-1)


def class_ids(labels: Any, classes: int) -> tuple[Any, Any]:
    """Integers from 0 to `classes - 1`, and where they are not what `labels` said."""
    ids = ops.clip(ops.cast(labels, "int32"), 0, classes - 1)
    return ids, ops.not_equal(ops.cast(ids, labels.dtype), labels)


def nan_where(missing: Any, values: Any) -> Any:
    """`values`, and their gradient, NaN where `missing`."""
    return values * ops.where(missing, like(values, float("nan")), like(values, 1.0))


def total(spread: float | np.ndarray, classes: int) -> float:
    return spread * classes if isinstance(spread, float) else float(np.sum(spread))


def column(weight: float | Any) -> float | Any:
    return weight if isinstance(weight, float) or not weight.shape else weight[..., None]
