"""The crossentropy of a smoothed label where TensorFlow runs: see `losses_plain`."""

import tensorflow as tf

from keras_reg.backend.losses_plain import column, mixed, total
from keras_reg.ops.dtypes import like


def smoothed_crossentropy(logits, labels, weight, spread):
    # Left to autodiff it takes up to three times as long, and keeps the exponentials and more.
    @tf.custom_gradient
    def loss(logits):
        # Of TensorFlow's functions softmax is the fast one; its largest entry has the logarithm of the sum.
        p, top = tf.nn.softmax(logits), tf.reduce_max(logits, axis=-1)
        log_sum = -tf.math.log(tf.reduce_max(p, axis=-1))

        def gradient(upstream):
            factor, mass = column(weight) + total(spread, logits.shape[-1]), like(logits, spread)
            is_label = tf.equal(tf.range(logits.shape[-1]), labels[..., None])
            return (p * factor - tf.where(is_label, column(weight) + mass, mass)) * upstream[..., None]

        return mixed(logits, pick(logits, labels), weight, spread, top, log_sum), gradient

    return loss(logits)


def pick(scores, labels):
    # Keras's own way checks and broadcasts first, which takes several times as long.
    return tf.gather(scores, labels, batch_dims=len(labels.shape))
