"""What JAX does its own way. See `plain` for what each function is."""

import jax
import numpy as np


def can_be_seen(tensor):
    return not isinstance(tensor, jax.core.Tracer) and all(device.platform == "cpu" for device in tensor.devices())


def value_and_gradient(function, w):
    return jax.value_and_grad(function)(w)


def compiled(function):
    return jax.jit(function)


def read(variable):
    return np.asarray(variable.value)


def loss_sees_the_optimizer():
    return False


def is_first_process(model):
    del model
    return jax.process_index() == 0
