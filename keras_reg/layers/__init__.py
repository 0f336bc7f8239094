"""Stochastic gates, which learn what can go, on units, inputs and weights; an embedding of many rows."""

from keras_reg.layers.embedding import Embedding
from keras_reg.layers.gated_kernel import GatedKernel
from keras_reg.layers.gaussian import GaussianGate
from keras_reg.layers.hard_concrete import HardConcreteGate

__all__ = ["Embedding", "GatedKernel", "GaussianGate", "HardConcreteGate"]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
