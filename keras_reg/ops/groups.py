"""Groups of weights: which axes index them, their norms, and the proximal maps of sums of norms."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

from keras import KerasTensor, backend, ops

from keras_reg.ops.dtypes import at_least, like, magnitude, tiny, widen
from keras_reg.ops.fused import folded, fused, in_parts, parts
from keras_reg.ops.gradients import branch, may_branch, with_gradient


def group_axes(axis: int | tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes that index the groups and those that run inside a group, both non-negative and sorted."""
    axes = (axis,) if isinstance(axis, numbers.Integral) else tuple(axis)
    outside = [a for a in axes if not -rank <= a < rank]
    if outside:
        raise ValueError(
            f"Argument `axis` must name axes of the weights, which have rank {rank}: expected values from {-rank} to {rank - 1}. "
            f"Received: axis={axis}"
            if rank
            else f"Argument `axis` must name axes of the weights, but these are a scalar, which has none. Received: axis={axis}"
        )
    index = sorted(a % rank for a in axes)
    if len(set(index)) < len(index):
        raise ValueError(f"Argument `axis` names an axis of weights of rank {rank} twice. Received: axis={axis}")
    return tuple(index), tuple(a for a in range(rank) if a not in index)


def group_size(x: Any, axis: int | tuple[int, ...]) -> Any:
    """Number of weights in a group: an integer, or a tensor where a size is known at run time alone."""
    _, inside = group_axes(axis, len(x.shape))
    shape = x.shape if None not in tuple(x.shape) else ops.shape(x)
    return math.prod([shape[a] for a in inside])  # of a list: the compiler of PyTorch takes no generator


def group_norm(x: Any, axis: int | tuple[int, ...] = -1, keepdims: bool = False) -> Any:
    """Euclidean norm of each group, with gradient 0 at a zero group and no overflow or underflow on the way.

    Args:
        x: Float tensor.
        axis: The axis (or axes) that *index* the groups, as in `BatchNormalization`; the norm runs over all others.
            On a `Dense` kernel `(inputs, units)`, `-1` is one group per unit and `-2` one per input.
        keepdims: Whether the summed axes stay, with size 1.

    Returns:
        One norm per group; at least float32.

    Example:

    >>> from keras_reg.ops import group_norm
    >>> [float(n) for n in group_norm([[3.0, 0.0], [4.0, 0.0]], axis=-1)]
    [5.0, 0.0]
    """
    x, _ = widen(x)
    _, inside = group_axes(axis, len(x.shape))
    if not inside:
        return magnitude(x)

    def gradient(x, upstream):
        # The quotient of both scales could overflow.
        return fused(lambda x, share, upstream: x * share * upstream, x, over_norm(1.0, group_norm(x, axis, keepdims=True)), upstream)

    norm = with_gradient(lambda x: fused(lambda x: _norms(x, inside), x), gradient, x)
    return norm if keepdims else ops.squeeze(norm, axis=inside)


def over_norm(value: Any, norm: Any) -> Any:
    """`value / norm`; 0 where the norm is, or nearly, so that the quotient would overflow."""
    dead = norm < tiny(norm) * 1e8
    return ops.where(dead, ops.zeros_like(norm), value / ops.where(dead, ops.ones_like(norm), norm))


def _norms(x: Any, inside: tuple[int, ...]) -> Any:
    """One norm for each group, in one pass where no square can have overflowed or vanished, in two elsewhere."""
    low, high, unit = _RANGES[backend.standardize_dtype(x.dtype)]
    squares = _sum_of_squares(x, inside)

    def rescaled():
        one = ops.ones_like(squares)
        scale = ops.where(squares < low, unit * one, ops.where(squares > high, one / unit, one))
        again = ops.sum(ops.square(x * scale), axis=inside, keepdims=True)
        zero = again == 0
        return ops.where(zero, ops.zeros_like(again), ops.sqrt(ops.where(zero, one, again))) / scale

    if not may_branch(x):
        return rescaled()
    # The root inside: outside, its derivative at 0 would come into that of the other branch.
    return branch(_within(squares, low, high), lambda: ops.sqrt(squares), rescaled)


def _sum_of_squares(x: Any, inside: tuple[int, ...]) -> Any:
    def total(x):
        return ops.sum(folded(ops.square, x, axes=inside), axis=inside, keepdims=True)

    if not in_parts(x):
        return total(x)
    sums = [total(part) for part in parts(x, 0)]
    return functools.reduce(ops.add, sums) if 0 in inside else ops.concatenate(sums, axis=0)


def _within(values: Any, low: float, high: float) -> Any:
    """Whether all are between the two."""
    if backend.backend() == "torch" and values.numel():
        import torch

        smallest, largest = torch.aminmax(values)
        return bool(smallest >= low) and bool(largest <= high)
    return ops.all(ops.logical_and(values >= low, values <= high))


def block_soft_threshold(x: Any, threshold: Any, axis: int | tuple[int, ...] = -1) -> Any:
    """Block soft threshold, the prox of a sum of group norms: `argmin_y ||y - x||**2 / 2 + sum_g threshold_g * ||y_g||`.

    Args:
        x: Float tensor.
        threshold: Non-negative scalar, or one per group, of a shape that broadcasts to the group norms with
            `keepdims=True` (step times strength times the weight of the group).
        axis: The axis (or axes) that index the groups, as in `group_norm`.

    Returns:
        `x_g * max(1 - threshold_g / ||x_g||, 0)`, of the shape and dtype of `x`; groups with
        `||x_g|| <= threshold_g` are exactly 0.

    Example:

    >>> from keras_reg.ops import block_soft_threshold
    >>> import numpy as np
    >>> np.array(block_soft_threshold([[3.0, 0.1], [4.0, 0.1]], 2.5, axis=-1)).tolist()
    [[1.5, 0.0], [2.0, 0.0]]

    Reference: [Yuan and Lin, 2006](https://doi.org/10.1111/j.1467-9868.2005.00532.x).
    """
    x, dtype = widen(x)
    return ops.cast(without(x, shares_taken(group_norm(x, axis, keepdims=True), like(x, threshold))), dtype)


def shares_taken(norm: Any, threshold: Any) -> Any:
    """What the block soft threshold takes off groups of these norms, as a share of each; of a dead group, 1."""
    share = threshold / at_least(norm, at_least(threshold, tiny(norm)))
    return ops.where(norm <= threshold, ops.ones_like(share), share)


def without(x: Any, share: Any) -> Any:
    """`x - x * share`: 0 where the share is 1, and never -0."""
    if backend.backend() == "torch" and not isinstance(x, KerasTensor):
        import torch

        return torch.addcmul(x, x, share, value=-1)
    return x - x * share


def weighted_block_soft_threshold(x: Any, step: Any, threshold: Any, axis: int | tuple[int, ...] = -1) -> Any:
    """Prox of a sum of group norms with a step of its own for every weight.

    Solves `argmin_y sum_i (y_i - x_i)**2 / (2 * step_i) + sum_g threshold_g * ||y_g||`. A group is 0 iff
    `||x_g / step_g|| <= threshold_g`; otherwise `y_i = x_i * r / (r + step_i * threshold_g)` where `r = ||y_g||` is the root of
    `sum_i (x_i / (r + step_i * threshold_g))**2 = 1`, found by Newton's method from below to float precision.

    Args:
        x: Float tensor.
        step: Non-negative tensor that broadcasts to `x`.
        threshold: Non-negative scalar, or one per group (strength times the weight of the group).
        axis: The axis (or axes) that index the groups, as in `group_norm`.

    Returns:
        The minimiser, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import weighted_block_soft_threshold
    >>> y = weighted_block_soft_threshold([[3.0, 0.1], [4.0, 0.1]], [[1.0, 1.0], [2.0, 1.0]], 1.0, axis=-1)
    >>> [[round(float(v), 3) for v in row] for row in y]
    [[2.323, 0.0], [2.528, 0.0]]

    Reference: [Yun, Lozano and Yang, 2021](https://arxiv.org/abs/2007.07875).
    """
    x, dtype = widen(x)
    _, inside = group_axes(axis, len(x.shape))
    norm = group_norm(x, axis, keepdims=True)
    norm = ops.where(norm < tiny(x), ops.ones_like(norm), norm)
    step, threshold = like(x, step), like(x, threshold)

    def in_units(x, norm, step, rate):
        """Weights in units of their norm, and how hard each is pulled."""
        return x / norm, step * rate

    arrays = (x, norm, step, threshold / norm)
    if backend.backend() == "torch":
        # Where operations are fused, these are made anew wherever they are read, which takes less time than to keep them.
        arrays, in_units = in_units(*arrays), lambda unit, pull: (unit, pull)

    def total(function, *others, reduce=ops.sum, combine=ops.add):
        def value(*own):
            return function(*in_units(*own[: len(arrays)]), *own[len(arrays) :])

        values = folded(value, *arrays, *others, axes=inside, combine=combine)
        return reduce(values, axis=inside, keepdims=True) if inside else values

    def sums(root):
        squares = total(lambda unit, pull, root: ops.square(unit / (root + pull)), root)
        return squares, total(lambda unit, pull, root: ops.square(unit / (root + pull)) / (root + pull), root)

    largest = total(lambda unit, pull: ops.broadcast_to(pull, unit.shape), reduce=ops.amax, combine=ops.maximum)
    root = norms_left(total(lambda unit, pull: unit * (unit * pull)), largest, sums)
    # Where no pull outweighs the norm, the group is alive. (The smallest number keeps a weight of 0 without a step from 0/0.)
    dead = branch(ops.any(largest >= 1), lambda: total(lambda unit, pull: ops.square(unit / (pull + tiny(x)))) <= 1, lambda: largest >= 1)
    return ops.cast(_kept(x, in_units(*arrays)[1], root, dead), dtype)


def _kept(x: Any, pull: Any, root: Any, dead: Any) -> Any:
    """`x * root / (root + pull)`, and 0 in dead groups."""
    share = ops.where(dead, ops.zeros_like(root), root) / (root + pull)
    if backend.backend() == "torch" and not isinstance(x, KerasTensor):
        import torch

        # From 0 on, so that nothing is -0.
        return torch.addcmul(torch.zeros((), dtype=x.dtype, device=x.device), x, share)
    return ops.where(dead, ops.zeros_like(x), x * share)


def norms_left(mean: Any, largest: Any, sums: Callable[[Any], tuple[Any, Any]]) -> Any:
    """The roots `r` of `sum_i (x_i / (r + pull_i))**2 = 1`, one for each group of norm 1, by Newton's method.

    Args:
        mean: Of the pulls of a group, weighted by the squares of the weights.
        largest: Of the pulls of a group.
        sums: For roots the sums over each group of `(x_i / (r + pull_i))**2`, and of these over `r + pull_i`.
    """

    def improve(root, change):
        square, slope = sums(root)
        # Newton's step on 1/||x/(r + pull)|| = 1, which is concave, and linear where the pulls of a group agree.
        better = root + square * (ops.sqrt(square) - 1) / ops.where(slope > 0, slope, ops.ones_like(slope))
        better = at_least(better, _LOWEST_ROOT)
        return better, ops.amax(ops.absolute(better - root) / better)

    def improved():
        root, change = improve(start, None)
        return branch(change > small, lambda: finished(root, change), lambda: root)

    # A loop copies what it reads, even if it makes no step; few need it.
    def finished(root, change):
        steps = _GROUP_NEWTON_STEPS - 1
        return ops.while_loop(lambda root, change: change > small, improve, (root, change), maximum_iterations=steps)[0]

    # The start is right to first order in the pulls, or else from below. What it leaves is at most 3/8 of the square of the largest, of
    # which the weights feel the largest pull's share; what a step leaves is about the square of what it changed.
    start = at_least(1 - ops.where(2 * largest < 1, mean, largest), _LOWEST_ROOT)
    harmless, small = (4e-3, 1e-4) if backend.standardize_dtype(largest.dtype) == "float32" else (5e-6, 4e-9)
    return branch(ops.amax(largest) > harmless, improved, lambda: start)


# Sums of squares between the first two have lost nothing; below, the weights times the third have not, and above, those divided by it.
_RANGES = {"float32": (1e-30, 1e30, 2.0**80), "float64": (1e-280, 1e280, 2.0**600)}
_GROUP_NEWTON_STEPS = 12  # 10 reach float64 precision with steps over eight decades
_LOWEST_ROOT = 1e-12  # relative to the norm of the group
