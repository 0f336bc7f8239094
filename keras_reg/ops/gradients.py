"""Gradients by formula, where the traced ones pass over the weights more often."""

import functools
from collections.abc import Callable
from typing import Any

from keras import KerasTensor, backend, ops


def with_gradient(total: Callable, gradient: Callable, w: Any) -> Any:
    """`total(w)` with `gradient(w, upstream)`, which is linear in `upstream`, for its gradient.

    On TensorFlow and PyTorch each operation passes over the weights, and the formula takes half the passes of the traced derivative; on JAX
    its arithmetic is less. PyTorch's compiler differentiates `total` itself. What the two functions read besides gets no gradient.
    """
    if isinstance(w, KerasTensor) or backend.backend() not in ("tensorflow", "jax", "torch"):
        return total(w)
    if backend.backend() == "jax":
        return _jax_function(total, gradient)(w)
    if backend.backend() == "torch":
        import torch

        wanted = w.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return _torch_function().apply(w, total, gradient) if wanted else total(w)

    @ops.custom_gradient
    def function(w):
        return total(w), lambda upstream: gradient(w, upstream)

    # An eager variable has to be read first: custom gradients take tensors.
    return function(ops.cast(w, w.dtype))


def _jax_function(total: Callable, gradient: Callable) -> Callable:
    import jax

    function = jax.custom_jvp(total)

    @function.defjvp
    def derivative(primals, tangents):
        # A rule of this kind, by the transpose of the gradient, can be differentiated again, in both directions.
        (w,) = primals
        value = function(w)
        (change,) = jax.linear_transpose(lambda upstream: gradient(w, upstream), value)(*tangents)
        return value, change

    return function


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
    """`ops.cond`, which takes PyTorch longer than the arithmetic that it spares, and which JAX, where nothing is traced, compiles anew."""
    if isinstance(condition, bool) or _at_hand(condition):
        return then() if condition else otherwise()
    return ops.cond(condition, then, otherwise)


def choose(condition: Any, then: Callable, otherwise: Callable) -> Any:
    """`ops.where`, without the other arm where the condition is a single value at hand."""
    if not condition.shape and _at_hand(condition):
        return then() if condition else otherwise()
    return ops.where(condition, then(), otherwise())


def _at_hand(condition: Any) -> bool:
    if isinstance(condition, KerasTensor):
        return False
    if backend.backend() == "jax":
        import jax

        return not isinstance(condition, jax.core.Tracer)
    return backend.backend() == "torch" and may_branch(condition)


def may_branch(x: Any) -> bool:
    """Whether what is computed next may depend, by `branch`, on the values of `x`: not where Keras or PyTorch traces or maps, nor on a
    GPU of PyTorch's, which would have to be waited for."""
    if isinstance(x, KerasTensor):
        return False
    if backend.backend() != "torch":
        return True
    import torch

    try:
        return not torch.compiler.is_compiling() and x.device.type == "cpu" and x.data_ptr() != 0
    except RuntimeError:  # of a tensor without values of its own, in `torch.func` or on the way to an exported graph
        return False
