"""What JAX does its own way. See `plain` for what each function is."""

import jax
import numpy as np


def can_be_seen(tensor):
    return not isinstance(tensor, jax.core.Tracer) and all(device.platform == "cpu" for device in tensor.devices())


def materialized(x):
    return jax.lax.optimization_barrier(x)


def value_and_gradient(function, w):
    return jax.value_and_grad(function)(w)


def compiled(function):
    return jax.jit(function)


def read(variable):
    # Its own, whatever a step that is being traced has in its place.
    return np.asarray(variable.value if variable._value is None else variable._value)


def loss_sees_the_optimizer():
    return False


def is_first_process(model):
    del model
    return jax.process_index() == 0
