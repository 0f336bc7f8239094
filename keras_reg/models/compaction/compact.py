"""Cutting a model down to the units that contribute: the plan, the smaller model, and the groups that go together."""

import inspect
from collections.abc import Iterable
from typing import Any

import keras

from keras_reg.models.compaction.activations import register_activation
from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.folding import without_gates
from keras_reg.models.compaction.groups import StructuralGroup, groups, zero
from keras_reg.models.compaction.plan import CompactionPlan, plan
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.rules.merging import UnaryOperation
from keras_reg.models.compaction.tracer import rule_for


def compaction_plan(model: Any, inputs: bool = False) -> CompactionPlan:
    """What can leave a model and why the rest cannot, before anything is touched.

    Args:
        model: A built Sequential or functional model.
        inputs: Whether input features may leave, too.

    Returns:
        A plan: `print` shows a table, as does a notebook. `layers` has a row for each layer with its width, parameters, MACs and bytes
        before and after, `total` their sums, `blockers` which layers keep their width and why, `unread_inputs` the features that nothing
        reads.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or subclassed.

    Example:

    >>> import keras
    >>> from keras_reg.models import compaction_plan
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    >>> kernel, bias = model.layers[0].get_weights()
    >>> kernel[:, 1:3] = 0
    >>> model.layers[0].set_weights([kernel, bias])
    >>> compaction_plan(model).total.parameters
    (26, 14)
    """
    return plan(Compaction(without_gates(model), inputs))


def compact(model: Any, inputs: bool = False) -> Any:
    """A smaller model with the same outputs: every unit that contributes nothing is gone.

    A unit is a neuron, filter, channel, head, embedding dimension, or a recurrent unit. It leaves

    - if none of the weights that read it is non-zero, but for weights of units that leave themselves, or
    - if it is constant, as one whose incoming weights are all zero. The constant goes into the biases of the layers that read it. Where it
      cannot, as at the border of a convolution that pads, the unit stays; a constant zero always can.

    Members of a sum or product leave together or not at all. A layer for which there is no rule keeps its inputs and outputs, and
    `compaction_plan` names it; `compaction_rule` adds rules. No layer loses all its units: one stays.

    The gates of `keras_reg.layers` are taken out first, as by `strip`: what they have closed leaves.

    The outputs are equal up to the rounding of sums of fewer terms. The original is not touched. The new model is an ordinary Keras
    model with the same names, dtypes, `trainable` flags, regularizers and compile state; its optimizer keeps what it knew of the weights
    that are left.

    Args:
        model: A built Sequential or functional model.
        inputs: Whether input features that nothing reads leave as well.

    Returns:
        The new model; with `inputs=True` a pair of it and a list with, for each input, the indices of the features that are left
        (`None` where features cannot be followed).

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or subclassed.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_reg.models import compact
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    >>> kernel, bias = model.layers[0].get_weights()
    >>> kernel[:, 1:3] = 0
    >>> model.layers[0].set_weights([kernel, bias])
    >>> small = compact(model)
    >>> small.count_params(), model.count_params()
    (14, 26)
    >>> x = np.ones((1, 3))
    >>> bool(np.allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5))
    True
    """
    compaction = Compaction(without_gates(model), inputs)
    new = compaction.build()
    return (new, compaction.features()) if inputs else new


def structural_groups(model: Any) -> list[StructuralGroup]:
    """Which slices of which weights have to go together for one unit to leave, and what each would free.

    Args:
        model: A built Sequential or functional model.

    Returns:
        A list of groups: `slices` says which entries of which weights (`produces` those that make the unit, of which zeros let
        `compact` take it out), `parameters` and `macs` what its leaving frees alone, `norm()` how far it is from leaving, and
        `zero()` takes it there; `zero_groups` does so for many.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or subclassed.

    Example:

    >>> import keras
    >>> from keras_reg.models import structural_groups
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="output")])
    >>> groups = structural_groups(model)
    >>> len(groups)
    4
    >>> print(groups[0])
    hidden/kernel[1: 0], hidden/bias[0: 0], output/kernel[0: 0]: 6 parameters, 5 MACs
    """
    return groups(Compaction(model))


def zero_groups(groups: Iterable[StructuralGroup]) -> None:
    """Prunes by hand: sets what produces these units to zero, so that `compact` takes them out.

    Each weight is written once, however many groups have a part of it; `group.zero()` does the same for one group.

    Args:
        groups: Some of what `structural_groups` found.

    Raises:
        TypeError: If they are no groups; nothing is set then.

    Example:

    >>> import keras
    >>> from keras_reg.models import compact, structural_groups, zero_groups
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    >>> groups = sorted(structural_groups(model), key=lambda group: group.norm())
    >>> zero_groups(groups[:2])  # the two smallest
    >>> compact(model).layers[0].units
    2
    """
    chosen = list(groups) if isinstance(groups, Iterable) else None
    if chosen is None or not all(isinstance(group, StructuralGroup) for group in chosen):
        raise TypeError(f"Argument `groups` must be some of what `structural_groups` found, as a list. Received: groups={groups!r}")
    zero(chosen)


def compaction_rule(layer_class: Any, rule: Any = "entrywise") -> None:
    """Tells `compact` how a layer of your own treats units. Without a rule it keeps the width of its inputs and outputs.

    Args:
        layer_class: The class; its subclasses need rules of their own. Or an activation function of your own, or the class of activations
            that are objects, which act on each entry alone.
        rule: `"entrywise"` for a layer without weights whose one output depends, entry by entry, on the same entry of its one input.
            For anything else a subclass of `keras_reg.models.compaction.rule.Rule`.

    Raises:
        TypeError: If `layer_class` is no class and no function, or `rule` is neither; or is a rule for something that is no layer.

    Example:

    >>> import keras
    >>> from keras_reg.models import compaction_rule
    >>> class Cube(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x**3
    >>> compaction_rule(Cube)
    >>> def squared_relu(x):
    ...     return keras.ops.square(keras.ops.relu(x))
    >>> compaction_rule(squared_relu)  # for layers with `activation=squared_relu`
    """
    layer = isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)
    of_objects = isinstance(layer_class, type) and any("__call__" in vars(base) for base in layer_class.__mro__)
    if not (layer or of_objects or inspect.isroutine(layer_class)):
        raise TypeError(
            f"Argument `layer_class` must be a class of Keras layers, an activation function or a class of such. Received: "
            f"layer_class={layer_class!r}"
        )
    if rule != "entrywise" and not (layer and isinstance(rule, type) and issubclass(rule, Rule)):
        wanted = "'entrywise' or a subclass of Rule" if layer else "'entrywise' for what is no layer"
        raise TypeError(f"Argument `rule` must be {wanted}. Received: rule={rule!r}")
    if rule == "entrywise":
        register_activation(layer_class)
    if layer:
        rule_for(layer_class)(UnaryOperation if rule == "entrywise" else rule)
