"""Values and gradients as NumPy: what the laws compare."""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_reg import backend
from keras_reg.backend import compiled as compiled


def value_and_gradient(function: Callable, w: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient of a scalar function at `w`, by the backend's own automatic differentiation."""
    value, gradient = backend.value_and_gradient(function, ops.convert_to_tensor(w))
    return float(ops.convert_to_numpy(value)), ops.convert_to_numpy(gradient)
