"""What JAX does its own way. See `plain` for what each function is."""

import jax


def can_be_seen(tensor):
    return not isinstance(tensor, jax.core.Tracer) and all(device.platform == "cpu" for device in tensor.devices())


def value_and_gradient(function, w):
    return jax.value_and_grad(function)(w)


def compiled(function):
    return jax.jit(function)
