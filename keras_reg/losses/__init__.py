"""Losses: `keras.losses.Loss` classes, and functions of the same names in snake case."""

from keras_reg.losses.label_smoothing import LabelSmoothingCrossentropy, label_smoothing_crossentropy
from keras_reg.losses.online_label_smoothing import OnlineLabelSmoothingCrossentropy

__all__ = [
    "LabelSmoothingCrossentropy",
    "OnlineLabelSmoothingCrossentropy",
    "label_smoothing_crossentropy",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
