"""What PyTorch does its own way. See `plain` for what each function is."""

import torch

from keras_reg.backend import plain


def norm(x, axes):
    # One operation for eight; but its second derivative at a zero vector is NaN.
    if x.requires_grad and torch.is_grad_enabled():
        return plain.norm(x, axes)
    return torch.linalg.vector_norm(x, dim=axes, keepdim=True)


def can_be_seen(tensor):
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def is_compiling():
    return torch.compiler.is_compiling()


def value_and_gradient(function, w):
    w = w.detach().clone().requires_grad_(True)
    value = function(w)
    gradient = torch.autograd.grad(value, w)[0] if value.requires_grad else torch.zeros_like(w)
    return value, gradient
