"""The weights of a model: their names, which of them are meant, and their values and penalties as they are now."""

import fnmatch
from typing import Any

import keras
import numpy as np
from keras import backend, ops

from keras_reg.ops.dtypes import widen
from keras_reg.regularizers.penalty import Penalty


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


def choose(model: Any, include: Any = None, exclude: Any = None) -> dict[str, keras.Variable]:
    """The weights that are meant: see `WeightHistogram`."""
    named = named_weights(model)
    if include is None:
        kept = {name for name, v in named.items() if "kernel" in v.name or "embedding" in v.name or v.regularizer is not None}
    else:
        kept = _named_by(named, include, "include")
    if exclude is not None:
        kept -= _named_by(named, exclude, "exclude")
    if not kept:
        raise ValueError(
            f"No weight is left of include={include!r}, exclude={exclude!r}. The model has {', '.join(named) or 'no weights'}."
        )
    return {name: variable for name, variable in named.items() if name in kept}


def _named_by(named: dict[str, keras.Variable], items: Any, argument: str) -> set[str]:
    kept = set()
    for item in items if isinstance(items, (list, tuple, set)) else [items]:
        if isinstance(item, str):
            hits = {name for name, v in named.items() if fnmatch.fnmatchcase(name, item) or fnmatch.fnmatchcase(v.path, item)}
        elif isinstance(item, keras.Layer):
            theirs = {id(variable) for variable in item.weights}
            hits = {name for name, variable in named.items() if id(variable) in theirs}
        elif isinstance(item, keras.Variable):
            hits = {name for name, variable in named.items() if variable is item}
        else:
            raise TypeError(
                f"Argument `{argument}` must hold name patterns such as '*kernel', layers or variables. "
                f"Received: {item!r} (of type {type(item).__name__})"
            )
        if not hits:
            raise ValueError(f"Argument `{argument}` holds {item!r}, which no weight of the model answers to. It has {', '.join(named)}.")
        kept |= hits
    return kept


def read(variable: keras.Variable) -> np.ndarray:
    """The values, not copied where the backend holds them in this machine's memory; good until the next training step."""
    if backend.backend() == "torch":
        import torch

        tensor = variable.value.detach()
        # NumPy has no bfloat16: Keras makes it float32.
        return ops.convert_to_numpy(variable) if tensor.device.type != "cpu" or tensor.dtype == torch.bfloat16 else tensor.numpy()
    # TensorFlow copies a variable that is asked for an array, and not a tensor.
    tensor = variable.value.value() if backend.backend() == "tensorflow" else variable.value
    return np.asarray(tensor)


def group_axis(variable: keras.Variable) -> int | tuple[int, ...] | None:
    """The axis that indexes the groups: that of the penalty, or the last, of units and filters; a vector without one has none."""
    if (axis := getattr(variable.regularizer, "axis", None)) is not None:
        return axis
    return -1 if len(variable.shape) > 1 else None


def penalty(variable: keras.Variable) -> float | None:
    """What the weight adds to the loss; none where it has no penalty, or is frozen, as Keras counts trainable weights alone."""
    regularizer = variable.regularizer
    if regularizer is None or not variable.trainable:
        return None
    tensor = ops.stop_gradient(ops.convert_to_tensor(variable))
    # `value` is the penalty without the warnings that are for training.
    value = regularizer.value(widen(tensor)[0]) if isinstance(regularizer, Penalty) else regularizer(tensor)
    return float(ops.convert_to_numpy(value))
