"""Models as bytes, which travel to other processes and make any number of copies."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
from keras import ops, tree

from keras_reg.strength_variable import variables_of
from keras_reg.weights import layers_of, read


def pack(model: Any) -> bytes:
    """A compiled model as the bytes of a `.keras` file, of which `unpack` makes a copy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        packed = path.read_bytes()
    try:
        copy = unpack(packed, code_of(model))
    except Exception as error:  # whatever a class of the user's raises
        raise ValueError(
            f"Argument `model` must be one that `model.save` and `keras.models.load_model` copy. {model.name!r} is not: {error}"
        ) from error
    if not copy.compiled:
        raise ValueError(f"Argument `model` must have a loss, metrics and an optimizer that are saved with it. {model.name!r} loses them.")
    return packed


def unpack(packed: bytes, code: dict[str, Any] | None = None) -> Any:
    """A copy of the model: weights, optimizer with its state, loss and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(packed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Skipping variable loading for optimizer")  # which had none yet
            return keras.models.load_model(path, custom_objects=code)


def code_of(model: Any) -> dict[str, Any]:
    """The functions and classes of the user's in a model, by the names that Keras would look them up."""
    compiled = tree.flatten(model._compile_config.config) if getattr(model, "_compile_config", None) else []
    things = [thing if hasattr(thing, "__name__") else type(thing) for thing in compiled]
    things += [type(layer) for layer in layers_of(model)]
    return {thing.__name__: thing for thing in things if thing.__module__.split(".")[0] not in ("keras", "keras_reg", "builtins")}


class State:
    """The values of the variables of a model and its optimizer at one time, to be put back."""

    def __init__(self, model: Any):
        self.of_model = _values(variables_of(model))
        self.of_optimizer = _values(model.optimizer.variables)

    def restore_model(self) -> None:
        _assign(self.of_model)

    def restore_optimizer(self) -> None:
        _assign(self.of_optimizer)


def _values(variables: list[Any]) -> list[tuple[Any, Any]]:
    return [(variable, ops.convert_to_numpy(read(variable)).copy()) for variable in variables]


def _assign(values: list[tuple[Any, Any]]) -> None:
    for variable, value in values:
        variable.assign(value)
