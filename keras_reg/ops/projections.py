"""Projections on what is sparse: the largest stay as they are, and exactly so many of the others are 0.

What is largest is measured by `|x| / sqrt(step)`, which drops what is cheapest by `x**2 / step`: the nearest point in the metric of the
steps. Of equals those that come first stay. A NaN or an infinity is never made 0.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_reg._validation import one_of, received, whole_number
from keras_reg.backend import norm, only, smallest
from keras_reg.ops.dtypes import like, widen
from keras_reg.ops.groups import group_axes

POOLINGS = ("norm", "average", "max")
_NO_STEP = 1e-30  # where all steps are 0, as at a learning rate of 0, they are alike
_ROUNDING = 1 - 2.0**-22  # more than a share, a size and their product are rounded by in float32


def keep_largest(x: Any, sparsity: Any, step: Any = 1.0) -> Any:
    """The nearest point with a share of zeros: `argmin_y sum_i (y_i - x_i)**2 / (2 * step_i)` where `⌈sparsity * size⌉` entries are 0.

    Args:
        x: Float tensor of any shape.
        sparsity: The share, from 0 to 1: a number or a scalar tensor. One entry stays whatever it is. `sparsity * size` counts as a whole
            number where it is one to six digits.
        step: Positive: a number, or a tensor that broadcasts to `x`.

    Returns:
        `x` with its smallest entries 0, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import keep_largest
    >>> [float(y) for y in keep_largest([3.0, -1.0, 0.5, -2.0], 0.5)]
    [3.0, 0.0, 0.0, -2.0]

    Reference: [Blumensath and Davies, 2009](https://doi.org/10.1016/j.acha.2009.04.002); for the metric
    [LeCun, Denker and Solla, 1989 (optimal brain damage)](https://papers.nips.cc/paper/250-optimal-brain-damage).
    """
    return _project(x, sparsity, step, Units())


def keep_largest_groups(x: Any, sparsity: Any, axis: int | tuple[int, ...] = -1, step: Any = 1.0) -> Any:
    """As `keep_largest`, of whole groups: the `⌈sparsity * groups⌉` of the smallest norms are 0.

    Args:
        x: Float tensor.
        sparsity: The share of the groups, as in `keep_largest`; one group stays.
        axis: The axis (or axes) that index the groups, as in `group_norm`.
        step: Positive: a number, or a tensor that broadcasts to `x`; then the norm is that of `x / sqrt(step)`.

    Example:

    >>> from keras_reg.ops import keep_largest_groups
    >>> import numpy as np
    >>> np.array(keep_largest_groups([[3.0, 0.1], [4.0, 0.1]], 0.5, axis=-1)).tolist()
    [[3.0, 0.0], [4.0, 0.0]]
    """
    return _project(x, sparsity, step, Units(axis=axis))


def keep_largest_blocks(x: Any, sparsity: Any, block_size: tuple[int, int], step: Any = 1.0, pooling: str = "norm") -> Any:
    """As `keep_largest`, of the blocks of a matrix: the `⌈sparsity * blocks⌉` smallest are 0.

    Args:
        x: Float tensor of rank 2 or more. What has more axes is the matrix of its last axis and all others, as the kernel of a
            convolution is one.
        sparsity: The share of the blocks, as in `keep_largest`; one block stays.
        block_size: Rows and columns of a block, which divide those of the matrix.
        step: Positive: a number, or a tensor that broadcasts to `x`.
        pooling: What a block counts: its `"norm"` (the nearest point), its `"average"` or `"max"` magnitude.

    Example:

    >>> from keras_reg.ops import keep_largest_blocks
    >>> import numpy as np
    >>> np.array(keep_largest_blocks([[3.0, 0.0, 0.1, 1.0]], 0.5, (1, 2))).tolist()
    [[3.0, 0.0, 0.0, 0.0]]
    """
    return _project(x, sparsity, step, Units(block_size=block_size, pooling=one_of(pooling, POOLINGS, "pooling")))


def keep_n_of_m(x: Any, n: Any, m: int, axis: int = -2, step: Any = 1.0) -> Any:
    """As `keep_largest`, with the `n` largest of every `m` that follow one another along an axis, and the others 0.

    Args:
        x: Float tensor.
        n: How many stay: a whole number, or a scalar tensor of one. At least 1.
        m: Of how many; it divides the length of the axis.
        axis: By default the last but one, that of the inputs in a `Dense` kernel and in that of a convolution.
        step: Positive: a number, or a tensor that broadcasts to `x`.

    Example:

    >>> from keras_reg.ops import keep_n_of_m
    >>> [float(y) for y in keep_n_of_m([1.0, -3.0, 2.0, 0.5], 2, 4, axis=-1)]
    [0.0, -3.0, 2.0, 0.0]

    Reference: [Mishra et al., 2021](https://arxiv.org/abs/2104.08378).
    """
    x, dtype = widen(x)
    check_pattern(x.shape, whole_number(m, "m", at_least=1), axis)
    if not ops.is_tensor(n):
        n = whole_number(n, "n", at_least=1)
        if n > m:
            raise ValueError(f"Argument `n` must be at most `m`, which is {m}. Received: n={n}")
    return ops.cast(only(x, ops.logical_not(all_but_n_of_m(magnitudes(x, step), n, m, axis))), dtype)


def all_but_n_of_m(sizes: Any, n: Any, m: int, axis: int = -2) -> Any:
    """Where the others are, of which `n` of every `m` are the largest."""
    sizes = ops.moveaxis(sizes, axis, -1)
    in_groups = ops.reshape(sizes, (*sizes.shape[:-1], sizes.shape[-1] // m, m))
    # How many of the others go first: what is smaller, and what is equal and comes later.
    one, other = in_groups[..., :, None], in_groups[..., None, :]
    later = ops.convert_to_tensor(np.triu(np.ones((m, m), bool), 1))
    before = ops.sum(ops.cast(ops.logical_or(other < one, ops.logical_and(ops.equal(other, one), later)), "int32"), axis=-1)
    return ops.moveaxis(ops.reshape(before < m - n, sizes.shape), -1, axis)


@dataclass(frozen=True)
class Units:
    """What of a weight stays or goes as a whole: entries, or groups, or blocks."""

    axis: int | tuple[int, ...] | None = None
    block_size: tuple[int, int] | None = None
    pooling: str = "norm"

    def number(self, shape: tuple[int, ...]) -> int:
        """How many there are in a weight of this shape."""
        if self.axis is not None:
            return math.prod(shape[a] for a in group_axes(self.axis, len(shape))[0])
        return math.prod(shape) // math.prod(self.block_size or (1,))

    def sizes(self, magnitude: Any) -> Any:
        """How large each is, as a vector; `magnitude` has what each entry counts. For norms: root mean squares."""
        if self.axis is not None:
            _, inside = group_axes(self.axis, len(magnitude.shape))
            scale = math.sqrt(math.prod([magnitude.shape[a] for a in inside]))
            return ops.reshape(norm(magnitude, inside) / scale if inside else magnitude, (-1,))
        if self.block_size is None:
            return ops.reshape(magnitude, (-1,))
        check_blocks(magnitude.shape, self.block_size)
        blocks = ops.reshape(magnitude, self._blocked(magnitude.shape))
        if self.pooling == "norm":
            return ops.reshape(norm(blocks, (1, 3)) / math.sqrt(math.prod(self.block_size)), (-1,))
        return ops.reshape((ops.mean if self.pooling == "average" else ops.max)(blocks, axis=(1, 3)), (-1,))

    def spread(self, values: Any, shape: tuple[int, ...]) -> Any:
        """What each of them has, at its entries, in a shape that broadcasts to the weight."""
        if self.axis is not None:
            index, _ = group_axes(self.axis, len(shape))
            return ops.reshape(values, [length if a in index else 1 for a, length in enumerate(shape)])
        if self.block_size is not None:
            rows, r, columns, c = self._blocked(shape)
            values = ops.broadcast_to(ops.reshape(values, (rows, 1, columns, 1)), (rows, r, columns, c))
        return ops.reshape(values, shape)

    def _blocked(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        (r, c), rows, columns = self.block_size, math.prod(shape[:-1]), shape[-1]
        return rows // r, r, columns // c, c


def check_blocks(shape: tuple[int, ...], block_size: tuple[int, int]) -> None:
    rows, columns = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (0, 0)
    if not rows or rows % block_size[0] or columns % block_size[1]:
        seen = f"{rows}×{columns}, as a matrix" if rows else f"of shape {tuple(shape)}, which is no matrix"
        raise ValueError(f"Argument `block_size` must divide the weights, which are {seen}. Received: block_size={tuple(block_size)}")


def check_pattern(shape: tuple[int, ...], m: int, axis: int = -2) -> None:
    if not -len(shape) <= axis < len(shape) or shape[axis] % m:
        seen = f"of shape {tuple(shape)}, which has no axis {axis}" if -axis > len(shape) else f"{shape[axis]} long there"
        raise ValueError(f"`n_of_m` needs weights whose axis {axis} is a multiple of {m}. These are {seen}.")


def magnitudes(x: Any, step: Any) -> Any:
    """`|x| / sqrt(step)` where the steps differ, and infinity where it is none."""
    size = ops.absolute(x)
    if len(getattr(step, "shape", ())):
        size = size * ops.rsqrt(like(x, step) + _NO_STEP)
    return ops.where(ops.isnan(size), math.inf, size)


def number_of(sparsity: Any, size: int) -> Any:
    """`⌈sparsity * size⌉`, but never all; the same for a number as for a tensor."""
    factor = np.float32(size * _ROUNDING)
    if not ops.is_tensor(sparsity):
        return max(0, min(math.ceil(np.float32(sparsity) * factor), size - 1))
    return ops.clip(ops.cast(ops.ceil(ops.cast(sparsity, "float32") * factor), "int32"), 0, max(0, size - 1))


def _project(x: Any, sparsity: Any, step: Any, units: Units) -> Any:
    x, dtype = widen(x)
    sizes = units.sizes(magnitudes(x, step))
    if sizes.shape[0] == 0:
        return ops.cast(x, dtype)
    drop = smallest(sizes, number_of(sparsity, sizes.shape[0]))
    return ops.cast(only(x, ops.logical_not(units.spread(drop, x.shape))), dtype)


def block_of(value: Any, name: str) -> tuple[int, int]:
    """Two whole numbers of at least 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"Argument `{name}` must be two whole numbers. {received(value, name)}")
    return tuple(whole_number(one, name, at_least=1) for one in value)
