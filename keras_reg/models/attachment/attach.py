"""Penalties put on, and taken off, a model that exists already."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_reg._validation import boolean
from keras_reg.models.attachment.assignment import Assignment, own_copy
from keras_reg.models.attachment.changes import Change, Changes
from keras_reg.models.attachment.mistakes import describe, does_nothing, unregistered
from keras_reg.models.attachment.rebuilt import same_regularizer
from keras_reg.models.attachment.structural_parts import structural_parts
from keras_reg.regularizers import Penalty, Sum
from keras_reg.regularizers.part import Part
from keras_reg.weights import Weight, by_mapping, select


def attach(
    model: Any,
    penalty: Any,
    include: Any = None,
    exclude: Any = None,
    weights: Any = "kernel",
    lasting: bool = True,
    replace: bool = False,
) -> Changes:
    """Put penalties on the weights of a built, pretrained, compiled or loaded model.

    They act from the next step on, without compiling anew, and are there again after saving and loading, in `clone_model` and in
    copies. Nothing else changes: not the weights, the optimizer's state, the metrics or what is trainable. They are kept where the
    layer itself would keep them, in its `kernel_regularizer` or the like; where it has no such place (a layer or model that makes its
    layers itself, one head-projection of an attention layer) they are kept in a config around it. Either is found out by rebuilding the
    layer from its config, not assumed.

    All or nothing: an error leaves the model as it was.

    Args:
        model: A built Keras model or layer.
        penalty: A regularizer, of keras_reg or of Keras, or its name; every place gets a copy of its own. A list means their sum
            (`keras_reg.regularizers.Sum`). Or a mapping from what `include` takes to regularizers: the first key that a weight answers to
            decides, and `None` leaves it alone. A `StructuralGroupLasso` or `StructuralL0Constraint` goes to all weights, biases and
            normalization too, that make units which could leave the model.
        include: Which layers or weights: a layer type, a pattern of names or paths such as `"block5_*"`, a function of a layer that
            returns a boolean, a layer, a variable, or a list of those. It answers for all that is inside. Defaults to all.
        exclude: Which of these to leave out, in the same terms.
        weights: Which weights of a layer, by name: patterns such as `"bias"` or `"recurrent_kernel"`, or a list of those. Defaults to
            `"kernel"`: kernels and embeddings of every kind; no biases and no normalization.
        lasting: Whether a penalty that would not outlast saving is an error. `False` puts it on the weight alone.
        replace: Whether a weight that has another penalty gets this one in its place, from the next step on. By default that is an error.

    Returns:
        A table of what got which penalty, and where it is kept. Frozen weights are left out, and listed: their penalty would do nothing.
        Call `attach` again once they are trainable; a weight that already has just this penalty, at the strength that acts now, keeps it.

    Raises:
        ValueError: where a layer would lose its penalty on saving, naming it; where a weight already has another penalty, or cannot
            have this one; where nothing is selected.

    A model that was compiled apart and shares layers with this one, or has it inside, holds its old step until it is compiled again (on
    PyTorch no step is held, and what is attached acts at once).

    Example:

    >>> import keras
    >>> from keras_reg.models import attach
    >>> from keras_reg.regularizers import L1
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="output")])
    >>> print(attach(model, L1(1e-3)))
     weight         shape  penalty       kept in
     ────────────────────────────────────────────────────────────
     hidden/kernel  3×4    L1(l1=0.001)  Dense.kernel_regularizer
     output/kernel  4×1    L1(l1=0.001)  Dense.kernel_regularizer
    >>> len(model.losses)
    2
    """
    boolean(lasting, "lasting")
    boolean(replace, "replace")
    if isinstance(penalty, Part) and penalty.structure is None:
        # Its groups take in biases and normalization: all that makes a unit.
        weights = "*" if weights == "kernel" else weights
        allowed = [weight.variable for weight in select(model, include, exclude, weights) if weight.variable.trainable]
        parts = {id(variable): (variable, part) for variable, part in structural_parts(model, penalty, allowed)}
        include, exclude = [variable for variable, _ in parts.values()], None
        pairs = [(weight, parts[id(weight.variable)][1]) for weight in select(model, include, None, weights)]
    else:
        chosen = select(model, include, exclude, weights)
        mapping = isinstance(penalty, Mapping) and "class_name" not in penalty
        pairs = by_mapping(chosen, penalty) if mapping else [(weight, penalty) for weight in chosen]
    given = {id(value): _regularizer(value) for _, value in pairs}
    named = {id(item) for item in (include if isinstance(include, (list, tuple, set)) else [include]) if isinstance(item, keras.Variable)}
    rows, wanted = [], []
    for weight, value in pairs:
        regularizer, variable = given[id(value)], weight.variable
        if not variable.trainable and id(variable) not in named:
            rows.append((weight, variable.regularizer, "frozen, left out"))
        elif variable.regularizer is not None and same_regularizer(variable.regularizer, regularizer):
            # Whether it would last is not said by that.
            wanted.append((variable, variable.regularizer))
            rows.append((weight, variable.regularizer, "had it already"))
        else:
            _check(weight, regularizer, replace)
            wanted.append((variable, own_copy(regularizer)))
            notes = [] if variable.regularizer is None else [f"replaced {describe(variable.regularizer)}"]
            notes += [] if variable.trainable else ["frozen: does nothing until it is trainable"]
            rows.append((weight, regularizer, "; ".join(notes)))
    if not any(note != "frozen, left out" for _, _, note in rows):
        raise ValueError(
            f"All selected weights are frozen, where a penalty does nothing: {', '.join(w.name for w, _, _ in rows)}. Make them trainable "
            "first, or name the variables themselves in `include`."
        )
    assignment = Assignment(model, wanted, lasting)
    assignment.apply()
    names = sorted({name for one in given.values() if one is not None and lasting for name in unregistered(one)})
    if names:
        warnings.warn(f"A saved model can be loaded with `custom_objects` alone, as {_not_registered(names)}", stacklevel=2)
    return _changes(rows, assignment)


def detach(model: Any, include: Any = None, exclude: Any = None, weights: Any = "*", lasting: bool = True) -> Changes:
    """Take penalties off the weights of a model: those that `attach` put there, and any other.

    They stop acting from the next step on, and are gone after saving, loading and cloning. Nothing else changes: what was attached
    and is detached again leaves the configuration as it was. All or nothing, as in `attach`.

    Args:
        model: A built Keras model or layer.
        include: Which layers or weights, as in `attach`. Defaults to all.
        exclude: Which of these to leave out, in the same terms.
        weights: Which weights of a layer, by name, as in `attach`. Defaults to `"*"`: all, those left out by `attach` included.
        lasting: Whether a penalty that would be there again after saving is an error, as where a class of the user's makes its weights
            with a penalty. `False` takes it off the weight alone.

    Returns:
        A table of the weights that had a penalty, and which. Where that was the last one of a `Proximal` optimizer, it says so: the
        optimizer stays, and trains as the one inside it would.

    Raises:
        ValueError: where nothing selected has a penalty, or where a penalty would come back.

    Example:

    >>> import keras
    >>> from keras_reg.models import attach, detach
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> config = model.get_config()
    >>> attached, detached = attach(model, keras.regularizers.L2(0.1)), detach(model)
    >>> model.losses, model.get_config() == config
    ([], True)
    """
    boolean(lasting, "lasting")
    chosen = [w for w in select(model, include, exclude, weights) if w.variable.regularizer is not None]
    if not chosen:
        raise ValueError(
            f"None of the selected weights has a penalty. Received: include={include!r}, exclude={exclude!r}, weights={weights!r}"
        )
    rows = [(weight, weight.variable.regularizer, "taken off") for weight in chosen]
    assignment = Assignment(model, [(weight.variable, None) for weight in chosen], lasting)
    assignment.apply()
    return _changes(rows, assignment)


def _changes(rows: list[tuple[Weight, Any, str]], assignment: Assignment) -> Changes:
    changes = tuple(
        Change(weight.name, tuple(weight.variable.shape), regularizer, assignment.kept.get(id(weight.variable)), note)
        for weight, regularizer, note in rows
    )
    return Changes(changes, " ".join(_nothing_left(optimizer) for optimizer in assignment.idle_optimizers()))


def _nothing_left(optimizer: Any) -> str:
    return (
        f"{optimizer.name!r} has no penalty left to apply: until one with `proximal=True` is attached, or the model is compiled anew, it "
        f"trains as {type(optimizer.inner_optimizer).__name__} does."
    )


def _not_registered(names: list[str]) -> str:
    return f"{', '.join(names)} is not registered with Keras: put `@keras.saving.register_keras_serializable(package)` above the class."


def _regularizer(value: Any) -> Any:
    """The regularizer that is meant; one that cannot be told from its config could not be saved."""
    value = Sum(value) if isinstance(value, (list, tuple)) else value  # which says itself what it does not take
    try:
        regularizer = keras.regularizers.get(value)
    except (ValueError, TypeError):
        regularizer = None
    if not isinstance(regularizer, keras.regularizers.Regularizer):
        raise TypeError(
            "Argument `penalty` must be a regularizer of keras_reg or Keras, its name or config, or a mapping to those. "
            f"Received: {value!r} (of type {type(value).__name__})"
        )
    try:
        again = own_copy(regularizer)
    except NotImplementedError:
        again = None
    except ValueError as error:
        if not (names := unregistered(regularizer)):
            raise
        raise ValueError(f"{regularizer!r} is not rebuilt from its config, as {_not_registered(names)}") from error
    if again is None or not same_regularizer(again, regularizer):
        raise ValueError(f"{regularizer!r} is not rebuilt as it is from its `get_config`, so that it could not be saved with a model.")
    if does_nothing(regularizer) and not isinstance(regularizer, Penalty):
        raise ValueError(f"{regularizer.__class__.__name__} with {regularizer.get_config()} does nothing. Received: penalty={value!r}")
    return regularizer


def _check(weight: Weight, regularizer: Any, replace: bool) -> None:
    variable = weight.variable
    if variable.regularizer is not None and not replace:
        raise ValueError(
            f"{weight.name!r} already has {describe(variable.regularizer)}, and a weight has one penalty: set `replace=True`, take the "
            "present one off with `detach`, or leave the weight out with `exclude=`. Nothing was changed."
        )
    if "float" not in keras.backend.standardize_dtype(variable.dtype):
        raise ValueError(f"{weight.name!r} is of dtype {variable.dtype}: quantized weights cannot be penalised. Nothing was changed.")
    if isinstance(regularizer, Penalty):
        try:
            regularizer.check_shape(tuple(variable.shape))
        except ValueError as error:
            raise ValueError(
                f"{regularizer!r} cannot act on {weight.name!r} of shape {tuple(variable.shape)}. {error} Nothing was changed."
            ) from None
