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
    x, y, sample_weight = (*batch, None, None)[:3]
    x, y, sample_weight = (
        part if part is None else keras.tree.map_structure(ops.convert_to_tensor, part) for part in (x, y, sample_weight)
    )
    # They are listed once: frozen layers and a recompiled loss are seen by the next `fit`.
    variables = list(model.trainable_variables)

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)), collect_losses=True):
            outputs = model(x, training=False)
            return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=False)

    gradient = _differentiated(loss)
    return lambda: [ops.convert_to_numpy(part) for part in gradient([ops.convert_to_tensor(v) for v in variables])]


def _differentiated(function: Callable) -> Callable:
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def gradient(values):
            with tf.GradientTape() as tape:
                tape.watch(values)
                value = function(values)
            return tape.gradient(value, values, unconnected_gradients="zero")

        return gradient
    if backend.backend() == "jax":
        import jax

        return jax.jit(jax.grad(function))

    import torch

    def gradient(values):
        values = [value.detach().requires_grad_(True) for value in values]
        with torch.enable_grad():
            parts = torch.autograd.grad(function(values), values, allow_unused=True)
        return [torch.zeros_like(value) if part is None else part for part, value in zip(parts, values, strict=True)]

    return gradient
