"""One pass over large weights, where each operation would make one of its own."""

import math
from collections.abc import Callable
from typing import Any

from keras import backend

LARGE = 2**16
"""Number of entries from which on a saved pass is worth the time to compile."""


def fused(function: Callable, x: Any, *others: Any) -> Any:
    """`function(x, *others)`; within a graph of TensorFlow's and for a large `x`, compiled by XLA, whatever the graph around it is.

    JAX compiles everything so. Eager tensors are left alone.
    """
    if backend.backend() != "tensorflow":
        return function(x, *others)
    import tensorflow as tf

    shape = tuple(x.shape)
    if not tf.is_symbolic_tensor(x) or None in shape or math.prod(shape) < LARGE:
        return function(x, *others)
    return tf.function(function, jit_compile=True, autograph=False)(x, *others)
