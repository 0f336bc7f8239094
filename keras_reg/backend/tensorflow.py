"""What TensorFlow does its own way. See `plain` for what each function is."""

import keras
import numpy as np
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


def read(variable):
    # A variable that is asked for an array is copied, a tensor is not.
    return np.asarray(variable.value.value())


def outside_of_graphs():
    return tf.init_scope()


def distribution_scope(model):
    strategy = getattr(model, "distribute_strategy", None)
    return keras.name_scope(model.name) if strategy is None else strategy.scope()


def replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_first_process(model):
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or strategy.extended.should_save_summary
