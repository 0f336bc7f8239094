"""What the penalties of a model are now, and how many of its weights are zero: the one place that adds up and counts."""

from typing import Any

import keras
from keras import ops

from keras_reg.ops.dtypes import widen
from keras_reg.regularizers.penalty import Penalty


def penalty(variable: keras.Variable) -> Any:
    """What the weight adds to the loss; none where it has no penalty, or is frozen, as Keras counts trainable weights alone."""
    regularizer = variable.regularizer
    if regularizer is None or not variable.trainable:
        return None
    tensor = ops.stop_gradient(ops.convert_to_tensor(variable))
    # `value` is the penalty without the warnings that are for training.
    value = regularizer.value(widen(tensor)[0]) if isinstance(regularizer, Penalty) else regularizer(tensor)
    return float(ops.convert_to_numpy(value))
