"""State that is neither a variable nor in a config: vocabularies, boundaries, attributes set from outside."""

import tempfile
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_reg.strength_variable import seeds_of


def pairs(layer: Any, other: Any) -> list[tuple[Any, Any]]:
    """Two layers of one kind, and those within both. Keras may give the layers of a model another order; their names stay."""
    if isinstance(layer, keras.Model) and isinstance(other, keras.Model):
        inner, others = ({each.name: each for each in model.layers} for model in (layer, other))
        if inner.keys() == others.keys() and len(inner) == len(layer.layers):
            return [(layer, other), *(pair for name, each in inner.items() for pair in pairs(each, others[name]))]
    return list(zip(layer._flatten_layers(), other._flatten_layers(), strict=False))


def take_over(one: Any, other: Any) -> None:
    """The state of a layer of which nothing was cut, beside its weights: as Keras saves it, plain attributes, states and seeds."""
    _take_over_assets(one, other)
    _take_over_attributes(one, other)
    take_over_states(one, other)
    for generator, ours in zip(seeds_of(one), seeds_of(other), strict=False):
        ours.state.assign(ops.copy(generator.state))
    finish_state(other)


def finish_state(layer: Any) -> None:
    """Preprocessing computes with copies of its variables."""
    if hasattr(layer, "finalize_state") and layer.variables:
        layer.finalize_state()


def take_over_states(one: Any, other: Any) -> None:
    """Those of a recurrent layer that keeps them between calls: they are no variables of the layer."""
    if getattr(one, "stateful", False) and getattr(one, "states", None):
        for ours, theirs in zip(tree.flatten(other.states), tree.flatten(one.states), strict=True):
            # Not the tensor itself: JAX gives the memory of what it trains or predicts with away.
            ours.assign(ops.copy(theirs))


def take_over_early(layer: Any, new: Any) -> None:
    """What a layer that learns from data, or one within, needs to be called at all: a vocabulary, boundaries."""
    for one, other in pairs(layer, new):
        if hasattr(one, "save_assets") or hasattr(one, "adapt"):
            _take_over_assets(one, other)
            _take_over_attributes(one, other)


def _take_over_assets(one: Any, other: Any) -> None:
    """What a layer has Keras save beside its variables, in the order in which Keras loads it."""
    if not one.variables and type(one).save_own_variables is not keras.Layer.save_own_variables:
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        if "idf_weights" in store:
            # Keras before 3.14 does not load them itself.
            words = one.get_vocabulary()
            getattr(other, "_lookup_layer", other).set_vocabulary(words, store["idf_weights"][: len(words)])
            return
        other.load_own_variables(store)
    if hasattr(one, "save_assets") and hasattr(other, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            one.save_assets(folder)
            other.load_assets(folder)


def _take_over_attributes(one: Any, other: Any) -> None:
    common = vars(keras.layers.Layer())
    for name, value in vars(one).items():
        # Those of TensorFlow's tracking begin with `_self_`; of what is carried around a layer another room takes care.
        foreign = name in common or name.startswith(("_self_", "_carried", "_pending"))
        if not foreign and is_plain(value) and not _same(value, vars(other).get(name)):
            setattr(other, name, _copied(value))


def is_plain(value: Any) -> bool:
    """Numbers, text and arrays, and structures of them."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.ndarray, np.generic))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return type(one) is type(other) and one == other


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_copied(item) for item in value)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value
