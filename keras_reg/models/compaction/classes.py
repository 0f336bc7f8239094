"""What becomes of the class of a model: it stays where its constructor allows it, else a warning names what is lost."""

import contextlib
import inspect
import warnings
from typing import Any

import keras

from keras_reg.models.attachment.carrier import original_class
from keras_reg.models.compaction.kept import Unkeepable, keep, original_kind

_PLAIN = (["self", "args", "kwargs"], ["self", "layers", "trainable", "name"], ["self", "inputs", "outputs", "name", "kwargs"])
# What a plain model, made of the new layers, does not need.
_OF_THE_CONSTRUCTOR = ("get_config", "from_config", "build", "get_build_config", "build_from_config", "compute_output_shape")


def like(model: Any, inputs: Any, outputs: Any, new_layers: dict[int, Any]) -> Any:
    """A functional model of new layers, of the old one's class if that can be.

    Args:
        model: The old model.
        inputs: The inputs, in its structure.
        outputs: The outputs, in its structure.
        new_layers: The new layers by `id` of the old ones.
    """
    kind = original_kind(model)
    if _takes_a_graph(kind):
        return kind(inputs, outputs, name=model.name)
    if is_of_the_hub(model, "Backbone"):
        with contextlib.suppress(Unkeepable):
            return keep(model, inputs, outputs, new_layers)
    warn_of_what_is_lost(model, kind, keras.Model)
    return keras.Model(inputs, outputs, name=model.name)


def is_of_the_hub(model: Any, name: str) -> bool:
    """Whether this is one of KerasHub's `Task` or `Backbone`."""
    return any(base.__name__ == name and base.__module__.startswith("keras_hub.") for base in type(model).__mro__)


def task_like(model: Any, backbone: Any) -> Any:
    """A task of KerasHub of the same class around another backbone: it makes its head itself.

    Raises:
        Unkeepable: If its constructor does not do that.
    """
    kind = original_class(model)
    try:
        # The preprocessor has no weights: it is the same for both.
        config = {**kind.get_config(model), "backbone": backbone, "preprocessor": model.preprocessor, "compile": False}
        new = kind.from_config(config)
    except Exception as error:  # KerasHub's own, of whatever kind
        raise Unkeepable(f"{model.name}: {error}") from error
    olds, news = ([type(operation) for operation in one.operations if operation is not one.backbone] for one in (model, new))
    if olds != news:
        raise Unkeepable(f"{model.name}: its head is another")
    return new


def sequential_like(model: Any, layers: list[Any]) -> Any:
    """The same for a Sequential model."""
    kind = original_class(model)
    if not _takes_a_graph(kind):
        warn_of_what_is_lost(model, kind, keras.Sequential)
        kind = keras.Sequential
    return kind(layers, name=model.name)


def _takes_a_graph(kind: type) -> bool:
    return list(inspect.signature(kind.__init__).parameters) in _PLAIN


def warn_of_what_is_lost(model: Any, kind: type, other: type) -> None:
    """Names the public methods and properties that are the user's, or KerasHub's."""
    own: dict[str, None] = {}
    for base in kind.__mro__:
        if base.__module__.split(".")[0] not in ("keras", "builtins", "tensorflow", "torch"):
            own |= {name: None for name, value in vars(base).items() if not name.startswith("_") and _is_behaviour(value)}
    lost = [name for name in own if name not in _OF_THE_CONSTRUCTOR]
    if lost:
        warnings.warn(
            f"{model.name!r} becomes a plain keras.{other.__name__} without the {', '.join(lost)} of {kind.__name__}, whose constructor "
            "takes other arguments than that of Keras's model.",
            stacklevel=2,
        )


def _is_behaviour(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
