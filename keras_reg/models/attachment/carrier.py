"""Penalties that the config of a layer has no place for, kept in a config around it.

A block or model of the user's makes its layers in its constructor, and a KerasHub backbone makes them from its hyperparameters: on
loading they are made anew, without what was put on their weights since. Such a layer becomes an instance of a subclass of its own
class that differs in saving alone: its config is that of the layer and the penalties beside it.
"""

import copyreg
import functools
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_reg._loading import regularizer_from
from keras_reg._registration import register
from keras_reg.weights import weight_name

KEY = "keras_reg_penalties"
STATE = "_keras_reg_around"


class CarrierType(type):
    """The type of the subclasses. Where Keras looks for the name of a class, each of them is `WithPenalties`, which is registered.

    A registration for each would keep it, and with it the user's class, for ever.
    """

    def __eq__(cls, other: Any) -> bool:
        return cls is other or (isinstance(other, CarrierType) and (cls is WithPenalties or other is WithPenalties))

    def __hash__(cls) -> int:
        return hash(CarrierType)


@register
class WithPenalties(metaclass=CarrierType):
    """What the subclasses share."""

    def __init_subclass__(cls) -> None:
        """Without what the user's class does with its subclasses, such as listing them."""

    def get_config(self) -> dict:
        """The config of the layer, and beside it the penalties."""
        around = _around(self)
        carried = {id(variable) for variable in around.variables}
        rows = [Row(i, weight_name(v), tuple(v.shape), v.regularizer) for i, v in enumerate(self.weights) if id(v) in carried]
        layer = bare_config(self)
        layer.pop("build_config", None)  # beside this config there is one already
        # A copy that is not built yet hands on what it was given.
        return {"layer": layer, KEY: [row.config() for row in rows or around.pending]}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        original = cls.__bases__[-1]
        if KEY not in config and cls is not WithPenalties:  # Keras looked for the original by its name
            return original.from_config(config)
        inner, rows = config.get("layer"), config.get(KEY)
        if not isinstance(inner, dict) or not isinstance(rows, (list, tuple)):
            raise ValueError(f"Penalties around a layer must come with its config. Received: {reprlib.repr(config)}")
        named = {}
        if inner.get("registered_name") in (original.__name__, keras.saving.get_registered_name(original)):
            named = {inner["registered_name"]: original}
        # Before the layer: what is no penalty makes nothing.
        pending = [Row.of(row) for row in rows]
        layer = keras.saving.deserialize_keras_object(inner, custom_objects=named)
        if not isinstance(layer, keras.Layer) or isinstance(layer, WithPenalties):
            raise ValueError(f"Penalties are kept around a layer. Received: the config of {inner.get('class_name')}")
        carry(layer, [], pending)
        return layer

    def build_from_config(self, config: dict) -> None:
        super().build_from_config(config)
        settle(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().__call__(*args, **kwargs)
        if _around(self).pending:
            settle(self)
        return outputs


@functools.cache
def _type_above(metaclass: type) -> type:
    """The type of the subclasses of a class that has a metaclass of its own."""
    if issubclass(CarrierType, metaclass):
        return CarrierType
    both = type("CarrierType", (CarrierType, metaclass), {})
    copyreg.pickle(both, _reduced)
    return both


def carrier_class(original: type) -> type:
    """The subclass of the user's class that carries penalties: made when first needed, and gone with its last layer."""
    for known in original.__subclasses__():
        if isinstance(known, CarrierType) and known.__bases__ == (WithPenalties, original):
            return known

    # Keras notes on this method whether the user's class has written its own.
    @functools.wraps(original.get_config)
    def get_config(self):
        return WithPenalties.get_config(self)

    # Under the name and the module of the user's class, where its source is.
    shown = {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
    return _type_above(type(original))(original.__name__, (WithPenalties, original), {**shown, "get_config": get_config})


def _reduced(cls: type) -> Any:
    """Pickled by the user's class."""
    return cls.__name__ if cls is WithPenalties else (carrier_class, (cls.__bases__[-1],))


copyreg.pickle(CarrierType, _reduced)


@dataclass(frozen=True)
class Row:
    """The penalty of one weight, as it is saved beside the layer."""

    index: int
    name: str
    shape: tuple[int, ...]
    penalty: Any

    @classmethod
    def of(cls, row: Any) -> "Row":
        """From what a file says."""
        given = row if isinstance(row, dict) else {}
        index, name, shape = given.get("index"), given.get("name"), given.get("shape")
        if not (isinstance(index, int) and index >= 0 and isinstance(name, str) and isinstance(shape, (list, tuple))):
            raise ValueError(f"A penalty around a layer must have the index, name and shape of its weight. Received: {reprlib.repr(row)}")
        penalty = given.get("penalty")  # none where the layer would be rebuilt with one
        return cls(index, name, tuple(shape), None if penalty is None else regularizer_from(penalty, "penalty"))

    def config(self) -> dict:
        penalty = keras.saving.serialize_keras_object(self.penalty)
        return {"index": self.index, "name": self.name, "shape": list(self.shape), "penalty": penalty}


class _Bare:
    """What Keras serializes of a layer if it takes no notice of what is carried around it."""

    def __init__(self, layer: Any):
        self._layer = layer

    @property
    def __class__(self) -> type:
        return original_class(self._layer)

    def get_config(self) -> dict:
        return original_class(self._layer).get_config(self._layer)

    def get_build_config(self) -> dict | None:
        return self._layer.get_build_config()


@dataclass(frozen=True)
class _Around:
    """What a layer carries: the weights whose penalties are its own to keep, and those loaded for weights that are not there yet."""

    variables: tuple[Any, ...]
    pending: tuple[Row, ...]
    # As old as the layer: by its id Keras knows what it has serialized already.
    bare: _Bare


def _around(layer: Any) -> _Around:
    if STATE not in vars(layer):  # made by its class, not by `carry`
        object.__setattr__(layer, STATE, _Around((), (), _Bare(layer)))
    return vars(layer)[STATE]


def carried(layer: Any) -> list[Any]:
    """The weights whose penalties are kept in a config around that of the layer."""
    return list(_around(layer).variables) if isinstance(layer, WithPenalties) else []


def carry(layer: Any, variables: Iterable[Any], pending: Iterable[Row] = ()) -> None:
    """Keep the present regularizers of these weights, and no others, whatever the layer itself would be rebuilt with."""
    around = _Around(tuple(variables), tuple(pending), _around(layer).bare if isinstance(layer, WithPenalties) else _Bare(layer))
    if around.variables or around.pending:
        restore(layer, (carrier_class(original_class(layer)), around))
        settle(layer)
    else:
        restore(layer, (original_class(layer), None))


def present(layer: Any) -> tuple[type, Any]:
    """What `carry` changes, for `restore`."""
    return type(layer), vars(layer).get(STATE)


def restore(layer: Any, state: tuple[type, Any]) -> None:
    """A layer that carries something has the state for it at every moment."""
    cls, around = state
    # Past the tracking of attributes by Keras and PyTorch.
    if around is not None:
        object.__setattr__(layer, STATE, around)
    if type(layer) is not cls:
        object.__setattr__(layer, "__class__", cls)
    if around is None:
        vars(layer).pop(STATE, None)


def original_class(thing: Any) -> type:
    """The class of a layer as the user knows it."""
    return type(thing).__bases__[-1] if isinstance(thing, WithPenalties) else type(thing)


def bare_config(layer: Any) -> dict:
    """The serialized layer without what is carried around it, and without how it was compiled."""
    config = keras.saving.serialize_keras_object(_around(layer).bare if isinstance(layer, WithPenalties) else layer)
    config.pop("compile_config", None)
    return config


def settle(layer: Any) -> None:
    """Give the weights what was loaded for them, as soon as they are there."""
    around, weights = _around(layer), layer.weights
    if not around.pending or len(weights) <= max(row.index for row in around.pending):
        return
    for row in around.pending:
        variable = weights[row.index]
        if (weight_name(variable), *variable.shape) != (row.name, *row.shape):
            raise ValueError(
                f"The penalties saved with {layer.name!r} do not fit it: weight {row.index} was {row.name!r} of shape {row.shape} "
                f"and is {variable.path!r} of shape {tuple(variable.shape)}. Has the class changed since?"
            )
    for row in around.pending:
        weights[row.index].regularizer = row.penalty
    settled = tuple(weights[row.index] for row in around.pending)
    object.__setattr__(layer, STATE, _Around(settled, (), around.bare))
