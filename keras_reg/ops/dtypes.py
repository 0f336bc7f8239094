"""The dtype that a map computes in, and the few functions whose value or derivative Keras leaves open."""

from typing import Any

import numpy as np
from keras import backend, ops

from keras_reg._validation import floating_tensor

TINY = {"float32": 1.1754943508222875e-38, "float64": 2.2250738585072014e-308}
"""Smallest normal number; below it backends differ in whether they see a zero."""


def widen(x: Any, name: str = "x") -> tuple[Any, str]:
    """`x` in at least float32, and the dtype to give back."""
    x = floating_tensor(x, name)
    dtype = backend.standardize_dtype(x.dtype)
    return (ops.cast(x, "float32") if dtype in ("float16", "bfloat16") else x), dtype


def like(x: Any, number: Any) -> Any:
    """A number or tensor in the dtype of `x`; what is of Python or NumPy does not pass through float32 on the way."""
    if isinstance(number, (int, float, np.ndarray)):
        return ops.convert_to_tensor(number, dtype=x.dtype)
    return ops.cast(number, x.dtype)


def magnitude(x: Any) -> Any:
    """`|x|` whose derivative at zero is 0 on every backend. (JAX has 1 there, which would push zeros off zero.)"""
    return x * ops.stop_gradient(ops.sign(x))


def at_most(x: Any, bound: Any) -> Any:
    """The smaller of the two; a NaN in `x` stays. (Keras's own computes float64 in float32.)"""
    return ops.where(x > bound, bound, x)


def at_least(x: Any, bound: Any) -> Any:
    """The larger of the two; a NaN in `x` stays."""
    return ops.where(x < bound, bound, x)


def tiny(x: Any) -> float:
    return TINY[backend.standardize_dtype(x.dtype)]
