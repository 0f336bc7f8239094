"""What becomes of the penalties of a layer when it is rebuilt from its config, as saving, loading and cloning do: found out by doing it."""

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_reg._keras import names_kept
from keras_reg.models.attachment.carrier import WithPenalties, original_class
from keras_reg.models.attachment.live import with_live_code
from keras_reg.weights import layers_of, weight_name


def units(model: Any) -> list[Any]:
    """The layers that are rebuilt one by one, each as a whole, from a config of its own; Keras's own models are looked into."""
    found: dict[int, Any] = {}

    def visit(layer: Any) -> None:
        if _is_graph_of_layers(layer):
            for inner in layer.layers:
                visit(inner)
        else:
            found.setdefault(id(layer), layer)

    visit(model)
    return list(found.values())


def _is_graph_of_layers(layer: Any) -> bool:
    """Whether it is a model whose config is that of its layers, and no more."""
    if not isinstance(layer, keras.Model) or isinstance(layer, WithPenalties):
        return False
    if _is_of_keras(type(layer)):
        return True
    # A subclass of the functional model, with nothing of its own in saving.
    methods = type(layer).get_config, type(layer).from_config
    if isinstance(layer, keras.Sequential) or not all(_is_of_keras(method) for method in methods):
        return False
    try:
        return {"layers", "input_layers", "output_layers"} <= set(layer.get_config())
    except NotImplementedError:
        return False


def _is_of_keras(thing: Any) -> bool:
    return thing.__module__.split(".")[0] == "keras"


def rebuilt_weights(layer: Any, built_as: Any = None) -> list[Any]:
    """The weights of a copy that is rebuilt from the config, in the order of the layer's own.

    Args:
        layer: A built layer.
        built_as: Another one of its kind that knows how it was built, where this one may not.

    Raises:
        ValueError: if there is no such copy, or if its weights are not those of the layer.
    """
    with refusals():
        config = keras.saving.serialize_keras_object(layer)
        if built_as is not None:
            config["build_config"] = keras.saving.serialize_keras_object(built_as.get_build_config())
    # Compiling is not what is asked about.
    config.pop("compile_config", None)
    with names_kept():
        return rebuild_from(config, built_as or layer, own_classes(layer))[1]


def rebuild_from(config: dict, layer: Any, classes: Mapping[str, type] | None = None) -> tuple[Any, list[Any]]:
    """What a config makes that is that of the layer but for regularizers: and its weights, in the order of the layer's.

    Under safe mode, unless the user has switched it off: nobody has looked at all that a config may hold, which may come from a file.
    """
    with refusals(), _random_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras warns of there, it has warned of when the layer itself was built
        config, live = with_live_code(config, layer)
        copy = keras.saving.deserialize_keras_object(config, custom_objects={**own_classes(layer), **live, **(classes or {})})
        if len(copy.weights) < len(layer.weights):
            _call_symbolically(copy, layer, config.get("build_config") or {})
    counterpart = {id(own): other for own, other in _paired(layer, copy)}
    if any(id(own) not in counterpart for own in layer.weights):
        raise ValueError("the rebuilt layer has other weights")
    return copy, [counterpart[id(own)] for own in layer.weights]


def layer_pairs(layer: Any, copy: Any) -> Iterator[tuple[Any, Any]]:
    """The layer and all in it, each once, with its counterpart, as far as they have one."""
    seen: set[int] = set()

    def visit(one: Any, other: Any) -> Iterator[tuple[Any, Any]]:
        if id(one) in seen:
            return
        seen.add(id(one))
        yield one, other
        inside = [each._flatten_layers(include_self=False, recursive=False) for each in (one, other)]
        by_name = _by_name(*inside)
        if by_name is not None and isinstance(one, keras.Model):
            pairs = by_name
        else:
            pairs = list(zip(*inside, strict=True)) if len(inside[0]) == len(inside[1]) else []
        for pair in pairs:
            yield from visit(*pair)

    yield from visit(layer, copy)


def _by_name(layers: list[Any], others: list[Any]) -> list[tuple[Any, Any]] | None:
    """Keras may give the layers of a functional model another order; their names stay."""
    names, other_names = ({each.name: each for each in some} for some in (layers, others))
    if names.keys() != other_names.keys() or not len(names) == len(layers) == len(others):
        return None
    return [(each, other_names[name]) for name, each in names.items()]


def _paired(layer: Any, copy: Any) -> Iterator[tuple[Any, Any]]:
    """Each weight with its counterpart."""
    if isinstance(layer, keras.Model) and isinstance(copy, keras.Model) and (pairs := _by_name(layer.layers, copy.layers)):
        for one, other in pairs:
            yield from _paired(one, other)
        layer, copy = (_Rest(model) for model in (layer, copy))
    got, expected = ([(weight_name(v), tuple(v.shape)) for v in each.weights] for each in (copy, layer))
    if got != expected:
        raise ValueError(f"the rebuilt layer has other weights: {_listed(got)}, not {_listed(expected)}")
    yield from zip(layer.weights, copy.weights, strict=True)


class _Rest:
    """The weights of a model that are in none of its layers."""

    def __init__(self, model: Any):
        inner = {id(v) for layer in model.layers for v in layer.weights}
        self.weights = [v for v in model.weights if id(v) not in inner]


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Have any error of Keras's serialization, or of the user's class in it, say in one line what is the matter."""
    try:
        yield
    except Exception as error:
        # Keras quotes the whole config, and the cause after it.
        cause = " ".join(str(error).split()).rpartition("Exception encountered: ")[2]
        raise ValueError(f"Keras cannot rebuild it ({cause[:200]})") from error


def same_regularizer(a: Any, b: Any) -> bool:
    """Whether two regularizers are rebuilt alike."""
    if a is b:
        return True
    return a.__class__ is b.__class__ and hasattr(a, "get_config") and a.get_config() == b.get_config()


def own_classes(layer: Any) -> dict[str, type]:
    """Those that are not Keras's: the user names them to `load_model`, or has registered them."""
    named = {original_class(each) for each in layers_of(layer)}
    named |= {v.regularizer.__class__ for v in layer.weights if v.regularizer is not None}
    named = {c for c in named if c.__module__.split(".")[0] not in ("keras", "keras_reg")}
    return {c.__name__: c for c in named} | {keras.saving.get_registered_name(c): c for c in named}


def _call_symbolically(copy: Any, layer: Any, shapes: dict) -> None:
    """Build what is only built by a call, as the graph of a functional model does on loading."""

    def fresh(value):
        # Without the history of the model's own tensors, which would take the copy for a part of it.
        return keras.KerasTensor(value.shape, value.dtype) if isinstance(value, keras.KerasTensor) else value

    if layer._inbound_nodes:
        arguments = layer._inbound_nodes[0].arguments
        copy(*keras.tree.map_structure(fresh, arguments.args), **keras.tree.map_structure(fresh, arguments.kwargs))
    elif "input_shape" in shapes:
        copy(keras.tree.map_shape_structure(keras.KerasTensor, shapes["input_shape"]))
    elif "shapes_dict" in shapes:
        copy(**{name.removesuffix("_shape"): keras.KerasTensor(shape) for name, shape in shapes["shapes_dict"].items()})


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Initial weights draw seeds: what is drawn for a copy must not change what training draws next."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _listed(weights: list[tuple]) -> str:
    shown = ", ".join(f"{name} {shape}" for name, shape in weights[:4])
    return f"{shown}, … ({len(weights)} in all)" if len(weights) > 4 else shown or "none"
