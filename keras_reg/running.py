"""Who runs: whose step is being computed or traced, and which optimizers with a prox it may apply.

A penalty is handed weights and nothing else. Whether its gradient or a prox acts depends on the optimizer that will be applied, and no
other way tells the cases apart: TensorFlow traces the loss before it builds the optimizer; Adam leaves no trace on the variables when it
takes over from a `Proximal` that still exists; and of two models that share a weight each may have an optimizer of its own
(tests/test_acting.py and tests/test_binding.py have these cases). So the frames of the running methods are looked at, here alone.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_reg.backend import is_compiling
from keras_reg.weights import layers_of

_READERS = frozenset({"losses", "_get_own_losses", "_get_regularization_losses"})
"""What reads the losses of a model also outside a step of its own."""


def running_models() -> list[Any]:
    """The compiled models one of whose methods is running, the innermost first, but for those whose losses are only being read."""
    return _models_on_the_stack(lambda name: name not in _READERS)


def readers() -> list[Any]:
    """The models and layers whose losses are being read."""
    return _models_on_the_stack(lambda name: name in _READERS, keras.Layer)


def _models_on_the_stack(wanted: Any, kind: type | None = None) -> list[Any]:
    if is_compiling():
        return []  # there are no frames to look at
    found = []
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self" and wanted(code.co_name):
            owner = frame.f_locals.get("self")
            fits = isinstance(owner, kind or keras.Model) and (kind or getattr(owner, "optimizer", None) is not None)
            if fits and not any(owner is other for other in found):
                found.append(owner)
        frame = frame.f_back
    return found


def proximal_optimizers(optimizer: Any) -> Iterator[Any]:
    """The optimizers with a prox in a compiled one, which Keras's wrappers may hold inside."""
    if hasattr(optimizer, "applies_prox_to"):
        yield optimizer
    # Keras's wrappers: LossScaleOptimizer has one inside, MultiOptimizer several.
    elif hasattr(optimizer, "inner_optimizer"):
        yield from proximal_optimizers(optimizer.inner_optimizer)
    else:
        for inner in getattr(optimizer, "optimizers", ()):
            yield from proximal_optimizers(inner)


def innermost(optimizer: Any) -> Any:
    """The optimizer that makes the updates, within those around it."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def optimizers_in(model: Any) -> Iterator[Any]:
    """The optimizers with a prox that a step of the model may apply: a step of its own applies any that it holds."""
    yield from proximal_optimizers(getattr(model, "optimizer", None))
    if type(model).train_step.__module__.split(".")[0] != "keras":
        for layer in layers_of(model):
            for value in list(vars(layer).values()):
                for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]:
                    if isinstance(one, keras.optimizers.Optimizer):
                        yield from proximal_optimizers(one)


def build_optimizers(model: Any) -> None:
    """TensorFlow builds the optimizer after the loss has been traced; then it would be too late to stop a gradient."""
    if any(not optimizer.built for optimizer in proximal_optimizers(getattr(model, "optimizer", None))) and in_train_step(model):
        with keras.name_scope(model.optimizer.name):
            model.optimizer.build(model.trainable_variables)


def in_train_step(model: Any) -> bool:
    return any(model is other for other in _models_on_the_stack(lambda name: name == "train_step"))
