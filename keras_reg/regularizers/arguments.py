"""Weights and gradients as the methods of penalties take them."""

import math
from typing import Any

from keras import ops

from keras_reg._validation import floating_tensor
from keras_reg.ops.dtypes import like, widen


def pair(w: Any, grad: Any) -> tuple[Any, Any]:
    """Weights and the gradient at them, both in the float32 or wider dtype of the weights."""
    w, _ = widen(w, "w")
    grad = ops.convert_to_tensor(grad)
    if tuple(grad.shape) != tuple(w.shape):
        raise ValueError(f"Argument `grad` must have the shape of `w`, {tuple(w.shape)}. Received: grad.shape={tuple(grad.shape)}")
    return w, like(w, grad)


def largest_magnitude(grad: Any) -> float:
    """`max |grad|` as a Python float."""
    largest = float(ops.max(ops.absolute(floating_tensor(grad, "grad_at_zero"))))
    if not math.isfinite(largest):
        raise ValueError(f"Argument `grad_at_zero` must be finite. Received: a gradient whose largest magnitude is {largest}")
    return largest
