"""The closed form of a crossentropy whose target is a weight on one class and a mass spread over all.

`-weight * log p[label] - sum_k spread[k] * log p[k]` with `p = softmax(logits)`, and its gradient
`(weight + sum(spread)) * p - spread - weight * onehot(label)`: neither needs a one-hot target in memory, and the gradient
is made from the logits again where it is needed, so that nothing as large as they are is kept in between.
"""

import functools
from typing import Any

import numpy as np
from keras import KerasTensor, backend, ops

from keras_reg.ops.dtypes import like

DENSE_UP_TO = 128
"""Classes up to which TensorFlow subtracts a one-hot target: below, writing into single entries takes longer than it saves."""


def smoothed_crossentropy(logits: Any, labels: Any, weight: Any, spread: float | np.ndarray) -> Any:
    """The loss at every position.

    Args:
        logits: `(..., classes)`, float32 or wider.
        labels: `(...)`, class ids that exist.
        weight: `(...)`, what `-log p[label]` is multiplied with, in the dtype of `logits`.
        spread: What each `-log p[k]` is multiplied with: one number for all, or `(classes,)`.
    """
    forms = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    if isinstance(logits, KerasTensor) or isinstance(labels, KerasTensor) or backend.backend() not in forms:
        return mixed(ops.log_softmax(logits), labels, weight, spread)
    classes, shape = logits.shape[-1], ops.shape(labels)
    rows = (ops.reshape(logits, (-1, classes)), ops.reshape(labels, (-1,)), ops.reshape(weight, (-1,)))
    return ops.reshape(forms[backend.backend()](*rows, spread), shape)


def mixed(scores: Any, labels: Any, weight: Any, spread: float | np.ndarray, *shifts: Any) -> Any:
    """The loss from log-probabilities: `scores`, less the sum of the `shifts`, which are one number a position."""
    label = pick(scores, labels)
    for shift in shifts:
        label = label - shift
    if not np.any(spread):
        return -weight * label
    if np.ndim(spread):
        # A class without mass may have no probability at all.
        scores = scores if np.all(spread) else ops.where(spread > 0, scores, ops.zeros_like(scores))
        rest = ops.matmul(scores, like(scores, spread)[:, None])[..., 0]
    else:
        rest = spread * ops.sum(scores, axis=-1)
    mass = total(spread, scores.shape[-1])
    for shift in shifts:
        rest = rest - mass * shift
    return -weight * label - rest


def pick(scores: Any, labels: Any) -> Any:
    """`scores[..., labels]`."""
    if backend.backend() == "tensorflow" and not isinstance(scores, KerasTensor):
        import tensorflow as tf

        # Keras's own detour over broadcasting takes several times as long.
        return tf.gather(scores, labels, batch_dims=len(labels.shape))
    return ops.squeeze(ops.take_along_axis(scores, ops.expand_dims(labels, -1), axis=-1), axis=-1)


def total(spread: float | np.ndarray, classes: int) -> float:
    return float(np.sum(spread)) if np.ndim(spread) else spread * classes


def _tensorflow(logits, labels, weight, spread):
    import tensorflow as tf

    classes = logits.shape[-1]
    mass = like(logits, spread)
    weight = weight[:, None]

    @tf.custom_gradient
    def loss(logits):
        # TensorFlow's softmax is several times as fast as its log-softmax; its largest entry has the logarithm of the sum.
        # Where the gradient takes the same softmax, the graph computes it once.
        top = tf.reduce_max(logits, axis=-1)
        log_sum = -tf.math.log(tf.reduce_max(tf.nn.softmax(logits), axis=-1))

        def gradient(upstream):
            upstream = upstream[:, None]
            slope = tf.nn.softmax(logits) * ((weight + total(spread, classes)) * upstream) - mass * upstream
            if classes <= DENSE_UP_TO:
                return slope - tf.one_hot(labels, classes, dtype=logits.dtype) * (weight * upstream)
            places = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
            return tf.tensor_scatter_nd_sub(slope, places, (weight * upstream)[:, 0])

        return mixed(logits, labels, weight[:, 0], spread, top, log_sum), gradient

    return loss(logits)


def _jax(logits, labels, weight, spread):
    import jax
    from jax import numpy as jnp

    def with_norm(logits, labels, weight):
        top = jnp.max(logits, axis=-1)
        log_sum = jnp.log(jnp.sum(jnp.exp(logits - top[:, None]), axis=-1))
        return mixed(logits, labels, weight, spread, top, log_sum), (top + log_sum)[:, None]

    @jax.custom_jvp
    def loss(logits, labels, weight):
        return with_norm(logits, labels, weight)[0]

    # A rule for the tangent rather than for the gradient: forward mode stays.
    @loss.defjvp
    def tangent(primals, tangents):
        logits, labels, weight = primals
        value, log_norm = with_norm(logits, labels, weight)
        weight, classes = weight[:, None], logits.shape[-1]
        slope = (weight + total(spread, classes)) * jnp.exp(logits - log_norm) - like(logits, spread)
        slope = slope - jnp.where(jnp.arange(classes) == labels[:, None], weight, 0)
        return value, jnp.sum(slope * tangents[0], axis=-1)

    return loss(logits, labels, weight)


def _torch(logits, labels, weight, spread):
    return _torch_function().apply(logits, labels.long(), weight, spread)


@functools.cache
def _torch_function():
    import torch

    class SmoothedCrossentropy(torch.autograd.Function):
        @staticmethod
        def forward(logits, labels, weight, spread):
            return mixed(torch.log_softmax(logits, dim=-1), labels, weight, spread)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs[:3])
            ctx.spread = inputs[3]

        @staticmethod
        def backward(ctx, upstream):
            logits, labels, weight = ctx.saved_tensors
            upstream = upstream[:, None]
            pull = weight[:, None] * upstream
            factor = pull + total(ctx.spread, logits.shape[-1]) * upstream
            rest = like(logits, ctx.spread) * upstream
            slope = torch.softmax(logits, dim=-1)
            if torch.is_grad_enabled():  # to be differentiated once more, which forbids to write over what is needed then
                return (slope * factor - rest).scatter_add(1, labels[:, None], -pull), None, None, None
            return slope.mul_(factor).sub_(rest).scatter_add_(1, labels[:, None], -pull), None, None, None

    return SmoothedCrossentropy
