"""What PyTorch does its own way. See `plain` for what each function is."""

import torch
import torch.distributed
from keras import ops

from keras_reg.backend import plain
from keras_reg.backend.plain import as_tensor, column, mixed, total


def norm(x, axes):
    # Three operations for eight, where no gradient at zero vectors is asked for. (PyTorch's own takes one, and on processors three times
    # as long along all axes but the last.)
    if x.requires_grad and torch.is_grad_enabled():
        return plain.norm(x, axes)
    return x.square().sum(dim=axes, keepdim=True).sqrt()


def scaled(x, share, alive):
    # One operation for three; a negative number times 0 is -0, and 0 and -0 are 0.
    return torch.addcmul(x.new_zeros(()), x, share)


def alive(x):
    # On processors products with numbers take a fraction of the time that truth values take.
    return torch.ne(x, 0, out=torch.empty_like(x))


def only(x, alive):
    return torch.addcmul(x.new_zeros(()), x, alive.to(x.dtype))


def smallest(sizes, number):
    if sizes.dtype != torch.float32:
        return plain.smallest(sizes, number)
    # The bits of these numbers are in the order of the numbers: two rounds of counting find those of the last one, where sorting and
    # selecting take four times as long.
    number = torch.as_tensor(number, dtype=torch.int64, device=sizes.device)
    bits = sizes.view(torch.int32)
    high = bits >> 16
    first, fewer = _counted(high, number, 2**15)
    second, fewer_still = _counted(torch.where(high == first, bits & 0xFFFF, 2**16), number - fewer, 2**16 + 1)
    last = ((first << 16) + second).to(torch.int32)
    equal = bits == last
    seen = equal.cumsum(0, dtype=torch.int32)
    return (bits < last) | (equal & (seen > seen[-1] - (number - fewer - fewer_still)))


def _counted(values, number, end):
    """Of whole numbers below `end` the `number`-th smallest, and how many are smaller."""
    ones = torch.ones((), dtype=torch.int32, device=values.device).expand(len(values))
    counts = torch.zeros(end, dtype=torch.int32, device=values.device).index_add_(0, values, ones)
    upto = counts.cumsum(0)
    found = torch.searchsorted(upto, number)
    return found, upto.take(found) - counts.take(found)


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


class SmoothedCrossentropy(torch.autograd.Function):
    """Keeps nothing but the logits: left to autograd it takes two more arrays of their size, as PyTorch's own loss does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits, labels, weight, spread):
        scores = torch.log_softmax(logits, dim=-1)
        return mixed(scores, pick(scores, labels), weight, spread)

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, labels, ctx.weight, ctx.spread = inputs
        ctx.save_for_backward(logits, labels)

    @staticmethod
    def backward(ctx, upstream):
        logits, labels = ctx.saved_tensors
        p, weight, upstream = torch.softmax(logits, dim=-1), column(ctx.weight), upstream[..., None]
        spread = ctx.spread if isinstance(ctx.spread, float) else as_tensor(ctx.spread, logits)
        # What is to be differentiated once more must not be written over.
        out = None if torch.is_grad_enabled() else p
        slope = torch.addcmul(-spread * upstream, p, (weight + total(ctx.spread, p.shape[-1])) * upstream, out=out)
        return slope.scatter_add_(-1, labels[..., None], -weight * upstream), None, None, None


def smoothed_crossentropy(logits, labels, weight, spread):
    if torch.compiler.is_compiling():  # which makes one pass of what it differentiates itself
        return plain.smoothed_crossentropy(logits, labels, weight, spread)
    return SmoothedCrossentropy.apply(logits, labels.long(), weight, spread)


def pick(scores, labels):
    # Keras's own way takes more memory.
    return scores.gather(-1, labels.long()[..., None])[..., 0]


def class_ids(labels, classes):
    ids = labels.long().clamp(0, classes - 1)
    return ids, ids != labels


def nan_where(missing, values):
    return values * torch.ones_like(values).masked_fill_(missing, float("nan"))
