"""Choosing: strengths and features on data that was not trained on."""

from keras_reg.selection.features import select_features
from keras_reg.selection.path import regularization_path
from keras_reg.selection.strength_max import strength_max

__all__ = ["regularization_path", "select_features", "strength_max"]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
