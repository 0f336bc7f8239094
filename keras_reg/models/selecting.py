"""Which weights of a model are meant: by layer type, name pattern, path, predicate, layer or weight."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_reg.callbacks.weights import named_weights

KERNEL = ("*kernel", "*embedding", "*embeddings", "lora_*")
"""What `weights="kernel"` stands for."""


@dataclass(frozen=True)
class Weight:
    """A weight of a model, with all layers that it is in."""

    name: str
    variable: Any
    layers: tuple[Any, ...]
    model: str

    def answers_to(self, selector: Any, argument: str) -> bool:
        if isinstance(selector, str):
            own = (self.name, self.variable.path)
            of_layers = (name for layer in self.layers for name in (layer.name, (layer.path or "").removeprefix(f"{self.model}/")))
            return any(fnmatch.fnmatchcase(name, selector) for name in (*own, *of_layers))
        if isinstance(selector, type) and issubclass(selector, keras.Layer):
            return any(isinstance(layer, selector) for layer in self.layers)
        if isinstance(selector, keras.Variable):
            return selector is self.variable
        if isinstance(selector, keras.Layer):
            return any(layer is selector for layer in self.layers)
        if callable(selector) and not isinstance(selector, type):
            return any(selector(layer) for layer in self.layers)
        raise TypeError(
            f"Argument `{argument}` must hold layer types, patterns of names or paths such as 'block1_*', functions of a layer, layers or "
            f"variables. Received: {selector!r} (of type {type(selector).__name__})"
        )


def select(model: Any, include: Any, exclude: Any, weights: Any) -> list[Weight]:
    """The weights meant by the arguments of `attach` and `detach`, in the order of the model."""
    if not isinstance(model, keras.Layer):
        raise TypeError(f"Argument `model` must be a Keras model or layer. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built or not model.weights:
        raise ValueError(
            f"Argument `model` must have weights: call {model.name!r} on data first, or build it. Received: a model that has none yet."
        )
    everything = _weights_of(model)
    chosen = everything if include is None else _answering(everything, include, "include")
    left_out = set() if exclude is None else {weight.name for weight in _answering(everything, exclude, "exclude")}
    patterns = _name_patterns(weights)
    variables = {id(item) for item in _items(include) if isinstance(item, keras.Variable)}

    def named(weight: Weight) -> bool:
        return id(weight.variable) in variables or any(fnmatch.fnmatchcase(weight.variable.name, pattern) for pattern in patterns)

    kept = [weight for weight in chosen if weight.name not in left_out and named(weight)]
    if not kept:
        raise ValueError(
            f"No weight is left of include={include!r}, exclude={exclude!r}, weights={weights!r}. "
            f"{model.name!r} has {', '.join(weight.name for weight in everything)}."
        )
    return kept


def by_mapping(chosen: list[Weight], mapping: Mapping[Any, Any]) -> list[tuple[Weight, Any]]:
    """Each weight with the value of the first key that it answers to; those that answer to none are left out."""
    if not mapping:
        raise ValueError("Argument `penalty` must not be an empty mapping.")
    for key in mapping:
        _answering(chosen, key, "penalty")
    pairs = []
    for weight in chosen:
        values = [value for key, value in mapping.items() if any(weight.answers_to(item, "penalty") for item in _items(key))]
        if values and values[0] is not None:
            pairs.append((weight, values[0]))
    return pairs


def _weights_of(model: Any) -> list[Weight]:
    around: dict[int, list[Any]] = {}
    for layer in model._flatten_layers(include_self=False):
        for variable in layer.weights:
            around.setdefault(id(variable), []).append(layer)
    # A model that is a single layer is the layer that is meant.
    if not any(around.values()):
        around = {id(variable): [model] for variable in model.weights}
    return [Weight(name, v, tuple(around.get(id(v), [model])), model.name) for name, v in named_weights(model).items()]


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple, set, frozenset)) else [value]


def _answering(weights: list[Weight], items: Any, argument: str) -> list[Weight]:
    hits = set()
    for item in _items(items):
        found = {weight.name for weight in weights if weight.answers_to(item, argument)}
        if not found:
            names = ", ".join(weight.name for weight in weights)
            raise ValueError(f"Argument `{argument}` holds {item!r}, which no weight answers to. There are {names}.")
        hits |= found
    return [weight for weight in weights if weight.name in hits]


def _name_patterns(weights: Any) -> tuple[str, ...]:
    patterns = []
    for item in _items(weights):
        if not isinstance(item, str):
            raise TypeError(
                f"Argument `weights` must be 'kernel' or patterns of weight names such as 'bias'. Received: weights={weights!r}"
            )
        patterns += KERNEL if item == "kernel" else [item]
    return tuple(patterns)
