"""Backbones of KerasHub, which make their graph in their constructor, around a smaller graph.

A task generates text or images by methods of its class, which call the layers of its backbone one by one. So a smaller backbone becomes an
instance of a subclass of its class, whose config is that of the graph, with the attributes beside it: layers by their names.
"""

import functools
from typing import Any

import keras
from keras import tree

from keras_reg._registration import PACKAGE
from keras_reg.models.attachment.carrier import original_class
from keras_reg.models.compaction.state import is_plain, pairs


class Unkeepable(ValueError):
    """A model whose class cannot be kept around another graph."""


class Kept:
    """What the subclasses share. Every one is registered by the same name: which of them Keras finds makes no difference."""

    def get_config(self) -> dict[str, Any]:
        graph = keras.Model(self._inputs_struct, self._outputs_struct, name=self.name)
        layers = {id(inner): [layer.name, place] for layer in graph.layers for place, inner in enumerate(layer._flatten_layers())}
        return {
            "class": keras.saving.get_registered_name(type(self).__bases__[-1]),
            "graph": _graph_config(graph),
            "attributes": {name: _encoded(value, layers) for name, value in _attributes(self).items()},
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        if "graph" not in config:  # Keras looked for the original by its name
            return cls.__bases__[-1].from_config(config)
        kind = _hub_class(config["class"])
        graph = keras.saving.deserialize_keras_object(config["graph"])
        layers = {layer.name: list(layer._flatten_layers()) for layer in graph.layers}
        attributes = {name: _decoded(value, layers) for name, value in config["attributes"].items()}
        policy = keras.dtype_policies.deserialize(config["dtype"])
        return _made(kind, graph._inputs_struct, graph._outputs_struct, graph.name, attributes, policy)


keras.saving.register_keras_serializable(package=PACKAGE, name="Kept")(Kept)


def _graph_config(graph: Any) -> dict[str, Any]:
    config = keras.saving.serialize_keras_object(graph)
    without_build = {layer.name for layer in graph.layers if getattr(layer.build, "_is_default", False)}
    for node in config["config"]["layers"]:
        if node["name"] in without_build:  # these are built when the graph calls them, which Keras would take for done
            node.pop("build_config", None)
    return config


def original_kind(model: Any) -> type:
    """The class of a model as its author knows it."""
    kind = original_class(model)
    return kind.__bases__[-1] if issubclass(kind, Kept) else kind


def keep(model: Any, inputs: Any, outputs: Any, new_layers: dict[int, Any]) -> Any:
    """A model of the same class on another graph.

    Args:
        model: The old model.
        inputs: The new inputs, in its structure.
        outputs: The new outputs, in its structure.
        new_layers: The new layers by `id` of the old ones.

    Raises:
        Unkeepable: If an attribute belongs to the old graph and has nothing to stand for it in the new one.
    """
    found = {}
    for layer in model._flatten_layers(include_self=False):
        if id(layer) in new_layers:
            found |= {id(old): new for old, new in pairs(layer, new_layers[id(layer)])}
    attributes = {name: _mapped(value, found) for name, value in _attributes(model).items()}
    return _made(original_kind(model), inputs, outputs, model.name, attributes, model.dtype_policy)


def _made(kind: type, inputs: Any, outputs: Any, name: str, attributes: dict[str, Any], policy: Any) -> Any:
    new = kind.__new__(kind)
    for attribute, value in attributes.items():
        setattr(new, attribute, value)
    # Past the constructor of the class, which would make a graph of its own. The first such model of a class is no Functional yet.
    base = type(_tiny())
    (base if issubclass(kind, base) else keras.Model).__init__(new, inputs=inputs, outputs=outputs, name=name)
    new.dtype_policy = policy
    new._functional_layer_ids = {id(layer) for layer in new._flatten_layers()}
    new._initialized = True
    # Past the tracking of attributes by Keras and PyTorch.
    object.__setattr__(new, "__class__", _subclass(kind))
    return new


@functools.cache
def _subclass(kind: type) -> type:
    # The name is what summaries show: that of the class.
    own = type(kind.__name__, (Kept, kind), {"__module__": __name__, "__qualname__": kind.__qualname__})
    return keras.saving.register_keras_serializable(package=PACKAGE, name="Kept")(own)


def _hub_class(name: Any) -> type:
    """Only KerasHub's own models: a file may name anything."""
    import keras_hub as keras_hub  # registers them

    kind = keras.saving.get_registered_object(name) if str(name).startswith("keras_hub>") else None
    if not (isinstance(kind, type) and issubclass(kind, keras.Model)):
        raise ValueError(f"Argument `class` of a saved model must be a model of KerasHub. Received: {name!r}")
    return kind


def _attributes(model: Any) -> dict[str, Any]:
    """What the class has set: neither what every model has, nor what compiling and training leave."""
    common = _common_attributes()
    kinds = (keras.optimizers.Optimizer, keras.Metric, keras.Loss, keras.callbacks.Callback, keras.Variable)
    return {
        name: value
        for name, value in vars(model).items()
        if name not in common and not name.startswith("_self_") and not isinstance(value, kinds)
    }


def _tiny() -> Any:
    """A functional model like any other."""
    x = keras.Input((1,))
    return keras.Model(x, x)


@functools.cache
def _common_attributes() -> frozenset[str]:
    return frozenset(vars(_tiny())) | {
        *("optimizer", "stop_training", "history", "generate_function", "_compiled_trainable_state", "_compile_config"),
        *("_functional_layer_ids", "_initialized", "_torch_params"),
    }


def _mapped(value: Any, found: dict[int, Any]) -> Any:
    """An attribute of the old model as one of the new."""
    if isinstance(value, keras.Layer):
        if id(value) not in found and value.variables:
            raise Unkeepable(f"{value.name} is not in the graph")
        # One without weights, as a preprocessor, is the same for both.
        return found.get(id(value), value)
    if is_plain(value):
        return tree.map_structure(lambda item: item, value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, found) for item in value) if type(value) is tuple else [_mapped(item, found) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, found) for key, item in value.items()}
    return _decoded(_encoded(value, {}), {})


def _encoded(value: Any, layers: dict[int, list]) -> dict[str, Any]:
    """For a config: a layer of the graph by its name, one within it by its place there, anything else as itself."""
    if id(value) in layers:
        return {"layer": layers[id(value)]}
    if is_plain(value):
        return {"plain": keras.saving.serialize_keras_object(value)}
    if isinstance(value, (list, tuple)):
        return {"list": [_encoded(item, layers) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: _encoded(item, layers) for key, item in value.items()}}
    try:
        return {"object": keras.saving.serialize_keras_object(value)}
    except Exception as error:  # of an object that has no config
        raise Unkeepable(f"{value!r} has no config") from error


def _decoded(value: dict[str, Any], layers: dict[str, Any]) -> Any:
    ((form, content),) = value.items()
    if form == "layer":
        name, place = content
        return layers[name][place]
    if form == "list":
        return [_decoded(item, layers) for item in content]
    if form == "dict":
        return {key: _decoded(item, layers) for key, item in content.items()}
    return keras.saving.deserialize_keras_object(content)
