"""Which activation functions act on each entry alone, so that a unit may leave without a change to the others."""

from typing import Any

import keras

_ENTRYWISE = {
    getattr(keras.activations, name)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu"),
        *("linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign"),
        *("sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink", "threshold"),
    )
    if hasattr(keras.activations, name)
}
LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


def entrywise(activation: Any) -> bool:
    """Whether this is one of Keras's functions or layers that act on each entry alone; of others it is not known."""
    return (
        activation is None
        or type(activation) in LAYERS
        or (callable(activation) and not isinstance(activation, keras.Layer) and activation in _ENTRYWISE)
    )
