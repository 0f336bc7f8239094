"""Callbacks on models that `fit` builds: what they do has to come before the first step."""

from collections.abc import Callable
from typing import Any

from keras_reg.weights import layers_of


def is_built(model: Any) -> bool:
    """Whether all layers have their weights."""
    return bool(model.built) and all(layer.built for layer in layers_of(model))


def when_built(model: Any, function: Callable[[], None]) -> None:
    """Call `function()` as soon as the model has its weights and its optimizer: now, or on the way to its first step.

    On JAX and PyTorch Keras builds the model before it calls the callbacks; TensorFlow builds it while it traces the first step.
    """
    if is_built(model):
        function()
        return

    def train_step(data: Any, *args: Any, **kwargs: Any) -> Any:
        del vars(model)["train_step"]
        model._symbolic_build(data_batch=data)
        function()
        return model.train_step(data, *args, **kwargs)

    vars(model)["train_step"] = train_step
