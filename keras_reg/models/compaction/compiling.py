"""The compile state of a smaller model: loss, metrics, and an optimizer that remembers what is left of its past."""

import copy
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_reg._keras import check
from keras_reg.models.compaction.slots import Slot
from keras_reg.models.compaction.transfer import assign
from keras_reg.models.compaction.units import Units
from keras_reg.running import innermost
from keras_reg.weights import read


def compile_alike(old: Any, new: Any, sources: dict[int, tuple], graph: Units) -> None:
    """Compiles the new model as the old one is.

    Args:
        old: The old model.
        new: The new model.
        sources: For each variable of the new model, by `id`, the old one or `None`, and how it was cut.
        graph: The units, which says how.
    """
    if not old.compiled:
        return
    _compile(old, new)
    if old.optimizer is None:
        return
    origins = [(source, variable) for variable in new.variables if (source := sources.get(id(variable), (None,))[0]) is not None]
    for one, other in _optimizers(old.optimizer, new.optimizer):
        _exclude(one, other, origins)
    if old.optimizer.built:
        new.optimizer.build(new.trainable_variables)
        for one, other in _optimizers(old.optimizer, new.optimizer):
            _remember(one, other, _variables(old.optimizer), _variables(new.optimizer), sources, graph)


def _compile(old: Any, new: Any, **other: Any) -> None:
    """Compiles it with the same arguments but for others."""
    check("compiled model", old)
    new.compile(**{**{key: _copy(value) for key, value in old._compile_config.config.items()}, **other})
    if hasattr(old, "sampler"):  # of a model of KerasHub that generates: an argument of its `compile` alone
        new.sampler = type(old.sampler).from_config(old.sampler.get_config())


def compile_anew(old: Any, new: Any, wrap: Callable[[Any], Any] = lambda optimizer: optimizer) -> None:
    """Compiles a model with the same weights, cut or not, as the old one is, with an optimizer that has no past yet.

    Args:
        old: The old model.
        new: The new model.
        wrap: What to make of the new optimizer, which has the present learning rate of the old one.
    """
    optimizer = _copy(old.optimizer)
    _exclude(innermost(old.optimizer), innermost(optimizer), list(zip(old.variables, new.variables, strict=False)))
    _compile(old, new, optimizer=wrap(optimizer))


def _copy(value: Any) -> Any:
    """The same metric or optimizer without its state; losses, which have none, and functions as they are."""
    if isinstance(value, (list, tuple, dict)):
        return tree.map_structure(_copy, value)
    if isinstance(value, (keras.Metric, keras.optimizers.Optimizer)):
        return type(value).from_config(value.get_config())
    return value


def _optimizers(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Both optimizers, and those within them."""
    found = [(old, new)]
    for name, ours in vars(new).items():
        theirs = getattr(old, name, None)
        if isinstance(ours, keras.optimizers.Optimizer) and isinstance(theirs, keras.optimizers.Optimizer):
            found += _optimizers(theirs, ours)
    return found


def _variables(optimizer: Any) -> list[keras.Variable]:
    """The weights that an optimizer was built for, in the order of its slots."""
    known = [one._trainable_variables for one, _ in _optimizers(optimizer, optimizer) if getattr(one, "_trainable_variables", None)]
    return list(known[0]) if known else []


def _exclude(old: Any, new: Any, origins: list[tuple]) -> None:
    """From weight decay what was excluded before; Keras keeps that by keys of the weights, beside the config."""
    pattern = getattr(old, "_exclude_from_weight_decay_pattern", None)
    excluded = getattr(old, "_exclude_from_weight_decay", None)
    if pattern is not None or excluded:
        new._exclude_from_weight_decay = {new._var_key(ours) for theirs, ours in origins if old._var_key(theirs) in (excluded or ())}
        new._exclude_from_weight_decay_pattern = copy.copy(pattern)
        new._exclude_from_weight_decay_cache = {}


def _remember(old: Any, new: Any, olds: list, news: list, sources: dict[int, tuple], graph: Units) -> None:
    """Gives the optimizer the state of the old one, cut as the weights were; what was not there, or fits nowhere, starts anew."""
    places = {id(variable): place for place, variable in enumerate(olds)}
    for name, ours in vars(new).items():
        theirs = getattr(old, name, None)
        if isinstance(ours, keras.Variable) and isinstance(theirs, keras.Variable):
            _fill(ours, theirs, None, None, graph)
        elif name in ("_variables", "_trainable_variables") or not (isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple))):
            continue
        elif len(ours) == len(news) and len(theirs) == len(olds):
            for slot_variable, weight in zip(ours, news, strict=True):
                source, slot = sources.get(id(weight), (None, None))
                if source is not None and id(source) in places:
                    _fill(slot_variable, theirs[places[id(source)]], source, slot, graph)


def _fill(new: Any, old: Any, weight: keras.Variable | None, slot: Slot | None, graph: Units) -> None:
    if not isinstance(new, keras.Variable) or not isinstance(old, keras.Variable):
        return
    values = np.array(read(old))
    if weight is not None and slot is not None and values.shape != tuple(new.shape):
        values = _cut(values, tuple(weight.shape), slot, graph)
    if values is not None and values.shape == tuple(new.shape):
        assign(new, values)


def _cut(values: np.ndarray, shape: tuple, slot: Slot, graph: Units) -> np.ndarray | None:
    """State of the weight's shape, or of that without one of the last two axes, as Adafactor has it."""
    if values.shape == shape:
        return slot.cut(values, graph)
    for axis in (-1, -2):
        if len(shape) > 1 and values.shape == tuple(np.delete(shape, axis)):
            wide = slot.cut(np.broadcast_to(np.expand_dims(values, axis), shape), graph)
            return wide.take(0, axis) if wide.shape[axis] else None
    return None
