"""Gradients by formula, where the traced ones pass over the weights more often."""

import functools
from collections.abc import Callable
from typing import Any

from keras import KerasTensor, backend, ops


def with_gradient(total: Callable, gradient: Callable, w: Any) -> Any:
    """`total(w)`; on TensorFlow and PyTorch, with `gradient(w, upstream)` for its gradient.

    There each operation passes over the weights, and the formula takes half the passes of the traced derivative. JAX and PyTorch's
    compiler fuse them, and differentiate `total` itself.
    """
    if isinstance(w, KerasTensor) or backend.backend() not in ("tensorflow", "torch"):
        return total(w)
    if backend.backend() == "torch":
        import torch

        return total(w) if torch.compiler.is_compiling() else _torch_function().apply(w, total, gradient)

    @ops.custom_gradient
    def function(w):
        return total(w), lambda upstream: gradient(w, upstream)

    # An eager variable has to be read first: custom gradients take tensors.
    return function(ops.cast(w, w.dtype))


@functools.cache
def _torch_function() -> Any:
    import torch

    class Formula(torch.autograd.Function):
        """A value with a gradient given beside it, which can be differentiated again."""

        generate_vmap_rule = True

        @staticmethod
        def forward(w, total, gradient):
            return total(w)

        @staticmethod
        def setup_context(ctx, inputs, output):
            w, _, ctx.gradient = inputs
            ctx.save_for_backward(w)

        @staticmethod
        def backward(ctx, upstream):
            return ctx.gradient(*ctx.saved_tensors, upstream), None, None

    return Formula


def branch(condition: Any, then: Callable, otherwise: Callable) -> Any:
    """`ops.cond`, which on PyTorch takes longer than the arithmetic that it spares."""
    if backend.backend() == "torch" and may_branch(condition):
        return then() if condition else otherwise()
    return ops.cond(condition, then, otherwise)


def may_branch(x: Any) -> bool:
    """Whether what is computed next may depend on the values of `x`: not where Keras, JAX or PyTorch traces or maps, nor on a GPU of
    PyTorch's, which would have to be waited for."""
    if isinstance(x, KerasTensor) or backend.backend() == "jax":
        return False
    if backend.backend() == "tensorflow":
        return True
    import torch

    try:
        return not torch.compiler.is_compiling() and x.device.type == "cpu" and x.data_ptr() != 0
    except RuntimeError:  # of a tensor without values of its own, in `torch.func` or on the way to an exported graph
        return False
