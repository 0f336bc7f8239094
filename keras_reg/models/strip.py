"""A model without keras_reg: what is deployed, or handed to somebody who has only Keras."""

import contextlib
import warnings
from typing import Any

import keras
from keras import ops

from keras_reg._registration import PACKAGE
from keras_reg.layers.embedding import Embedding
from keras_reg.models.attachment.carrier import KEY
from keras_reg.models.attachment.live import with_live_code
from keras_reg.models.attachment.rebuilt import rebuild_from, refusals
from keras_reg.models.compaction.folding import without_gates
from keras_reg.models.compaction.state import pairs, take_over
from keras_reg.running import proximal_optimizers
from keras_reg.weights import layers_of


def strip(model: keras.Model) -> keras.Model:
    """A plain Keras model with the same weights and outputs, that is saved, loaded and exported without keras_reg.

    Gates go, as they are when the model predicts: into the weights beside them, where closed ones leave exact zeros, or else a `Rescaling`
    takes their place. `keras_reg.layers.Embedding` becomes Keras's. Penalties of keras_reg go, and Keras's own regularizers stay. A
    compiled model stays compiled: `Proximal` gives way to its inner optimizer with its state, so that training goes on without penalties. A
    warning says where more than that changes: metrics of keras_reg are dropped; with a loss of keras_reg, or a class that overrides
    `compile` (as the tasks of KerasHub do), the result is not compiled; and a regularizer of Keras that `attach` had to keep around a layer
    goes with what kept it.

    Args:
        model: A built Keras model. It stays as it is.

    Returns:
        A new model.

    Raises:
        ValueError: where something of keras_reg cannot be taken out, as where a class of the user's puts it in when it is built.

    Example:

    >>> import keras
    >>> from keras_reg.models import strip
    >>> from keras_reg.regularizers import L1
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, kernel_regularizer=L1(0.1))])
    >>> strip(model).layers[0].kernel_regularizer is None, len(model.losses)
    (True, 1)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built:
        raise ValueError(f"Argument `model` must be built: call {model.name!r} on data first. Received: a model without weights")
    try:
        model = without_gates(model)
        with refusals():
            config = keras.saving.serialize_keras_object(model)
        compiled = config.pop("compile_config", None)
        ours = _our_classes(model)
        plain, weights = rebuild_from(_without(config, ours), model)
    except ValueError as error:
        raise ValueError(f"{model.name!r} cannot be stripped: {error}") from None
    lost = []
    for variable, own in zip(model.weights, weights, strict=True):
        # Not the tensor itself: JAX gives the memory of what it trains away.
        own.assign(ops.copy(variable))
        if variable.regularizer is not None and own.regularizer is None and not _is_ours(variable.regularizer.__class__):
            lost.append(variable.path)
    for one, other in pairs(model, plain):
        if not isinstance(one, keras.Model):
            take_over(one, other)
    _check_plain(plain, ours)
    if lost:
        warnings.warn(
            f"strip: {', '.join(lost)} of {model.name!r} lost Keras's regularizer, which keras_reg alone can keep there.", stacklevel=2
        )
    if model.compiled and compiled:
        _compile(plain, model, compiled, ours)
    return plain


def _our_classes(model: Any) -> dict[str, type]:
    """By their registered names: those of keras_reg, and the user's own that derive from them."""
    things = [v.regularizer for v in model.weights]
    for layer in layers_of(model):
        things += [layer, *(value for value in vars(layer).values() if isinstance(value, keras.regularizers.Regularizer))]
    used = {keras.saving.get_registered_name(c): c for thing in things for c in [thing.__class__] if _is_ours(c)}
    return {name: c for name, c in keras.saving.get_custom_objects().items() if isinstance(c, type) and _is_ours(c)} | used


def _is_ours(cls: type) -> bool:
    return any(base.__module__.split(".")[0] == PACKAGE for base in cls.__mro__)


def _without(node: Any, ours: dict[str, type]) -> Any:
    """A serialized config without what is ours in it."""
    if isinstance(node, (list, tuple)):
        return type(node)(_without(item, ours) for item in node)
    if not isinstance(node, dict):
        return node
    name = node.get("registered_name")
    if name not in ours or "config" not in node:
        return {key: _without(value, ours) for key, value in node.items()}
    config = node["config"]
    if isinstance(config, dict) and KEY in config:
        # How it was built, and its place in the graph of a functional model.
        around = {key: value for key, value in node.items() if key not in ("module", "class_name", "config", "registered_name")}
        return _without({**config["layer"], **around}, ours)
    if issubclass(ours[name], keras.regularizers.Regularizer):
        return None
    if ours[name] is Embedding:
        return _without({**node, "module": "keras.layers", "class_name": "Embedding", "registered_name": None}, ours)
    if "inner_optimizer" in config:
        return _without(config["inner_optimizer"], ours)
    layer = config.get("name") if isinstance(config, dict) else None
    raise ValueError(f"it holds a {name} ({layer!r}), which has no counterpart in Keras")


def _check_plain(plain: Any, ours: dict[str, type]) -> None:
    left = [layer.name for layer in layers_of(plain) if _is_ours(type(layer))]
    left += [variable.path for variable in plain.weights if _is_ours(variable.regularizer.__class__)]
    for layer in layers_of(plain):
        left += [f"{layer.name}.{name}" for name, value in vars(layer).items() if _is_ours(type(value))]
    if left:
        raise ValueError(
            f"{plain.name!r} cannot be stripped: {', '.join(dict.fromkeys(left))} would have keras_reg again whenever it is built. The "
            "class that builds it puts it there: give the class an argument for the regularizer, and its `get_config` that argument."
        )


def _compile(plain: Any, model: Any, compiled: dict, ours: dict[str, type]) -> None:
    dropped = []

    def kept(node: Any) -> Any:
        """Metrics that are not ours, at their places."""
        if isinstance(node, dict) and node.get("registered_name") in ours:
            dropped.append(node["class_name"])
            return None
        if isinstance(node, dict):
            return {key: kept(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [value for item in node if (value := kept(item)) is not None or item is None]
        return node

    config = dict(compiled)
    if _names(config.get("loss")) & set(ours):
        warnings.warn(
            f"strip: {model.name!r} was compiled with a loss of keras_reg, so that the stripped model is not compiled.", stacklevel=3
        )
        return
    for key in ("metrics", "weighted_metrics"):
        config[key] = kept(config.get(key))
    if dropped:
        warnings.warn(f"strip: {', '.join(dropped)} of {model.name!r} belongs to keras_reg and was dropped.", stacklevel=3)
    config["optimizer"] = _without(config.get("optimizer"), ours)
    config, live = with_live_code(config, model)
    kind = type(plain)
    reason = f"its class has a `compile` of its own: call `{kind.__name__}.compile` on the result"
    # Keras leaves it to such a class to write both.
    if kind.compile is keras.Model.compile or kind.compile_from_config is not keras.Model.compile_from_config:
        try:
            with keras.saving.custom_object_scope(live) if live else contextlib.nullcontext():
                plain.compile_from_config(config)
            reason = None
        except Exception as error:  # whatever a loss or a metric of the user's raises
            reason = " ".join(str(error).split())[:200]
    if reason is not None or not plain.compiled:
        plain.compiled = False  # some classes compile themselves when they are made, in a way of their own
        warnings.warn(f"strip: the stripped model of {model.name!r} is not compiled ({reason or 'by its own code'}).", stacklevel=3)
        return
    optimizer = model.optimizer
    if optimizer is None or not optimizer.built:
        return
    if not plain.optimizer.built:
        plain.optimizer.build(plain.trainable_variables)
    proximal = list(proximal_optimizers(optimizer))
    own = {id(v) for o in proximal for v in (o._strengths, o._past)}
    state = [v for v in optimizer.variables if id(v) not in own]
    if [tuple(v.shape) for v in state] != [tuple(v.shape) for v in plain.optimizer.variables]:
        warnings.warn(f"strip: the stripped model of {model.name!r} is compiled with another optimizer, which starts anew.", stacklevel=3)
        return
    for variable, target in zip(state, plain.optimizer.variables, strict=True):
        target.assign(ops.copy(variable))


def _names(node: Any) -> set[str]:
    if isinstance(node, dict):
        return {node.get("registered_name")} | {name for value in node.values() for name in _names(value)}
    return {name for item in node for name in _names(item)} if isinstance(node, (list, tuple)) else set()
