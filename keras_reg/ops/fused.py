"""Few passes over large weights, where each operation would make one of its own."""

import math
from collections.abc import Callable
from typing import Any

from keras import backend

LARGE = 2**16
"""Number of entries from which on a saved pass is worth the time to compile."""
BATCH = 32
"""What an unknown batch size counts as."""


def fused(function: Callable, x: Any, *others: Any) -> Any:
    """`function(x, *others)`; within a graph of TensorFlow's and for a large `x`, compiled by XLA, whatever the graph around it is.

    JAX compiles everything so. Eager tensors are left alone.
    """
    return compiled(function)(x, *others) if worth_compiling(x) else function(x, *others)


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
