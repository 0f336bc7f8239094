"""Layers that learn what can go: stochastic gates on units, inputs and weights."""

from keras_reg.layers.gated_kernel import GatedKernel
from keras_reg.layers.gaussian import GaussianGate
from keras_reg.layers.hard_concrete import HardConcreteGate

__all__ = ["GatedKernel", "GaussianGate", "HardConcreteGate"]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
