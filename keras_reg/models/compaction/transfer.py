"""What a new layer takes over from the old one: weights, cut, other variables, and the state beside them."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.slots import Slot
from keras_reg.models.compaction.state import finish_state, pairs, take_over, take_over_states
from keras_reg.models.compaction.units import Units
from keras_reg.strength_variable import seeds_of, variables_of
from keras_reg.weights import own_variables, read

Source = tuple[keras.Variable, keras.Variable | None, Slot | None]


def transfer(rule: Rule, layer: Any, graph: Units) -> list[Source]:
    """Sets the state of a new layer; returns for each of its variables the old one, if there was one, and how it was cut."""
    if not isinstance(layer, keras.Layer):
        return []
    inner = [(rule.layer, layer)] if rule.alone else pairs(rule.layer, layer)
    for one, other in inner:
        _same_form(one, other)
    made = []
    for slot in rule.slots():
        old, new = slot.variable(rule.layer), slot.variable(layer)
        if new is None:
            continue
        # In double precision, since the constants that go into biases are.
        values = np.zeros(new.shape) if old is None else slot.cut(np.array(read(old)), graph)
        if slot.finish is not None:
            values = slot.finish(values.astype("float64"))
        assign(new, values)
        made.append((new, old, slot))
    made += _rest(rule, layer, made)
    for new, old, _ in made:
        if old is not None and not old._trainable:
            new.trainable = False
    same = all(old is not None and tuple(old.shape) == tuple(new.shape) for new, old, _ in made)
    unchanged = same and not rule.alone and not rule.changes()
    for one, other in inner:
        if unchanged:
            take_over(one, other)
        else:
            take_over_states(one, other)
        finish_state(other)
    return made


def assign(variable: keras.Variable, values: np.ndarray) -> None:
    """Sets a variable to values of any dtype."""
    # NumPy lacks some of the dtypes.
    narrow = "float32" if variable.dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2") else variable.dtype
    variable.assign(ops.cast(ops.convert_to_tensor(values.astype(narrow)), variable.dtype))


def _rest(rule: Rule, layer: Any, made: list[Source]) -> list[Source]:
    """The variables that the rule says nothing of, seeds of random numbers among them: as they are."""
    done = {id(variable) for new, old, _ in made for variable in (new, old)}
    owned = _own_variables if rule.alone else variables_of
    olds, news = ([variable for variable in owned(owner) if id(variable) not in done] for owner in (rule.layer, layer))
    if [tuple(variable.shape) for variable in olds] != [tuple(variable.shape) for variable in news]:
        raise ValueError(
            f"Layer {rule.name!r} cannot be made again from its own config, which gives it other weights: "
            f"{_listed(news)} for {_listed(olds)}."
        )
    for old, new in zip(olds, news, strict=True):
        # Not the tensor itself: JAX gives the memory of what it trains or predicts with away.
        new.assign(ops.copy(old))
    return [(new, old, None) for old, new in zip(olds, news, strict=True)]


def _own_variables(layer: Any) -> list[keras.Variable]:
    return own_variables(layer) + [generator.state for generator in seeds_of(layer)]


def _listed(variables: list[keras.Variable]) -> str:
    return ", ".join(f"{variable.name} {tuple(variable.shape)}" for variable in variables[:4]) or "none"


def _same_form(one: Any, other: Any) -> None:
    """What is done to a layer once it is called or built, and its config, or that of the layer around it, may not say."""
    if one.built and not other.built and own_variables(one) and (shapes := one.get_build_config()):
        other.build_from_config(shapes)  # one within another that is built by the first call with numbers
    if getattr(one, "lora_enabled", False) and not getattr(other, "lora_enabled", False):
        other.enable_lora(one.lora_rank, lora_alpha=one.lora_alpha)
    mode = getattr(one, "quantization_mode", None)
    if mode and own_variables(one) and not getattr(other, "quantization_mode", None):
        other.quantize(mode)
