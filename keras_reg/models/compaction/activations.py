"""Which activation functions act on each entry alone, so that a unit may leave without a change to the others."""

import contextlib
import functools
import numbers
import sys
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
# Functions of the backends themselves, by where they are.
_FOREIGN = {
    "tensorflow.nn": ("relu", "relu6", "elu", "selu", "gelu", "silu", "swish", "sigmoid", "tanh", "softplus", "softsign", "leaky_relu"),
    "tensorflow.math": ("sigmoid", "tanh", "softplus", "sin", "cos", "square", "exp"),
    "jax.nn": (
        *("relu", "relu6", "elu", "selu", "gelu", "silu", "swish", "sigmoid", "softplus", "soft_sign", "leaky_relu", "celu"),
        *("hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "log_sigmoid", "mish", "squareplus"),
    ),
    "jax.numpy": ("tanh", "sin", "cos", "square", "exp"),
    "torch.nn.functional": (
        *("relu", "relu6", "elu", "selu", "gelu", "silu", "softplus", "softsign", "leaky_relu", "celu"),
        *("hardsigmoid", "hardswish", "hardtanh", "logsigmoid", "mish", "sigmoid", "tanh"),
    ),
    "torch": ("relu", "sigmoid", "tanh", "sin", "cos", "square", "exp"),
}
# Told by the user: functions, and classes of layers and other objects.
_REGISTERED: list[Any] = []


def register_activation(function: Any) -> None:
    """From now on this function, or whatever is of this class, counts as entrywise."""
    if not _among(function, _REGISTERED):
        _REGISTERED.append(function)


def entrywise(activation: Any) -> bool:
    """Whether it is known to act on each entry alone: one of Keras's or of a backend's that do, or one of which the user says so."""
    if isinstance(activation, functools.partial):
        settings = [*activation.args, *activation.keywords.values()]
        return entrywise(activation.func) and all(value is None or isinstance(value, numbers.Real) for value in settings)
    if type(activation) is keras.layers.Activation:
        return entrywise(activation.activation)
    return (
        activation is None
        or type(activation) in LAYERS
        or _among(activation, _CONTINUOUS + _JUMPING + _REGISTERED)
        or _among(type(activation), _REGISTERED)
        or _of_a_backend(activation)
        or _of_the_hub(activation)
    )


def continuous(activation: Any) -> bool:
    """Whether it is known to have no jumps."""
    if type(activation) is keras.layers.Activation:
        return continuous(activation.activation)
    return (
        activation is None
        or _among(activation, _CONTINUOUS)
        or type(activation) in (keras.layers.LeakyReLU, keras.layers.ELU)
        or _of_a_backend(activation)
        or _of_the_hub(activation)
    )


def name_of(activation: Any) -> str:
    """What to call it in a sentence."""
    return getattr(activation, "__name__", None) or str(activation)


def _among(activation: Any, functions: list) -> bool:
    # By identity: not every callable has a hash.
    return any(activation is function for function in functions)


def _of_a_backend(activation: Any) -> bool:
    """Only backends that have been imported can have given it."""
    for path, names in _FOREIGN.items():
        package, *within = path.split(".")
        with contextlib.suppress(AttributeError):
            module = functools.reduce(getattr, within, sys.modules.get(package))
            if _among(activation, [getattr(module, name) for name in names if hasattr(module, name)]):
                return True
    return False


def _of_the_hub(activation: Any) -> bool:
    """KerasHub's models bring variants of GELU as functions of their own."""
    module, name = (str(getattr(activation, attribute, "")) for attribute in ("__module__", "__name__"))
    return module.startswith("keras_hub.") and "gelu" in name
