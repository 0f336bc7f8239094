"""The dtype that a map computes in."""

import functools
from typing import Any

import numpy as np
from keras import KerasTensor, backend, ops

from keras_reg._validation import floating_tensor
from keras_reg.ops.gradients import may_branch

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
    return _jax_magnitude()(x) if backend.backend() == "jax" and not isinstance(x, KerasTensor) else ops.absolute(x)


@functools.cache
def _jax_magnitude() -> Any:
    import jax

    function = jax.custom_jvp(ops.absolute)
    function.defjvps(lambda change, value, x: ops.sign(x) * change)
    return function


def at_most(x: Any, bound: Any) -> Any:
    """The smaller of the two; a NaN in `x` stays."""
    if backend.backend() == "torch" and not isinstance(x, KerasTensor):
        import torch

        # Keras's own computes float64 in float32.
        return torch.minimum(x, like(x, bound))
    return ops.where(x > bound, bound, x)


def at_least(x: Any, bound: Any) -> Any:
    """The larger of the two; a NaN in `x` stays."""
    if backend.backend() == "torch" and not isinstance(x, KerasTensor):
        import torch

        return torch.maximum(x, like(x, bound))
    return ops.where(x < bound, bound, x)


def clipped(x: Any, bound: Any) -> Any:
    """`x` within `bound` of 0; a NaN stays."""
    if (
        backend.backend() == "torch"
        and not isinstance(x, KerasTensor)
        and not bound.shape
        and may_branch(bound)
        and not bound.requires_grad
    ):
        import torch

        # With plain numbers PyTorch clips in one pass.
        return torch.clamp(x, -float(bound), float(bound))
    return at_most(at_least(x, -bound), bound)


def tiny(x: Any) -> float:
    return TINY[backend.standardize_dtype(x.dtype)]
