"""Callbacks on models that `fit` builds: what they do has to come before the first step."""

from collections.abc import Callable
from typing import Any

from keras_reg.weights import layers_of


def is_built(model: Any) -> bool:
    """Whether all layers have their weights."""
    return bool(model.built) and all(layer.built for layer in layers_of(model))


def when_built(model: Any, function: Callable[[], None]) -> None:
    """Call `function()` on the way to the first step of a model that is not built, once it has its weights and its optimizer.

    To be called in `set_model`, as Keras asks for the step function next. On JAX and PyTorch Keras builds the model before it calls any
    callback; TensorFlow builds it while it traces the first step.
    """
    step, waiting = model.train_step, [function]

    def train_step(data: Any, *args: Any, **kwargs: Any) -> Any:
        vars(model).pop("train_step", None)
        if waiting:
            model._symbolic_build(data_batch=data)
            waiting.pop()()
        return step(data, *args, **kwargs)

    vars(model)["train_step"] = train_step
