"""Callbacks for `fit`: strengths that move, and seeing what happens to the weights."""

from keras_reg.callbacks.online_labels import OnlineLabelSmoothing
from keras_reg.callbacks.strength_scheduler import StrengthScheduler
from keras_reg.callbacks.target_sparsity import TargetSparsity
from keras_reg.callbacks.weight_histogram import WeightHistogram

__all__ = [
    "OnlineLabelSmoothing",
    "StrengthScheduler",
    "TargetSparsity",
    "WeightHistogram",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
