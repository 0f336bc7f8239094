"""What TensorFlow does its own way. See `plain` for what each function is."""

import tensorflow as tf


def can_be_seen(tensor):
    return tf.is_tensor(tensor) and not tf.is_symbolic_tensor(tensor) and "GPU" not in tensor.device


def value_and_gradient(function, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = function(w)
    return value, tape.gradient(value, w, unconnected_gradients="zero")


def compiled(function):
    return tf.function(function, autograph=False)
