"""A layer made again from its config, smaller or not: with what the config cannot hold, and with parts that others share."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import keras

from keras_reg.models.attachment.carrier import original_class
from keras_reg.models.attachment.rebuilt import own_classes
from keras_reg.models.compaction.narrowed import Narrowed, by_arguments, narrowed, own_config, unnarrowed_kind
from keras_reg.models.compaction.slots import resolve
from keras_reg.regularizers import Sum
from keras_reg.regularizers.constraint import Constraint
from keras_reg.regularizers.part import Part
from keras_reg.weights import layers_of

SETTINGS = ("activation", "_initializer", "_regularizer", "_constraint")


def made_again(layer: Any, changes: dict[str, Any], shared: dict[int, Any], name: str) -> Any:
    """Another of the layer's class.

    Args:
        layer: The old one.
        changes: What is different in its config.
        shared: New layers for those within it that others hold, too, by `id` of the old ones.
        name: What the layer is called in an error.
    """
    cls = unnarrowed_kind(layer)
    try:
        with _sharing(layer, shared), keras.saving.custom_object_scope(_classes(layer)):
            with _own_settings(layer) as settings:
                config = own_config(layer)
            # Parts of a structural penalty, and constraints, fit the old widths: they are cut and put back once the weights are there.
            config = _without_what_is_cut({**config, **{key: settings[key] for key in config if key in settings}, **changes})
            return _narrow_again(layer, cls.from_config(config), shared)
    except Exception as error:  # of the user's code, or of KerasHub's
        if cls.__module__.split(".")[0] == "keras_hub":
            with contextlib.suppress(Exception):
                given = {**by_arguments(layer, cls), **changes}
                new = narrowed(cls(**given), {}, {}, None if changes else dict(layer._build_shapes_dict), by_arguments=True)
                return _narrow_again(layer, new, shared)
        raise ValueError(f"Layer {name!r} cannot be made again from its own config: {type(error).__name__}: {error}") from error


def _without_what_is_cut(config: Any) -> Any:
    """A config without the regularizers in it that fit one width."""
    if isinstance(config, dict):
        if isinstance(inner := config.get("config"), dict):
            kind = keras.saving.get_registered_object(str(config.get("registered_name")))
            if isinstance(kind, type) and issubclass(kind, (Part, Constraint)) and inner.get("structure", True) is not None:
                return None
            if kind is Sum and any(_without_what_is_cut(part) is None for part in inner["penalties"]):
                return None
        return {key: _without_what_is_cut(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_what_is_cut(value) for value in config)
    return config


def _narrow_again(layer: Any, new: Any, shared: dict[int, Any]) -> Any:
    """With narrower layers within, if the old one has such."""
    if not isinstance(layer, Narrowed):
        return new
    given = layer._narrow
    parts = {path: (made_again(resolve(layer, path), {}, shared, path), shapes) for path, (_, shapes) in given["parts"].items()}
    return narrowed(new, parts, given["attributes"], given["build"], given["by_arguments"], given["weights"])


def config_of(layer: Any) -> dict[str, Any]:
    """The config of a layer, without what may be carried around it."""
    with _own_settings(layer):
        return own_config(layer)


def is_own(value: Any) -> bool:
    """Whether this is a function or object of the user's, that a config may hold by name only or not at all."""
    if value is None or isinstance(value, (str, dict, bool, keras.Layer)):
        return False
    thing = value if hasattr(value, "__name__") else type(value)
    return callable(value) and str(getattr(thing, "__module__", "")).split(".")[0] not in ("keras", "keras_reg")


def own_object(value: Any) -> Any:
    """Another of a user's object, which may have a state; functions as they are."""
    if hasattr(value, "__name__"):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # an object of the user's may refuse in its own way
        return value


@contextlib.contextmanager
def _own_settings(layer: Any) -> Iterator[dict[str, Any]]:
    """Takes what is the user's own off a layer and the layers within, for the time being; yields it by the names of the config."""
    taken, found = [], {}
    for inner in layers_of(layer):
        for name, value in list(vars(inner).items()):
            if name.endswith(SETTINGS) and is_own(value) and not isinstance(getattr(type(inner), name, None), property):
                taken.append((inner, name, value))
                found.setdefault(name.lstrip("_"), own_object(value))
    try:
        for inner, name, _ in taken:
            object.__setattr__(inner, name, keras.activations.linear if name.endswith("activation") else None)
        yield found
    finally:
        for inner, name, value in taken:
            object.__setattr__(inner, name, value)


def _classes(layer: Any) -> dict[str, type]:
    found = own_classes(layer)
    for inner in layers_of(layer):
        for value in vars(inner).values():
            if isinstance(value, (keras.Layer, keras.initializers.Initializer, keras.constraints.Constraint)):
                kind = original_class(value)
                if kind.__module__.split(".")[0] not in ("keras", "keras_reg"):
                    found |= {kind.__name__: kind, keras.saving.get_registered_name(kind): kind}
    return found


@contextlib.contextmanager
def _sharing(layer: Any, shared: dict[int, Any]) -> Iterator[None]:
    """Has Keras find the new layers where it makes those within this one; it knows objects that a config holds several times."""
    within = [inner for inner in layer._flatten_layers(include_self=False) if id(inner) in shared]
    if not within:
        yield
        return
    # Has no public name.
    from keras.src.saving import serialization_lib as keras_saving

    with keras_saving.ObjectSharingScope():
        for inner in within:
            keras_saving.record_object_after_serialization(inner, {"module": None})
            keras_saving.record_object_after_deserialization(shared[id(inner)], id(inner))
        yield
