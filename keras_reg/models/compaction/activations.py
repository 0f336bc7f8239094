"""Which activation functions act on each entry alone, so that a unit may leave without a change to the others."""

import functools
import numbers
from typing import Any

import keras

_CONTINUOUS = [
    getattr(module, name)
    for module in (keras.activations, keras.ops)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu"),
        *("linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign"),
        *("sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink"),
    )
    if hasattr(module, name)
]
_JUMPING = [
    getattr(module, name) for module in (keras.activations, keras.ops) for name in ("hard_shrink", "threshold") if hasattr(module, name)
]
LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
# Told by the user.
_REGISTERED: list[Any] = []


def register_activation(function: Any) -> None:
    """From now on this function counts as entrywise."""
    if not _among(function, _REGISTERED):
        _REGISTERED.append(function)


def entrywise(activation: Any) -> bool:
    """Whether this is one of Keras's functions or layers that act on each entry alone, or the user says so; of others it is not known."""
    if isinstance(activation, functools.partial):
        settings = [*activation.args, *activation.keywords.values()]
        return entrywise(activation.func) and all(value is None or isinstance(value, numbers.Real) for value in settings)
    return (
        activation is None
        or type(activation) in LAYERS
        or _among(activation, _CONTINUOUS + _JUMPING + _REGISTERED)
        or _of_the_hub(activation)
    )


def continuous(activation: Any) -> bool:
    """Whether it is known to have no jumps."""
    return (
        activation is None
        or _among(activation, _CONTINUOUS)
        or type(activation) in (keras.layers.LeakyReLU, keras.layers.ELU)
        or _of_the_hub(activation)
    )


def name_of(activation: Any) -> str:
    """What to call it in a sentence."""
    return getattr(activation, "__name__", None) or str(activation)


def _among(activation: Any, functions: list) -> bool:
    # By identity: not every callable has a hash.
    return any(activation is function for function in functions)


def _of_the_hub(activation: Any) -> bool:
    """KerasHub's models bring variants of GELU as functions of their own."""
    module, name = (str(getattr(activation, attribute, "")) for attribute in ("__module__", "__name__"))
    return module.startswith("keras_hub.") and "gelu" in name
