"""Every function of `keras_reg.backend` in `keras.ops`: its definition, and the oracle of its tests."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def norm(x: Any, axes: tuple[int, ...]) -> Any:
    """The Euclidean norm along these axes, which stay with size 1; at a zero vector its derivatives are 0."""
    squares = ops.sum(ops.square(x), axis=axes, keepdims=True)
    zero = ops.equal(squares, 0)
    return ops.where(zero, ops.zeros_like(squares), ops.sqrt(ops.where(zero, ops.ones_like(squares), squares)))


def can_be_seen(tensor: Any) -> bool:
    """Whether reading the values costs no more than a look: no symbol, no tracer, nothing to fetch from an accelerator."""
    del tensor
    return False


def is_compiling() -> bool:
    """Whether the code is being compiled by something that cannot look at Python's frames."""
    return False


def value_and_gradient(function: Callable, w: Any) -> tuple[Any, Any]:
    """A scalar function at the tensor `w`, and its gradient there."""
    del function, w
    raise NotImplementedError(
        f"Gradients are known on TensorFlow, JAX and PyTorch. Received: keras.backend.backend()={keras.backend.backend()!r}"
    )


def compiled(function: Callable) -> Callable:
    """`function` as the backend compiles it, if it does when Keras trains."""
    return function


def read(variable: keras.Variable) -> np.ndarray:
    """The values, not copied where the backend holds them in this machine's memory; good until the next training step."""
    return ops.convert_to_numpy(variable.value)


def outside_of_graphs() -> Any:
    """A scope in which values can be read and written even where a step is being traced."""
    return contextlib.nullcontext()


def numbers_suffice() -> bool:
    """Whether a training step takes the numbers that Python has at the time, as it is not compiled."""
    return False


def loss_sees_the_optimizer() -> bool:
    """Whether a loss that is being computed may read variables of the optimizer."""
    return True


def distribution_scope(model: Any) -> Any:
    """The scope in which variables of the model are made."""
    return keras.name_scope(model.name)


def replicas() -> int:
    """Of how many replicas Keras adds up the loss."""
    return 1


def is_first_process(model: Any) -> bool:
    """Whether this process is the one that writes, of those that train together."""
    del model
    return True
