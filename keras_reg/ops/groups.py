"""Groups of weights: which axes index them, their norms, and the proximal maps of sums of norms."""

import math
import numbers
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_reg.backend import norm, scaled
from keras_reg.ops.dtypes import like, magnitude, tiny, widen


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
    """Euclidean norm of each group, with gradient 0 at a zero group.

    Exact where the squares are: for weights from 1e-15 to 1e15 in float32. Smaller ones may count as 0, larger ones give infinity.

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
    norms = norm(x, inside)
    return norms if keepdims else ops.squeeze(norms, axis=inside)


def block_soft_threshold(x: Any, threshold: Any, axis: int | tuple[int, ...] = -1) -> Any:
    """Block soft threshold, the prox of a sum of group norms: `argmin_y ||y - x||**2 / 2 + sum_g threshold_g * ||y_g||`.

    Args:
        x: Float tensor.
        threshold: Non-negative scalar, or one per group, of a shape that broadcasts to the group norms with
            `keepdims=True` (step times strength times the weight of the group).
        axis: The axis (or axes) that index the groups, as in `group_norm`.

    Returns:
        `x_g * max(1 - threshold_g / ||x_g||, 0)`, of the shape and dtype of `x`; groups with
        `||x_g|| <= threshold_g` are exactly 0. Groups whose norm is infinite, as in `group_norm`, stay as they are.

    Example:

    >>> from keras_reg.ops import block_soft_threshold
    >>> import numpy as np
    >>> np.array(block_soft_threshold([[3.0, 0.1], [4.0, 0.1]], 2.5, axis=-1)).tolist()
    [[1.5, 0.0], [2.0, 0.0]]

    Reference: [Yuan and Lin, 2006](https://doi.org/10.1111/j.1467-9868.2005.00532.x).
    """
    x, dtype = widen(x)
    share = share_left(group_norm(x, axis, keepdims=True), like(x, threshold))
    return ops.cast(scaled(x, share, share), dtype)


def share_left(norm: Any, threshold: Any) -> Any:
    """What the block soft threshold leaves of groups of these norms, as a share of each."""
    # A norm of 0 is dead, but for a threshold of 0: there nothing may change.
    return ops.relu(1 - threshold / (norm + tiny(norm)))


def weighted_block_soft_threshold(x: Any, step: Any, threshold: Any, axis: int | tuple[int, ...] = -1) -> Any:
    """Prox of a sum of group norms with a step of its own for every weight.

    Solves `argmin_y sum_i (y_i - x_i)**2 / (2 * step_i) + sum_g threshold_g * ||y_g||`. A group is 0 iff
    `||x_g / step_g|| <= threshold_g`; otherwise `y_i = x_i * r / (r + step_i * threshold_g)` where `r = ||y_g||` is the root of
    `sum_i (x_i / (r + step_i * threshold_g))**2 = 1`; see `norm_left`. Exact to 2e-4 where the steps in a group differ by five decades at
    most, and to float precision in all but few groups.

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
    # Never 0, which would be 0/0 at a weight of 0.
    shift = like(x, step) * like(x, threshold) + tiny(x)

    def size_and_slope(root):
        offset = root + shift
        squares = ops.square(x / offset)
        return ops.sqrt(total(squares)), total(squares / offset)

    def norms(part):
        return norm(part, inside) if inside else ops.absolute(part)

    def total(values):
        return ops.sum(values, axis=inside, keepdims=True) if inside else values

    root = norm_left(norms(x), norms(x / shift), size_and_slope)
    return ops.cast(scaled(x, root / (root + shift), root), dtype)


def norm_left(norm: Any, at_zero: Any, size_and_slope: Callable[[Any], tuple[Any, Any]]) -> Any:
    """The roots `r` of `||x / (r + shift)|| = 1`, one for each group; 0 for groups that are dead.

    `1 / ||x / (r + shift)||` is concave in `r`, and linear where the shifts of a group agree. Each step takes the Möbius function
    `(a + b * r) / (1 + c * r)` that agrees with it at 0 and, with its derivative, at the last `r`: a straight line where it is one.

    Args:
        norm: `||x||`.
        at_zero: `||x / shift||`.
        size_and_slope: For roots `r` gives `||x / (r + shift)||` and `sum(x**2 / (r + shift)**3)`.
    """
    lowest = 1 / (at_zero + tiny(norm))  # 1 or more in a dead group
    room = ops.relu(1 - lowest)
    # Above the root, and the root itself where the shifts agree. A norm that overflows comes down to 1e30.
    root = room / (1 / norm + 1e-30)
    for _ in range(_ROOT_STEPS):
        size, slope = size_and_slope(root)
        known = root * slope * room
        root = root * (known / (known + (1 - lowest * size) * (1 - size) * size + tiny(size)))
    return root


_ROOT_STEPS = 4  # to 2e-4 where the steps in a group differ by five decades, with three to 2e-2
