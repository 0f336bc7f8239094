"""Every function of `keras_reg.backend` in `keras.ops`: its definition, and the oracle of its tests."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

FEW_TO_SORT = 1024
"""Up to so many numbers are sorted where more are searched."""


def norm(x: Any, axes: tuple[int, ...]) -> Any:
    """The Euclidean norm along these axes, which stay with size 1; at a zero vector its derivatives are 0."""
    squares = ops.sum(ops.square(x), axis=axes, keepdims=True)
    zero = ops.equal(squares, 0)
    return ops.where(zero, ops.zeros_like(squares), ops.sqrt(ops.where(zero, ops.ones_like(squares), squares)))


def scaled(x: Any, share: Any, alive: Any) -> Any:
    """`x * share`, and 0 rather than -0 where the share and `alive` are 0."""
    return ops.where(alive > 0, x * share, alive)


def alive(x: Any) -> Any:
    """Where `x` is not 0, for `only`."""
    return ops.not_equal(x, 0)


def only(x: Any, alive: Any) -> Any:
    """`x` where it is alive, else 0, or NaN or infinite where it is that."""
    return ops.where(ops.logical_and(ops.logical_not(alive), ops.isfinite(x)), ops.zeros_like(x), x)


def smallest(sizes: Any, number: Any) -> Any:
    """Which of a vector without NaN or negative numbers are its `number` smallest, of equals the later ones: a boolean vector."""
    kth = ops.take(ops.sort(sizes), ops.maximum(number - 1, 0))
    equal = sizes == kth
    missing = number - ops.sum(ops.cast(sizes < kth, "int32"))
    seen = ops.cumsum(ops.cast(equal, "int32"))
    return ops.logical_or(sizes < kth, ops.logical_and(equal, seen > seen[-1] - missing))


def materialized(x: Any) -> Any:
    """The tensor, which a compiler is to compute once, not for each of its readers."""
    return x


def can_be_seen(tensor: Any) -> bool:
    """Whether reading the values costs no more than a look: no symbol, no tracer, nothing to fetch from an accelerator."""
    del tensor
    return False


def is_compiling() -> bool:
    """Whether the code is being compiled by something that cannot look at Python's frames."""
    return False


def value_and_gradient(function: Callable, w: Any) -> tuple[Any, Any]:
    """A scalar function at the tensor `w`, and its gradient there."""
    del function, w
    raise NotImplementedError(
        f"Gradients are known on TensorFlow, JAX and PyTorch. Received: keras.backend.backend()={keras.backend.backend()!r}"
    )


def compiled(function: Callable) -> Callable:
    """`function` as the backend compiles it, if it does when Keras trains."""
    return function


def read(variable: keras.Variable) -> np.ndarray:
    """The values, not copied where the backend holds them in this machine's memory; good until the next training step."""
    return ops.convert_to_numpy(variable.value)


def outside_of_graphs() -> Any:
    """A scope in which values can be read and written even where a step is being traced."""
    return contextlib.nullcontext()


def numbers_suffice() -> bool:
    """Whether a training step takes the numbers that Python has at the time, as it is not compiled."""
    return False


def loss_sees_the_optimizer() -> bool:
    """Whether a loss that is being computed may read variables of the optimizer."""
    return True


def steps_follow_the_metrics() -> bool:
    """Whether a compiled step notices that the model has other metrics than when it was compiled."""
    return True


def distribution_scope(model: Any) -> Any:
    """The scope in which variables of the model are made."""
    return keras.name_scope(model.name)


def replicas() -> int:
    """Of how many replicas Keras adds up the loss."""
    return 1


def is_first_process(model: Any) -> bool:
    """Whether this process is the one that writes, of those that train together."""
    del model
    return True


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
        scores = scores if np.all(spread) else ops.where(as_tensor(spread, scores) > 0, scores, ops.zeros_like(scores))
        rest = -ops.sum(scores * as_tensor(spread, scores), axis=-1)
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
    return values * ops.where(missing, as_tensor(float("nan"), values), as_tensor(1.0, values))


def total(spread: float | np.ndarray, classes: int) -> float:
    return spread * classes if isinstance(spread, float) else float(np.sum(spread))


def column(weight: float | Any) -> float | Any:
    return weight if isinstance(weight, float) or not weight.shape else weight[..., None]


def as_tensor(numbers: float | np.ndarray, x: Any) -> Any:
    """In the dtype of `x`, without passing through float32."""
    return ops.convert_to_tensor(numbers, dtype=x.dtype)


def rows_apart(variable: Any) -> None:
    """Have a new variable be read and written by rows, where the backend can; see `keras_reg.backend.tensorflow_table`."""
    del variable


def table(variable: Any) -> Any:
    """The variable, if it is read and written by rows, else `None`."""
    del variable


def look_up(variable: Any, ids: Any) -> Any:
    """The rows of these numbers."""
    return ops.take(variable, ids, axis=0)
