"""Regularizers for Keras 3 that reach exact zeros. Importing this registers every class as `keras_reg>Name`."""

from keras_reg import callbacks, layers, losses, metrics, models, ops, optimizers, regularizers, selection, testing, visualization
from keras_reg._version import __version__

__all__ = [
    "__version__",
    "callbacks",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "regularizers",
    "selection",
    "testing",
    "visualization",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
