"""What Keras's safe mode keeps out of a file, taken from the layer itself where a copy of it is made.

A copy is rebuilt from the config of a live layer, and under safe mode: in that config may be what was read from a file and never
looked at. What safe mode refuses is code, and the code of a live layer is there to be used: functions themselves, and layers that are
made by the constructor once more.
"""

import copy
import types
from collections.abc import Iterator
from typing import Any

import keras

from keras_reg.weights import layers_of

BY_CONSTRUCTOR = ("TorchModuleWrapper", "TFSMLayer")
BY_FILE = ("StringLookup", "IntegerLookup", "TextVectorization")
"""Refused where their vocabulary is a file beside the model's."""


def with_live_code(config: Any, layer: Any) -> tuple[Any, dict[str, Any]]:
    """A config of the layer without code in it, and the objects of the layer that it names instead."""
    nodes = list(_refused(config))
    if not nodes:
        return config, {}
    config = copy.deepcopy(config)
    functions = list(_functions(list(layers_of(layer)), set()))
    objects: dict[str, Any] = {}
    for node in _refused(config):
        if node["class_name"] == "__lambda__":
            live = next((f for f in functions if f.__name__ == "<lambda>" and _code(f) == _parts(node["config"])), None)
        elif node["class_name"] == "function":
            live = next((f for f in functions if f.__name__ == node["config"]), None)
        else:
            live = _made_again(node, layer)
        if live is not None:
            name = f"keras_reg live {len(objects)}"
            objects[name] = live
            as_function = isinstance(live, types.FunctionType)
            node.update({"module": "builtins", "registered_name": name})
            node.update({"class_name": "function", "config": name} if as_function else {"class_name": name})
    return config, objects


def _refused(node: Any) -> Iterator[dict]:
    """The nodes that Keras makes no object of, under safe mode or because it does not know the function."""
    if isinstance(node, dict) and _is_refused(node):
        yield node
    elif isinstance(node, (list, tuple, dict)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _refused(item)


def _is_refused(node: dict) -> bool:
    kind = node.get("class_name")
    if kind == "function":
        return _unknown(node)
    return kind == "__lambda__" or kind in BY_CONSTRUCTOR or (kind in BY_FILE and isinstance(node["config"].get("vocabulary"), str))


def _unknown(node: dict) -> bool:
    """Whether it is a function that nobody has registered, and none of Keras's own."""
    name = str(node.get("config"))
    rooms = (keras.activations, keras.initializers, keras.losses, keras.metrics, keras.ops)
    return keras.saving.get_registered_object(name) is None and not any(hasattr(room, name) for room in rooms)


def _functions(thing: Any, seen: set[int]) -> Iterator[types.FunctionType]:
    """The functions that layers hold, themselves or in what they serialize."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, types.FunctionType):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from _functions(item, seen)
    elif isinstance(thing, dict):
        for item in thing.values():
            yield from _functions(item, seen)
    elif hasattr(thing, "get_config") and hasattr(thing, "__dict__"):
        yield from _functions(vars(thing), seen)


def _code(function: types.FunctionType) -> list:
    config = keras.layers.Lambda(function, name="live").get_config()["function"]["config"]
    return _parts(keras.saving.serialize_keras_object(config))


def _parts(config: dict) -> list:
    """Code, defaults and closure, which Keras writes in one of two ways."""
    parts = config["value"] if "value" in config else [config.get(key) for key in ("code", "defaults", "closure")]
    return [list(part) if isinstance(part, tuple) else part for part in parts]


def _made_again(node: dict, layer: Any) -> Any:
    """What makes, for this node, a layer of the same class and arguments as the live layer of that name."""
    name = node["config"].get("name")
    live = next((each for each in layers_of(layer) if each.name == name and type(each).__name__ == node["class_name"]), None)
    if live is None:
        return None
    config = live.get_config()
    if node["class_name"] in BY_FILE:
        made = type(live).from_config(config)
    else:
        module = {"module": copy.deepcopy(live.module)} if "module" in config else {}
        made = type(live)(**{**config, "dtype": live.dtype_policy, **module})
    return types.SimpleNamespace(from_config=lambda config: made)
