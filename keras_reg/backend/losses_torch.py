"""The crossentropy of a smoothed label where PyTorch runs: see `losses_plain`."""

import torch

from keras_reg.backend import losses_plain
from keras_reg.backend.losses_plain import column, mixed, total
from keras_reg.ops.dtypes import like


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
        spread = ctx.spread if isinstance(ctx.spread, float) else like(logits, ctx.spread)
        # What is to be differentiated once more must not be written over.
        out = None if torch.is_grad_enabled() else p
        slope = torch.addcmul(-spread * upstream, p, (weight + total(ctx.spread, p.shape[-1])) * upstream, out=out)
        return slope.scatter_add_(-1, labels[..., None], -weight * upstream), None, None, None


def smoothed_crossentropy(logits, labels, weight, spread):
    if torch.compiler.is_compiling():  # which makes one pass of what it differentiates itself
        return losses_plain.smoothed_crossentropy(logits, labels, weight, spread)
    return SmoothedCrossentropy.apply(logits, labels.long(), weight, spread)


def pick(scores, labels):
    # Keras's own way takes more memory.
    return scores.gather(-1, labels.long()[..., None])[..., 0]


def class_ids(labels, classes):
    ids = labels.long().clamp(0, classes - 1)
    return ids, ids != labels


def nan_where(missing, values):
    return values * torch.ones_like(values).masked_fill_(missing, float("nan"))
