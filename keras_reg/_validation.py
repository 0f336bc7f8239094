"""Checks of arguments: each error names the argument, what was expected and what came."""

import math
import numbers
from typing import Any

import numpy as np
from keras import KerasTensor, ops


def real_number(value: Any, name: str) -> float:
    """A finite Python float from a Python or NumPy number; booleans are no numbers."""
    # A NumPy boolean is no `numbers.Real`, a Python one is.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"Argument `{name}` must be a number (Python or NumPy). Received: {name}={value!r} (of type {type(value).__name__})"
        )
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"Argument `{name}` must be finite. Received: {name}={value}")
    return value


def non_negative(value: Any, name: str) -> float:
    value = real_number(value, name)
    if value < 0:
        raise ValueError(f"Argument `{name}` must be at least 0. Received: {name}={value}")
    return value


def greater_than(value: Any, bound: float, name: str) -> float:
    value = real_number(value, name)
    if value <= bound:
        raise ValueError(f"Argument `{name}` must be greater than {bound:g}. Received: {name}={value}")
    return value


def one_of(value: Any, choices: tuple[str, ...], name: str) -> str:
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Argument `{name}` must be one of {expected}. Received: {name}={value!r}")
    return value


def boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Argument `{name}` must be True or False. Received: {name}={value!r}")
    return value


def floating_tensor(value: Any, name: str) -> Any:
    """A real floating-point tensor from a tensor, variable, array or nested list."""
    # A symbolic tensor is what a functional model is made of: it has no value to convert.
    tensor = value if isinstance(value, KerasTensor) or ops.is_tensor(value) else ops.convert_to_tensor(value)
    dtype = str(tensor.dtype)
    if "float" not in dtype:
        raise TypeError(f"Argument `{name}` must have a real floating-point dtype. Received: {name} of dtype {dtype}")
    return tensor


def step_size(step: Any) -> Any:
    """Refuse a step that can be seen to be none; tensors, whose values may be unknown, pass unread."""
    if isinstance(step, (list, tuple, np.ndarray)):
        step = np.asarray(step)
        if step.dtype.kind not in "fiu" or not np.all(step >= 0):
            raise ValueError(f"Argument `step` must hold numbers of at least 0. Received: step={step}")
        return step
    return non_negative(step, "step") if isinstance(step, (numbers.Real, str, type(None))) else step
