"""Layers of KerasHub that make their layers themselves, with some of those narrower than their own config could say.

Such a layer becomes an instance of a subclass of its own class. It is built as it always is, and then the narrower layers take the places
of those within. Its config is that of the layer, with those of the narrower layers beside it.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_reg._keras import unlocked
from keras_reg._registration import PACKAGE
from keras_reg.models.attachment.carrier import original_class
from keras_reg.models.compaction.fewer_heads import with_attributes
from keras_reg.models.compaction.slots import resolve


class Narrowed:
    """What the subclasses share. Every one is registered by the same name: which of them Keras finds makes no difference."""

    def get_config(self) -> dict[str, Any]:
        parts = {}
        for path, (part, shapes) in self._narrow["parts"].items():
            node = keras.saving.serialize_keras_object(resolve(self, path) if self.built else part)
            node.pop("build_config", None)  # it is built in its place
            parts[path] = {"layer": node, "build": shapes}
        kind = type(self).__bases__[-1]
        layer = {
            "module": kind.__module__,
            "class_name": kind.__name__,
            "registered_name": keras.saving.get_registered_name(kind),
            "config": _serializable(by_arguments(self, kind)) if self._narrow["by_arguments"] else own_config(self),
        }
        rest = {key: self._narrow[key] for key in ("attributes", "build", "by_arguments", "weights")}
        return {"layer": layer, "parts": parts, **rest}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        if "parts" not in config:  # Keras looked for the original by its name
            return cls.__bases__[-1].from_config(config)
        parts = {
            path: (keras.saving.deserialize_keras_object(part["layer"]), _tuples(part["build"])) for path, part in config["parts"].items()
        }
        layer = keras.saving.deserialize_keras_object(config["layer"])
        if not all(isinstance(one, keras.Layer) for one in (layer, *(part for part, _ in parts.values()))):
            raise ValueError(f"Argument `config` must hold layers. Received: config={config!r}")
        weights = _tuples(config["weights"])
        return narrowed(layer, parts, config["attributes"], _tuples(config["build"]), config["by_arguments"], weights)


keras.saving.register_keras_serializable(package=PACKAGE, name="Narrowed")(Narrowed)


def narrowed(
    layer: Any,
    parts: dict[str, tuple[Any, dict]],
    attributes: dict[str, dict[str, Any]],
    build: dict[str, Any] | None,
    by_arguments: bool = False,
    weights: dict[str, tuple] | None = None,
) -> Any:
    """A layer that is not built yet, of its class, with narrower layers.

    Args:
        layer: The layer.
        parts: The narrower layers, not built, by the paths of those that they stand for, each with the shapes to build it with.
        attributes: What says how wide something is, or which heads are left, by the paths of the layers that have it.
        build: The shapes to build the layer with, before the narrower ones take their places; `None` for those that it is given.
        by_arguments: Whether the class itself has no config that its constructor takes.
        weights: The shapes of weights that are narrower, by their paths.
    """
    weights = weights or {}
    if isinstance(layer, Narrowed):  # for want of a config
        given = layer._narrow
        parts, weights, by_arguments = {**given["parts"], **parts}, {**given["weights"], **weights}, given["by_arguments"]
        attributes = {path: given["attributes"].get(path, {}) | attributes.get(path, {}) for path in given["attributes"] | attributes}

    def narrow(ready=True):
        for path, (part, shapes) in parts.items():
            _put(layer, path, part, shapes if ready else None)
        for path, shape in weights.items():
            _put_weight(layer, path, shape)
        for path, values in attributes.items():
            with_attributes(resolve(layer, path) if path else layer, values)

    own_build = inspect.unwrap(layer.build, stop=lambda function: not hasattr(function, "_narrows"))

    @functools.wraps(own_build)
    def build_narrowed(*args, **kwargs):
        if build is None or in_time:
            own_build(*args, **kwargs)
        else:
            own_build(**build)
            narrow()

    # A class without a `build` makes its layers in its constructor; some others are built there.
    in_time = getattr(own_build, "_is_default", False)
    if layer.built or in_time:
        narrow(ready=not in_time)
    build_narrowed._narrows = True
    kind = type(layer).__bases__[-1] if isinstance(layer, Narrowed) else type(layer)
    given = {"parts": parts, "attributes": attributes, "build": build, "by_arguments": by_arguments, "weights": weights}
    # Past the tracking of attributes by Keras and PyTorch.
    object.__setattr__(layer, "_narrow", given)
    object.__setattr__(layer, "build", build_narrowed)
    object.__setattr__(layer, "__class__", _subclass(kind))
    return layer


def unnarrowed_kind(layer: Any) -> type:
    """The class of a layer as its author knows it."""
    kind = original_class(layer)
    return kind.__bases__[-1] if issubclass(kind, Narrowed) else kind


@functools.cache
def _subclass(kind: type) -> type:
    # The name is what summaries show: that of the class.
    own = type(kind.__name__, (Narrowed, kind), {"__module__": __name__, "__qualname__": kind.__qualname__})
    return keras.saving.register_keras_serializable(package=PACKAGE, name="Narrowed")(own)


def _put(layer: Any, path: str, part: Any, shapes: dict[str, Any] | None) -> None:
    with _scopes(layer, path):
        if shapes is not None:
            part.build(**shapes)
    replace_within(layer, resolve(layer, path), part)


def _put_weight(layer: Any, path: str, shape: tuple) -> None:
    *around, name = path.split(".")
    owner = resolve(layer, ".".join(around)) if around else layer
    old = getattr(owner, name)
    with unlocked(owner), _scopes(layer, path):
        owner._untrack_variable(old)  # deleting the attribute would collect garbage each time
        setattr(owner, name, owner.add_weight(shape=shape, initializer="zeros", dtype=old.dtype, trainable=old.trainable, name=old.name))


@contextlib.contextmanager
def _scopes(layer: Any, path: str) -> Iterator[None]:
    """So that paths of variables are what they would be."""
    with contextlib.ExitStack() as scopes:
        *around, _ = path.split(".")
        for depth in range(len(around) + 1):
            within = resolve(layer, ".".join(around[:depth])) if depth else layer
            if isinstance(within, keras.Layer):
                scopes.enter_context(within._open_name_scope())
        yield


def own_config(layer: Any) -> dict[str, Any]:
    """What the class of a layer, without what stands around it here, gives as its config."""
    around = type(layer)
    object.__setattr__(layer, "__class__", unnarrowed_kind(layer))
    try:
        return layer.get_config()
    finally:
        object.__setattr__(layer, "__class__", around)


def by_arguments(layer: Any, kind: type) -> dict[str, Any]:
    """A config from what a layer keeps of the arguments of its constructor."""
    config = {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value = getattr(layer, name, getattr(layer, f"_{name}", parameter.default))
        if value is parameter.empty:
            raise ValueError(f"{kind.__name__} does not keep its argument `{name}`")
        config[name] = value
    return config


def _serializable(config: dict[str, Any]) -> dict[str, Any]:
    def plain(value):
        if isinstance(value, keras.dtype_policies.DTypePolicy):
            return keras.dtype_policies.serialize(value)
        if isinstance(value, (keras.initializers.Initializer, keras.regularizers.Regularizer, keras.constraints.Constraint)):
            return keras.saving.serialize_keras_object(value)
        return keras.activations.serialize(value) if inspect.isfunction(value) else value

    return {key: plain(value) for key, value in config.items()}


def _tuples(value: Any) -> Any:
    """Shapes as Keras has them: a file knows lists only."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def replace_within(layer: Any, old: Any, new: Any) -> None:
    """Puts another layer into the place of one within a layer, wherever it is held there."""
    for parent in layer._flatten_layers():
        tracker = parent._tracker
        locked = tracker.locked
        tracker.unlock()
        if tracker.is_in_store("layers", old):
            # In its place: the order of layers is that of their weights.
            tracker.replace_tracked_value("layers", old, new)
        for name, value in {**vars(parent), **vars(parent).get("_modules", {})}.items():  # the second where PyTorch keeps layers
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and name != "_layers" and any(item is old for item in value):
                value[:] = [new if item is old else item for item in value]
        if locked:
            tracker.lock()
