"""What JAX does its own way. See `plain` for what each function is."""

import jax
import numpy as np

from keras_reg.backend import plain
from keras_reg.backend.plain import FEW_TO_SORT
from keras_reg.backend.search import smallest_of_bits


def smallest(sizes, number):
    return _smallest_by_bits(sizes, number) if sizes.dtype == "float32" and len(sizes) > FEW_TO_SORT else plain.smallest(sizes, number)


@jax.jit
def _smallest_by_bits(sizes, number):
    return smallest_of_bits(jax.lax.bitcast_convert_type(sizes, "int32"), jax.numpy.asarray(number, "int32"))


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
