"""The closed form of a crossentropy whose target is a weight on one class and a mass spread over all.

`-weight * log p[label] - sum_k spread[k] * log p[k]` with `p = softmax(logits)`, and its gradient
`(weight + sum(spread)) * p - spread - weight * onehot(label)`: with many classes neither needs a one-hot target in memory. The gradient
comes from the logits once more where it is needed. On TensorFlow only what XLA compiles does so in one pass; the rest keeps a softmax.
"""

import functools
import itertools
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, backend, ops

from keras_reg.ops.dtypes import like

FEW_CLASSES = 128
BLOCK = 2**19  # entries
SMALL = 2**16  # entries; below, PyTorch's own loss, whose additional passes are short, has less to do around them


def smoothed_crossentropy(logits: Any, labels: Any, weight: float | Any, spread: float | np.ndarray, exists: Any = None) -> Any:
    """The loss at every position.

    Args:
        logits: `(..., classes)`, float32 or wider.
        labels: `(...)`, class ids from 0 to `classes - 1`.
        weight: What `-log p[label]` is multiplied with: one number for all, or `(...)`, in the dtype of `logits`.
        spread: What each `-log p[k]` is multiplied with: one number for all, or `(classes,)`.
        exists: `(...)`, booleans, or `None`: where it is false, loss and gradient are NaN.
    """
    forms = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    if isinstance(logits, KerasTensor) or isinstance(labels, KerasTensor) or backend.backend() not in forms:
        return mixed(ops.log_softmax(logits), labels, nan_unless(exists, weight, logits), spread)
    classes, shape = logits.shape[-1], ops.shape(labels)
    form, weight = forms[backend.backend()], nan_unless(exists, weight, logits)
    if len(labels.shape) == 1 or backend.backend() == "jax":  # which fuses less across a change of shape
        return form(logits, labels, weight, spread)
    weight = weight if isinstance(weight, float) else ops.reshape(weight, (-1,))
    loss = form(ops.reshape(logits, (-1, classes)), ops.reshape(labels, (-1,)), weight, spread)
    return ops.reshape(loss, shape)


def nan_unless(exists: Any, weight: float | Any, logits: Any) -> Any:
    """`weight`, NaN where `exists` is false."""
    return weight if exists is None else ops.where(exists, like(logits, weight), like(logits, float("nan")))


def mixed(scores: Any, labels: Any, weight: Any, spread: float | np.ndarray, *shifts: Any) -> Any:
    """The loss from log-probabilities: `scores`, less the sum of the `shifts`, which are one number a position."""
    label = pick(scores, labels)
    for shift in shifts:
        label = label - shift
    if isinstance(spread, float):
        if not spread:
            return -weight * label
        rest = spread * ops.sum(scores, axis=-1)
    else:
        # A class without mass may have no probability at all. (A matrix product is faster, but not in full precision everywhere.)
        scores = scores if np.all(spread) else ops.where(like(scores, spread) > 0, scores, ops.zeros_like(scores))
        rest = ops.sum(scores * like(scores, spread), axis=-1)
    mass = total(spread, scores.shape[-1])
    for shift in shifts:
        rest = rest - mass * shift
    return -weight * label - rest


def log_probabilities(y_pred: Any) -> Any:
    """Logarithms of what is scaled to sum to 1 and clipped, as in Keras's crossentropy."""
    epsilon = keras.config.epsilon()
    y_pred = y_pred / ops.sum(y_pred, axis=-1, keepdims=True)
    return ops.log(ops.clip(y_pred, epsilon, 1 - epsilon))


def pick(scores: Any, labels: Any) -> Any:
    """`scores[..., labels]`."""
    # Keras's own way, which checks and broadcasts first, takes several times as long on TensorFlow and more memory on PyTorch.
    if isinstance(scores, KerasTensor) or backend.backend() not in ("tensorflow", "torch"):
        return ops.squeeze(ops.take_along_axis(scores, ops.expand_dims(labels, -1), axis=-1), axis=-1)
    if backend.backend() == "torch":
        return scores.gather(-1, labels.long()[..., None])[..., 0]
    import tensorflow as tf

    return tf.gather(scores, labels, batch_dims=len(labels.shape))


def total(spread: float | np.ndarray, classes: int) -> float:
    return spread * classes if isinstance(spread, float) else float(np.sum(spread))


def column(weight: float | Any) -> float | Any:
    return weight if isinstance(weight, float) or not weight.shape else weight[..., None]


def _tensorflow(logits, labels, weight, spread):
    import tensorflow as tf

    @tf.custom_gradient
    def loss(logits):
        form = _tensorflow_few if logits.shape[-1] <= FEW_CLASSES else _tensorflow_many
        return form(tf, logits, labels, weight, spread)

    return loss(logits)


def _tensorflow_few(tf, logits, labels, weight, spread):
    # For few classes writing into single entries takes longer than a dense target, and XLA makes short work of all this.
    classes = logits.shape[-1]
    factor = column(weight) + total(spread, classes)
    target = tf.where(tf.range(classes) == labels[:, None], like(logits, column(weight)), like(logits, 0.0)) + like(logits, spread)
    scores = logits - tf.reduce_max(logits, axis=-1, keepdims=True)
    powers = tf.exp(scores)
    norm = tf.reduce_sum(powers, axis=-1, keepdims=True)
    if not np.all(spread):
        scores = tf.where(target == 0, tf.zeros_like(scores), scores)

    def gradient(upstream):
        return (powers * (factor / norm) - target) * upstream[:, None]

    return tf.squeeze(factor * tf.math.log(norm), -1) - tf.reduce_sum(target * scores, axis=-1), gradient


def _tensorflow_many(tf, logits, labels, weight, spread):
    # TensorFlow's softmax is several times as fast as its log-softmax; its largest entry has the logarithm of the sum.
    # Where the gradient takes the same softmax, the graph computes it once.
    top = tf.reduce_max(logits, axis=-1)
    p = tf.nn.softmax(logits)
    log_sum = -tf.math.log(tf.reduce_max(p, axis=-1))

    def gradient(upstream):
        # Once nobody else reads it, the softmax is written over.
        with tf.control_dependencies([log_sum]):
            upstream = tf.identity(upstream)[:, None]
        factor = column(weight) + total(spread, logits.shape[-1])
        slope = p * (factor * upstream) - like(logits, spread) * upstream
        places = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
        return tf.tensor_scatter_nd_sub(slope, places, weight * upstream[:, 0])

    return mixed(logits, labels, weight, spread, top, log_sum), gradient


def _jax(logits, labels, weight, spread):
    import jax
    from jax import numpy as jnp

    @jax.custom_jvp
    def loss(logits, labels, weight):
        top = jnp.max(logits, axis=-1)
        log_sum = jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1))
        return mixed(logits, labels, weight, spread, top, log_sum)

    # A rule for the tangent rather than for the gradient: forward mode stays.
    @loss.defjvp
    def tangent(primals, tangents):
        logits, labels, weight = primals
        weight, classes = column(weight), logits.shape[-1]
        slope = (weight + total(spread, classes)) * jax.nn.softmax(logits) - like(logits, spread)
        slope = slope - jnp.where(jnp.arange(classes) == labels[..., None], weight, 0)
        return loss(*primals), jnp.sum(slope * tangents[0], axis=-1)

    return loss(logits, labels, weight)


def _torch(logits, labels, weight, spread):
    import torch

    labels = labels.long()
    if torch.compiler.is_compiling():  # the compiler takes no class made on the fly, and makes its own of the derivative
        return mixed(torch.log_softmax(logits, dim=-1), labels, weight, spread)
    if logits.numel() < SMALL and isinstance(weight, float) and isinstance(spread, float):
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=spread * logits.shape[-1])
    return _torch_function().apply(logits, labels, weight, spread)


@functools.cache
def _torch_function():
    import torch

    def blocks(logits, *columns):
        """All of them by the rows that the cache of a CPU holds between one pass and the next; what is one number stays so."""
        rows = max(1, BLOCK // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
        if len(logits) <= rows:
            return [(logits, *columns)]
        parts = (itertools.repeat(part) if isinstance(part, float) or not part.shape else part.split(rows) for part in columns)
        return zip(logits.split(rows), *parts, strict=False)

    class SmoothedCrossentropy(torch.autograd.Function):
        @staticmethod
        def forward(logits, labels, weight, spread):
            losses = [mixed(torch.log_softmax(z, dim=-1), y, w, spread) for z, y, w in blocks(logits, labels, weight)]
            return torch.cat(losses) if len(losses) > 1 else losses[0]

        @staticmethod
        def setup_context(ctx, inputs, output):
            logits, labels, ctx.weight, ctx.spread = inputs
            ctx.save_for_backward(logits, labels)

        @staticmethod
        def backward(ctx, upstream):
            logits, labels = ctx.saved_tensors
            mass, spread = total(ctx.spread, logits.shape[-1]), like(logits, ctx.spread)
            if torch.is_grad_enabled():  # to be differentiated once more, which forbids to write over what is needed then
                slope = torch.softmax(logits, dim=-1) * (column(ctx.weight) + mass) * upstream[:, None] - spread * upstream[:, None]
                return slope.scatter_add(1, labels[:, None], column(ctx.weight) * -upstream[:, None]), None, None, None
            gradient = torch.empty_like(logits)
            for z, slope, y, w, up in blocks(logits, gradient, labels[:, None], column(ctx.weight), upstream[:, None]):
                torch.softmax(z, dim=-1, out=slope)
                torch.addcmul(spread * -up, slope, (w + mass) * up, out=slope)
                slope.scatter_add_(1, y, w * -up)
            return gradient, None, None, None

    return SmoothedCrossentropy
