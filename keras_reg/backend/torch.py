"""What PyTorch does its own way. See `plain` for what each function is."""

import torch
import torch.distributed
from keras import ops

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


def read(variable):
    tensor = variable.value.detach()
    # NumPy has no bfloat16: Keras makes it float32.
    return ops.convert_to_numpy(variable) if tensor.device.type != "cpu" or tensor.dtype == torch.bfloat16 else tensor.numpy()


def numbers_suffice():
    return True


def is_first_process(model):
    del model
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
