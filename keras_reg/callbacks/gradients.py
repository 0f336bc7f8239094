"""Gradients of a model's loss on one batch, apart from its training step."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import backend, ops


def gradient_function(model: Any, batch: tuple) -> Callable[[], list[np.ndarray]]:
    """A function that gives the gradient of the compiled loss, penalties included, by every trainable variable.

    Layers run as in inference. No variable of the model, its metrics or its optimizer changes.
    """
    # They are listed once: frozen layers and a recompiled loss are seen by the next `fit`.
    variables, gradient, batch = list(model.trainable_variables), gradient_at(model), _tensors(batch)
    return lambda: gradient(variables, batch)


def gradient_at(model: Any) -> Callable[[list[Any], tuple], list[np.ndarray]]:
    """The same as a function of the values of the trainable variables, and of the batch."""
    variables = list(model.trainable_variables)

    def loss(values, x, y, sample_weight):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)), collect_losses=True):
            outputs = model(x, training=False)
            return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=False)

    differentiated = _differentiated(loss)

    def gradient(values, batch):
        return [ops.convert_to_numpy(part) for part in differentiated([ops.convert_to_tensor(v) for v in values], *_tensors(batch))]

    return gradient


def _tensors(batch: tuple) -> tuple:
    parts = (*batch, None, None)[:3]
    return tuple(part if part is None else keras.tree.map_structure(ops.convert_to_tensor, part) for part in parts)


def _differentiated(function: Callable) -> Callable:
    """The gradient of a scalar function of a list of tensors and of data."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def gradient(values, *data):
            with tf.GradientTape() as tape:
                tape.watch(values)
                value = function(values, *data)
            return tape.gradient(value, values, unconnected_gradients="zero")

        return gradient
    if backend.backend() == "jax":
        import jax

        return jax.jit(jax.grad(function))

    import torch

    def gradient(values, *data):
        values = [value.detach().requires_grad_(True) for value in values]
        with torch.enable_grad():
            parts = torch.autograd.grad(function(values, *data), values, allow_unused=True)
        return [torch.zeros_like(value) if part is None else part for part, value in zip(parts, values, strict=True)]

    return gradient
