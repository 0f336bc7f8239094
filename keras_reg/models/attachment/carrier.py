"""Penalties that the config of a layer has no place for, kept in a config around it.

A block or model of the user's own makes its layers in its constructor, and a KerasHub backbone makes them from its hyperparameters: on
loading they are made anew, without what was put on their weights since. Such a layer becomes an instance of a subclass of its own
class that differs in saving alone: its config is that of the layer and the penalties beside it.
"""

import functools
from collections.abc import Iterable
from typing import Any

import keras

from keras_reg._registration import PACKAGE
from keras_reg.weights import weight_name

KEY = "keras_reg_penalties"


class WithPenalties:
    """What the subclasses share. Every one is registered by the same name: which of them Keras finds makes no difference."""

    def get_config(self) -> dict:
        carried = {id(variable) for variable in self._carried}
        rows = [
            {"index": i, "name": weight_name(v), "shape": list(v.shape), "penalty": keras.saving.serialize_keras_object(v.regularizer)}
            for i, v in enumerate(self.weights)
            if id(v) in carried
        ]
        layer = original_config(self)
        layer.pop("build_config", None)  # beside this config there is one already
        # A copy that is not built yet hands on what it was given.
        return {"layer": layer, KEY: rows or list(self._pending)}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        original = cls.__bases__[-1]
        if KEY not in config:  # Keras looked for the original by its name
            return original.from_config(config)
        named = {}
        if config["layer"].get("registered_name") in (original.__name__, keras.saving.get_registered_name(original)):
            named = {config["layer"]["registered_name"]: original}
        layer = keras.saving.deserialize_keras_object(config["layer"], custom_objects=named)
        carry(layer, [], config[KEY])
        return layer

    def build_from_config(self, config: dict) -> None:
        super().build_from_config(config)
        _settle(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().__call__(*args, **kwargs)
        _settle(self)
        return outputs


keras.saving.register_keras_serializable(package=PACKAGE, name="WithPenalties")(WithPenalties)


def carried(layer: Any) -> list[Any]:
    """The weights whose penalties are kept in a config around that of the layer."""
    return list(layer._carried) if isinstance(layer, WithPenalties) else []


def carry(layer: Any, variables: Iterable[Any], pending: Iterable[dict] = ()) -> None:
    """Keep the present regularizers of these weights, and no others, whatever the layer itself would be rebuilt with."""
    variables, pending = list(variables), list(pending)
    keep = bool(variables or pending)
    if keep != isinstance(layer, WithPenalties):
        # Past the tracking of attributes by Keras and PyTorch.
        object.__setattr__(layer, "__class__", _subclass(type(layer)) if keep else original_class(layer))
    if keep:
        object.__setattr__(layer, "_carried", variables)
        object.__setattr__(layer, "_pending", pending)
        _settle(layer)
    else:
        vars(layer).pop("_carried", None)
        vars(layer).pop("_pending", None)


def original_class(thing: Any) -> type:
    """The class of a layer as the user knows it."""
    return type(thing).__bases__[-1] if isinstance(thing, WithPenalties) else type(thing)


def original_config(layer: Any) -> dict:
    """The serialized layer without what is carried around it, and without how it was compiled."""
    own = type(layer)
    object.__setattr__(layer, "__class__", original_class(layer))
    try:
        config = keras.saving.serialize_keras_object(layer)
    finally:
        object.__setattr__(layer, "__class__", own)
    config.pop("compile_config", None)
    return config


def _settle(layer: Any) -> None:
    """Give the weights what was loaded for them, as soon as they are there."""
    pending, weights = layer._pending, layer.weights
    if not pending or len(weights) <= max(row["index"] for row in pending):
        return
    for row in pending:
        variable = weights[row["index"]]
        if [weight_name(variable), *variable.shape] != [row["name"], *row["shape"]]:
            raise ValueError(
                f"The penalties saved with {layer.name!r} do not fit it: weight {row['index']} was {row['name']!r} of shape "
                f"{tuple(row['shape'])} and is {variable.path!r} of shape {tuple(variable.shape)}. Has the class changed since?"
            )
    for row in pending:
        weights[row["index"]].regularizer = keras.saving.deserialize_keras_object(row["penalty"])
    object.__setattr__(layer, "_carried", [weights[row["index"]] for row in pending])
    object.__setattr__(layer, "_pending", [])


@functools.cache
def _subclass(original: type) -> type:
    # The name is what summaries show and new layers are named after: that of the class.
    own = type(original.__name__, (WithPenalties, original), {"__module__": __name__, "__qualname__": original.__qualname__})
    return keras.saving.register_keras_serializable(package=PACKAGE, name="WithPenalties")(own)
