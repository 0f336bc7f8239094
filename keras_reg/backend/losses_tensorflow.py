"""The crossentropy of a smoothed label where TensorFlow runs: see `losses_plain`."""

import math

import tensorflow as tf

from keras_reg.backend.losses_plain import column, mixed, total
from keras_reg.ops.dtypes import like

FEW_CLASSES = 128


def smoothed_crossentropy(logits, labels, weight, spread):
    classes, mass = logits.shape[-1], like(logits, spread)
    whole = column(weight) + total(spread, classes)  # what a target sums to: 1, if there are no class weights

    def target():
        return tf.where(tf.equal(tf.range(classes), labels[..., None]), column(weight) + mass, mass)

    if classes <= FEW_CLASSES:  # where a target takes little to write down, and XLA long for a softmax
        top = tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
        log_sum = tf.math.log(tf.reduce_sum(tf.exp(logits - top), axis=-1, keepdims=True))
        # A class without mass may have no probability at all.
        return tf.squeeze(whole * (top + log_sum), -1) - tf.reduce_sum(tf.math.multiply_no_nan(logits, target()), axis=-1)

    # Left to autodiff it takes up to twice as long, and more memory than one-hot targets.
    @tf.custom_gradient
    def loss(logits):
        # Of TensorFlow's functions softmax is the fast one; its largest entry has the logarithm of the sum.
        p, top = tf.nn.softmax(logits), tf.reduce_max(logits, axis=-1)
        log_sum = -tf.math.log(tf.reduce_max(p, axis=-1))

        def gradient(upstream):
            scaled = p if isinstance(whole, float) and math.isclose(whole, 1) else p * whole
            return (scaled - target()) * upstream[..., None]

        return mixed(logits, pick(logits, labels), weight, spread, top, log_sum), gradient

    return loss(logits)


def pick(scores, labels):
    # Keras's own way checks and broadcasts first, which takes several times as long.
    return tf.gather(scores, labels, batch_dims=len(labels.shape))
