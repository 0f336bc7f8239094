"""Checks of arguments: each error names the argument, what was expected and what came."""

import math
import numbers
from typing import Any

import numpy as np
from keras import KerasTensor, ops


def shown(value: Any) -> str:
    """A `repr` for messages: short, and also of what has none."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integers of thousands of digits
        return f"a value of type {type(value).__name__} that is too large to print"
    return text if len(text) <= 200 else f"{text[:150]}…{text[-40:]}"


def received(value: Any, name: str) -> str:
    return f"Received: {name}={shown(value)} (of type {type(value).__name__})"


def real_number(value: Any, name: str) -> float:
    """A finite Python float from a Python or NumPy number; booleans are no numbers."""
    # A NumPy boolean is no `numbers.Real`, a Python one is.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"Argument `{name}` must be a number (Python or NumPy). {received(value, name)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"Argument `{name}` must be finite, as a float of 64 bits. {received(value, name)}")
    return number


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


def whole_number(value: Any, name: str, at_least: int | None = None, or_none: bool = False) -> Any:
    """A Python integer from a Python or NumPy one that fits 64 bits."""
    if value is None and or_none:
        return None
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    too_large = is_whole and not -(2**63) <= int(value) < 2**63
    if not is_whole or too_large or (at_least is not None and int(value) < at_least):
        limits = f"{'' if at_least is None else f' of at least {at_least}'}{' of at most 64 bits' if too_large else ''}"
        kind = TypeError if at_least is None and not is_whole else ValueError
        raise kind(f"Argument `{name}` must be a whole number{limits}{' or None' if or_none else ''}. {received(value, name)}")
    return int(value)


def axes(value: Any, name: str) -> int | tuple[int, ...]:
    """An axis, or several that are different."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    if not given or any(isinstance(one, bool) or not isinstance(one, numbers.Integral) for one in given):
        raise TypeError(f"Argument `{name}` must be an integer or a non-empty tuple of integers. {received(value, name)}")
    found = tuple(whole_number(one, name) for one in given)
    if len(set(found)) < len(found):
        raise ValueError(f"Argument `{name}` must not name an axis twice. {received(value, name)}")
    return found if isinstance(value, (tuple, list)) else found[0]


def items(value: Any, name: str) -> list:
    """What is in a list, a tuple or an array of one dimension."""
    if not (isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)):
        raise TypeError(f"Argument `{name}` must be a list of numbers. {received(value, name)}")
    return list(value)


def one_of(value: Any, choices: tuple[str, ...], name: str) -> str:
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Argument `{name}` must be one of {expected}. Received: {name}={shown(value)}")
    return value


def boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Argument `{name}` must be True or False. Received: {name}={shown(value)}")
    return value


def floating_tensor(value: Any, name: str) -> Any:
    """A real floating-point tensor from a tensor, variable, array or nested list."""
    # A symbolic tensor is what a functional model is made of: it has no value to convert.
    tensor = value if isinstance(value, KerasTensor) or ops.is_tensor(value) else ops.convert_to_tensor(value)
    dtype = str(tensor.dtype)
    if "float" not in dtype:
        raise TypeError(f"Argument `{name}` must have a real floating-point dtype. Received: {name} of dtype {dtype}")
    return tensor


def step_size(step: Any, w: Any) -> Any:
    """Refuse a step that can be seen to be none for the weights; tensors, whose values may be unknown, pass unread."""
    shape, wanted = (tuple(getattr(one, "shape", ())) or np.shape(one if isinstance(one, (list, tuple)) else 0) for one in (step, w))
    known = None not in (*shape, *wanted)
    if known and (len(shape) > len(wanted) or any(a not in (1, b) for a, b in zip(shape[::-1], wanted[::-1], strict=False))):
        raise ValueError(
            f"Argument `step` must be a number, or of a shape that broadcasts to the weights, {wanted}. Received: step of shape {shape}"
        )
    if isinstance(step, (list, tuple, np.ndarray)):
        step = np.asarray(step)
        if step.dtype.kind not in "fiu" or not np.all(step >= 0):
            raise ValueError(f"Argument `step` must hold numbers of at least 0. Received: step={step}")
        return step
    return non_negative(step, "step") if isinstance(step, (numbers.Real, str, type(None))) else step
