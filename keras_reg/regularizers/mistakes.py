"""Silent mistakes around regularizers: what a model has that does nothing, will be lost, or hardly was meant."""

from typing import Any

import keras
import numpy as np

from keras_reg.regularizers.penalty import Penalty


def describe(regularizer: Any) -> str:
    """A regularizer with its arguments; Keras's own say no more than their class."""
    if isinstance(regularizer, Penalty) or not hasattr(regularizer, "get_config"):
        return repr(regularizer)
    arguments = (
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}" for name, value in regularizer.get_config().items()
    )
    return f"{type(regularizer).__name__}({', '.join(arguments)})"


def does_nothing(regularizer: Any) -> bool:
    """Whether all its strengths are 0."""
    if isinstance(regularizer, Penalty):
        return regularizer.strength == 0
    if not type(regularizer).__module__.startswith("keras."):
        return False
    return not any(float(keras.ops.convert_to_numpy(regularizer(w))) for w in np.float32([[[1, 1], [2, 1]], [[1, 0], [0, 2]]]))
