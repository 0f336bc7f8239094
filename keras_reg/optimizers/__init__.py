"""An optimizer that lands on zero, around any of Keras's."""

from keras_reg.optimizers.proximal import Proximal

__all__ = [
    "Proximal",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
