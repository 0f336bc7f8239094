"""Gradient and compilation: what `keras.ops` has no backend-neutral name for."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def value_and_gradient(function: Callable, w: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient of a scalar function at `w`, by the backend's own automatic differentiation."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.convert_to_tensor(w)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        gradient = tape.gradient(value, tensor, unconnected_gradients="zero")
    elif backend == "jax":
        import jax

        value, gradient = jax.value_and_grad(function)(ops.convert_to_tensor(w))
    elif backend == "torch":
        import torch

        tensor = ops.convert_to_tensor(w).detach().clone().requires_grad_(True)
        value = function(tensor)
        (gradient,) = torch.autograd.grad(value, tensor) if value.requires_grad else (torch.zeros_like(tensor),)
    else:
        raise NotImplementedError(f"check_penalty differentiates on TensorFlow, JAX and PyTorch. Received: backend {backend!r}")
    return float(ops.convert_to_numpy(value)), ops.convert_to_numpy(gradient)


def compiled(function: Callable) -> Callable[..., Any]:
    """`function` as the backend compiles it; PyTorch, which Keras runs eagerly, gets it back as it is."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function
