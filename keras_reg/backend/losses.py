"""What the losses leave to the backend: defined in `losses_plain`, overridden by name in the module of the backend that runs."""

import functools
import importlib
from collections.abc import Callable

import keras

from keras_reg.backend import losses_plain
from keras_reg.backend.losses_plain import mixed as mixed

_BACKEND = keras.backend.backend()
_own = importlib.import_module(f"keras_reg.backend.losses_{_BACKEND}") if _BACKEND in ("tensorflow", "torch") else losses_plain


def _chosen(name: str) -> Callable:
    definition = getattr(losses_plain, name)
    own = getattr(_own, name, definition)

    @functools.wraps(definition)
    def function(*arguments):
        # A symbol of a functional model has no tensor to give to a backend.
        symbolic = any(isinstance(argument, keras.KerasTensor) for argument in arguments)
        return (definition if symbolic else own)(*arguments)

    return function


smoothed_crossentropy = _chosen("smoothed_crossentropy")
pick = _chosen("pick")
class_ids = _chosen("class_ids")
nan_where = _chosen("nan_where")
