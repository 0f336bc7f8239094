"""What JAX does its own way. See `plain` for what each function is."""

import jax
import numpy as np

from keras_reg.backend import plain


def kth_smallest(sizes, number):
    return _kth_by_bits(sizes, number) if sizes.dtype == "float32" else plain.kth_smallest(sizes, number)


@jax.jit
def _kth_by_bits(sizes, number):
    # As for TensorFlow.
    bits, number = jax.lax.bitcast_convert_type(sizes, "int32"), jax.numpy.maximum(number, 1)

    def with_next_bit(place, found):
        tried = found + (1 << (30 - place))
        return jax.numpy.where((bits < tried).sum() < number, tried, found)

    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, with_next_bit, 0), "float32")


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
