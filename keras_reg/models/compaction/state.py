"""State that is neither a variable nor in a config: vocabularies, boundaries, attributes set from outside."""

import tempfile
from typing import Any

import keras
import numpy as np


def pairs(layer: Any, other: Any) -> list[tuple[Any, Any]]:
    """Two layers of one kind, and those within both."""
    return list(zip(layer._flatten_layers(), other._flatten_layers(), strict=False))


def take_over(one: Any, other: Any) -> None:
    """The state of a layer, or model, of which nothing was cut, beside its variables: as Keras saves it, and plain attributes."""
    _take_over_assets(one, other)
    _take_over_attributes(one, other)
    if hasattr(other, "finalize_state") and other.variables:  # of preprocessing, which computes with copies of its variables
        other.finalize_state()


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
        other.load_own_variables(store)
    if hasattr(one, "save_assets") and hasattr(other, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            one.save_assets(folder)
            other.load_assets(folder)


def _take_over_attributes(one: Any, other: Any) -> None:
    common = vars(keras.layers.Layer())
    for name, value in vars(one).items():
        # Those of TensorFlow's tracking begin with `_self_`.
        if name not in common and not name.startswith("_self_") and _is_plain(value) and not _same(value, vars(other).get(name)):
            setattr(other, name, _copied(value))


def _is_plain(value: Any) -> bool:
    """Numbers, text and arrays, and structures of them."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
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
