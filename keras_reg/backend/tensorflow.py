"""What TensorFlow does its own way. See `plain` for what each function is."""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_reg._keras import in_stateless_scope
from keras_reg.backend import plain
from keras_reg.backend.plain import FEW_TO_SORT, as_tensor, column, mixed, total
from keras_reg.backend.search import smallest_of_bits
from keras_reg.backend.tensorflow_table import Table

FEW_CLASSES = 128


def smallest(sizes, number):
    if sizes.dtype != tf.float32 or sizes.shape[0] < FEW_TO_SORT:
        return plain.smallest(sizes, number)
    # These numbers are in the order of their bits.
    return smallest_of_bits(tf.bitcast(sizes, tf.int32), tf.convert_to_tensor(number, tf.int32))


def can_be_seen(tensor):
    return tf.is_tensor(tensor) and not tf.is_symbolic_tensor(tensor) and "GPU" not in tensor.device


def value_and_gradient(function, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = function(w)
    return value, tape.gradient(value, w, unconnected_gradients="zero")


def compiled(function):
    return tf.function(function, autograph=False)


def read(variable):
    # A variable that is asked for an array is copied, a tensor is not.
    return np.asarray(variable.value.value())


def outside_of_graphs():
    return tf.init_scope()


def distribution_scope(model):
    strategy = getattr(model, "distribute_strategy", None)
    return keras.name_scope(model.name) if strategy is None else strategy.scope()


def steps_follow_the_metrics():
    return False


def replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_first_process(model):
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or strategy.extended.should_save_summary


def smoothed_crossentropy(logits, labels, weight, spread):
    classes, mass = logits.shape[-1], as_tensor(spread, logits)
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


def rows_apart(variable):
    if isinstance(variable._value, tf.Variable) and not tf.distribute.has_strategy():
        variable.__class__ = Table


def table(variable):
    return variable if isinstance(variable, Table) else None


def look_up(variable, ids):
    if isinstance(variable, Table) and isinstance(ids, tf.Tensor) and not in_stateless_scope():
        return variable.rows(ids)
    return plain.look_up(variable, ids)
