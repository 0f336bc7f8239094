"""Few passes over large weights, where each operation would make one of its own."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import KerasTensor, backend, ops

from keras_reg.ops.dtypes import magnitude
from keras_reg.ops.gradients import may_branch, with_gradient

LARGE = 2**16
"""Number of entries from which on a saved pass is worth the time to compile."""
PART = 2**18
"""Number of entries of which a processor's cache holds a few copies."""
BLOCKS = 4
"""Into how many blocks JAX divides large weights."""
FOLDS = 8
"""Into how many parts, which are added up first, a sum is divided."""
SHORTEST = 16
"""Number of entries that a processor works on together."""
BATCH = 32
"""What an unknown batch size counts as."""


def fused(function: Callable, x: Any, *others: Any) -> Any:
    """`function(x, *others)`; within a graph of TensorFlow's and for a large `x`, compiled by XLA, whatever the graph around it is.

    JAX compiles everything so. Eager tensors are left alone.
    """
    return compiled(function)(x, *others) if worth_compiling(x) else function(x, *others)


def fused_sum(function: Callable, x: Any) -> Any:
    """The sum of `function(x)`, as in `fused`, over all entries."""
    if backend.backend() == "jax" and not isinstance(x, KerasTensor) and x.ndim and x.size >= LARGE:
        import jax
        import jax.numpy as jnp

        # On a CPU, XLA sums anything but the plainest function one number at a time, unless the values have to be there as an array.
        if jax.default_backend() == "cpu":
            return ops.sum(jnp.dot(function(x), jnp.ones(x.shape[-1], x.dtype), precision="highest"))
    if in_parts(x):
        return sum(ops.sum(function(part)) for part in parts(x, 0))
    # The last sum stays with TensorFlow, which loses fewer digits.
    return ops.sum(fused(lambda x: folded(function, x), x))


def sum_of_magnitudes(x: Any) -> Any:
    return _plain_sum(magnitude, lambda x, upstream: upstream * ops.sign(x), x)


def sum_of_squares(x: Any) -> Any:
    return _plain_sum(ops.square, lambda x, upstream: x * (2 * upstream), x)


def _plain_sum(function: Callable, gradient: Callable, x: Any) -> Any:
    """`fused_sum` of a function so plain that JAX needs no help to add it up; `gradient(x, upstream)` as in `with_gradient`."""
    if not (worth_compiling(x) or in_parts(x)):
        return ops.sum(function(x))
    return with_gradient(lambda x: fused_sum(function, x), gradient, x)


def folded(function: Callable, x: Any, *others: Any, axes: Sequence[int] | None = None, combine: Callable = ops.add) -> Any:
    """`function(x, *others)`, for what reduces it along the axes (default: all), maybe folded along one of them.

    On a CPU, XLA reduces an expression one number at a time; what it adds up of equal parts first, it vectorises.

    Args:
        function: Takes every entry by itself.
        others: Arrays that broadcast to `x`.
        combine: By what it is to be reduced.
    """
    axis = _folding_axis(x, axes)
    if axis is None:
        return function(x, *others)

    def folds(array):
        own = axis - len(x.shape) + len(array.shape)
        split = own >= 0 and array.shape[own] == x.shape[axis]
        return ops.split(array, FOLDS, axis=own) if split else [array] * FOLDS

    arrays = [folds(array) for array in (x, *map(ops.convert_to_tensor, others))]
    return functools.reduce(combine, (function(*parts) for parts in zip(*arrays, strict=True)))


def _folding_axis(x: Any, axes: Sequence[int] | None) -> int | None:
    """The one whose parts are the longest in memory."""
    if not worth_compiling(x):
        return None
    shape = tuple(x.shape)
    for axis in range(len(shape)) if axes is None else sorted(axes):
        if shape[axis] is not None and shape[axis] % FOLDS == 0 and math.prod(shape[axis:]) >= FOLDS * SHORTEST:
            return axis
    return None


def in_place(function: Callable, axes: Sequence[int], x: Any, *others: Any) -> None:
    """Write `function(x, *others)` into `x`, where it should be done `in_parts`.

    Args:
        axes: Those of `x` along which the function takes every slice by itself.
        others: Arrays of the shape of `x`.
    """
    axis = max(axes, key=lambda axis: x.shape[axis])
    for part, *rest in zip(*(parts(array, axis) for array in (x, *others)), strict=True):
        part.copy_(function(part, *rest))


def in_blocks(function: Callable, axes: Sequence[int], x: Any, *others: Any) -> Any:
    """`function(x, *others)`, as in `fused`; where JAX compiles for a processor, a block of slices after another.

    It would keep what is read more than once as arrays of the size of `x`, which its allocator fetches anew at every call.

    Args:
        axes: As in `in_place`.
        others: Arrays of the shape of `x`.
    """
    axis = next((axis for axis in axes if x.shape[axis] % BLOCKS == 0), None)
    if not others or axis is None or len(axes) == len(x.shape) or not _jax_on_a_processor(x):
        return fused(function, x, *others)
    import jax

    length = x.shape[axis] // BLOCKS

    def work_on(block, x):
        own = (jax.lax.dynamic_slice_in_dim(array, block * length, length, axis) for array in (x, *others))
        return jax.lax.dynamic_update_slice_in_dim(x, function(*own), block * length, axis)

    return jax.lax.fori_loop(0, BLOCKS, work_on, x)


def _jax_on_a_processor(x: Any) -> bool:
    """Whether JAX compiles something for a large `x` that is to run on CPUs."""
    if backend.backend() != "jax" or x.size < LARGE:
        return False
    import jax

    return isinstance(x, jax.core.Tracer) and jax.default_backend() == "cpu"


def take_off(x: Any, shares: Any) -> None:
    """Write `x - x * shares` into `x`, where it should be done `in_parts`."""
    x.addcmul_(x, shares, value=-1)


def in_parts(x: Any) -> bool:
    """Whether to work on a part of `x` at a time, of which the cache holds a few copies.

    On a processor, and where it keeps nothing for a gradient, PyTorch takes longer for a new array than for the arithmetic.
    """
    if backend.backend() != "torch" or not may_branch(x) or x.numel() < LARGE:
        return False
    import torch

    return not (x.requires_grad and torch.is_grad_enabled())


def parts(x: Any, axis: int) -> Sequence[Any]:
    # Parts across the rows of memory are slower to get at; fewer of them take less time.
    entries = PART if axis == 0 else 2 * PART
    return x.split(max(1, entries * x.shape[axis] // x.numel()), axis)


def joins(gradient: Any) -> bool:
    """Whether an update by the gradient is worth compiling together with what comes after it; every replica has updates of its own."""
    if not worth_compiling(gradient):
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.Tensor) and not tf.distribute.has_strategy()


def compiled(function: Callable) -> Callable:
    """`function`, compiled by XLA within TensorFlow's graph."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def worth_compiling(x: Any) -> bool:
    """Whether `x` is large, within a graph of TensorFlow's.

    Every shape compiles anew: besides the batch size, of which most data have two, nothing may be unknown.
    """
    if backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    shape = tuple(x.shape)
    if not tf.is_symbolic_tensor(x) or None in shape[1:]:
        return False
    return math.prod(BATCH if size is None else size for size in shape) >= LARGE
