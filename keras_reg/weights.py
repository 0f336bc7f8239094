"""The weights of a model: their names, which of them are meant by a selector, their values and their groups."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_reg._keras import check
from keras_reg.backend import read as read

KERNEL = ("*kernel", "*embedding", "*embeddings", "lora_*")
"""What `weights="kernel"` stands for."""


def layers_of(layer: Any) -> Iterator[Any]:
    """The layer and all in it, each once."""
    check("layer", layer)
    yield from dict.fromkeys(layer._flatten_layers())


def own_variables(layer: Any) -> list[Any]:
    """The variables of this very layer, without those of the layers in it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def named_weights(model: Any) -> dict[str, keras.Variable]:
    """The weights by their path within the model; where layers share a name, so that paths repeat, numbers make them different.

    The name of the model itself, which Keras puts before the path, is left out: it is another after loading, or in the next process.
    """
    named = {}
    for variable in model.weights:
        path = name = variable.path.removeprefix(f"{model.name}/")
        number = 1
        while name in named:
            name, number = f"{path}_{number}", number + 1
        named[name] = variable
    return named


def weight_name(variable: Any) -> str:
    """The name without the number that Keras gives to one that was given none: it is another in every copy."""
    return re.sub(r"_\d+$", "", variable.name)


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


def weights_of(model: Any) -> list[Weight]:
    around: dict[int, list[Any]] = {}
    for layer in model._flatten_layers(include_self=False):
        for variable in layer.weights:
            around.setdefault(id(variable), []).append(layer)
    # A model that is a single layer is the layer that is meant.
    if not any(around.values()):
        around = {id(variable): [model] for variable in model.weights}
    return [Weight(name, v, tuple(around.get(id(v), [model])), model.name) for name, v in named_weights(model).items()]


def select(model: Any, include: Any, exclude: Any, weights: Any = "*") -> list[Weight]:
    """The weights meant by the arguments of `attach`, in the order of the model.

    Args:
        model: A built model or layer.
        include: Layer types, patterns of names or paths, functions of a layer, layers or variables: one, or a list; `None` for all.
        exclude: Which of these to leave out, in the same terms.
        weights: Patterns of the names of weights, `"kernel"` for kernels and embeddings of every kind.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"Argument `model` must be a Keras model or layer. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built or not model.weights:
        raise ValueError(
            f"Argument `model` must have weights: call {model.name!r} on data first, or build it. Received: a model that has none yet."
        )
    everything = weights_of(model)
    chosen = everything if include is None else answering(everything, include, "include")
    left_out = set() if exclude is None else {weight.name for weight in answering(everything, exclude, "exclude")}
    patterns = _name_patterns(weights)
    variables = {id(item) for item in items_of(include) if isinstance(item, keras.Variable)}

    def named(weight: Weight) -> bool:
        return id(weight.variable) in variables or any(fnmatch.fnmatchcase(weight.variable.name, pattern) for pattern in patterns)

    kept = [weight for weight in chosen if weight.name not in left_out and named(weight)]
    if not kept:
        raise ValueError(
            f"No weight is left of include={include!r}, exclude={exclude!r}, weights={weights!r}. "
            f"{model.name!r} has {', '.join(weight.name for weight in everything) or 'no weights'}."
        )
    return kept


def choose(model: Any, include: Any = None, exclude: Any = None) -> dict[str, keras.Variable]:
    """The weights to look at, by name: those that `include` means, or else kernels, embeddings and all weights with a penalty."""
    chosen = select(model, include, None)
    if include is None:
        chosen = [w for w in chosen if "kernel" in w.variable.name or "embedding" in w.variable.name or w.variable.regularizer is not None]
    left_out = set() if exclude is None else {weight.name for weight in answering(weights_of(model), exclude, "exclude")}
    kept = {weight.name: weight.variable for weight in chosen if weight.name not in left_out}
    if not kept:
        names = ", ".join(named_weights(model))
        raise ValueError(f"No weight is left of include={include!r}, exclude={exclude!r}. {model.name!r} has {names}.")
    return kept


def by_mapping(chosen: list[Weight], mapping: Mapping[Any, Any]) -> list[tuple[Weight, Any]]:
    """Each weight with the value of the first key that it answers to; those that answer to none are left out."""
    if not mapping:
        raise ValueError("Argument `penalty` must not be an empty mapping.")
    for key in mapping:
        answering(chosen, key, "penalty")
    pairs = []
    for weight in chosen:
        values = [value for key, value in mapping.items() if any(weight.answers_to(item, "penalty") for item in items_of(key))]
        if values and values[0] is not None:
            pairs.append((weight, values[0]))
    return pairs


def items_of(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple, set, frozenset)) else [value]


def answering(weights: list[Weight], items: Any, argument: str) -> list[Weight]:
    hits = set()
    for item in items_of(items):
        found = {weight.name for weight in weights if weight.answers_to(item, argument)}
        if not found:
            names = ", ".join(weight.name for weight in weights)
            raise ValueError(f"Argument `{argument}` holds {item!r}, which no weight answers to. There are {names}.")
        hits |= found
    return [weight for weight in weights if weight.name in hits]


def _name_patterns(weights: Any) -> tuple[str, ...]:
    patterns = []
    for item in items_of(weights):
        if not isinstance(item, str):
            raise TypeError(
                f"Argument `weights` must be 'kernel' or patterns of weight names such as 'bias'. Received: weights={weights!r}"
            )
        patterns += KERNEL if item == "kernel" else [item]
    return tuple(patterns)


def group_axis(variable: keras.Variable) -> int | tuple[int, ...] | None:
    """The axis that indexes the groups: that of the penalty, or the last, of units and filters; a vector without one has none."""
    if (axis := getattr(variable.regularizer, "axis", None)) is not None:
        return axis
    return -1 if len(variable.shape) > 1 else None
