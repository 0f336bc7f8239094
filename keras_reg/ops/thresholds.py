"""Entrywise proximal maps. Formulas: `prox(x) = argmin_y (y - x)**2 / (2 * step) + penalty(y)`."""

import functools
from typing import Any

from keras import ops

from keras_reg.ops.dtypes import at_least, at_most, like, widen


def _entrywise(function):
    """Compute in float32 or wider, with every number cast to the dtype of `x`, and return that of `x`."""

    @functools.wraps(function)
    def wrapped(x, *numbers, **named):
        x, dtype = widen(x)
        numbers = [like(x, number) for number in numbers]
        named = {name: number if name == "q" else like(x, number) for name, number in named.items()}
        return ops.cast(function(x, *numbers, **named), dtype)

    return wrapped


@_entrywise
def soft_threshold(x: Any, threshold: Any) -> Any:
    """Soft threshold, the prox of `|y|`: `argmin_y (y - x)**2 / 2 + threshold * |y|`.

    Args:
        x: Float tensor of any shape.
        threshold: Non-negative scalar, or tensor that broadcasts to `x` (step times strength).

    Returns:
        `sign(x) * max(|x| - threshold, 0)`, of the shape and dtype of `x`; exactly 0 where `|x| <= threshold`.

    Example:

    >>> from keras_reg.ops import soft_threshold
    >>> [float(y) for y in soft_threshold([-3.0, 0.5, 2.0], 1.0)]
    [-2.0, 0.0, 1.0]

    Reference: [Donoho, 1995](https://doi.org/10.1109/18.382009).
    """
    # What is clipped off is subtracted: an exact zero inside, and a NaN stays one.
    return x - ops.clip(x, -threshold, threshold)


@_entrywise
def hard_threshold(x: Any, threshold: Any) -> Any:
    """Hard threshold, the prox of the count of non-zeros: `argmin_y (y - x)**2 / 2 + (threshold**2 / 2) * (y != 0)`.

    Args:
        x: Float tensor of any shape.
        threshold: Non-negative scalar, or tensor that broadcasts to `x`; `sqrt(2 * step * strength)` for `L0`.

    Returns:
        `x` where `|x| > threshold`, exactly 0 elsewhere.

    Example:

    >>> from keras_reg.ops import hard_threshold
    >>> [float(y) for y in hard_threshold([-3.0, 0.5, 2.0], 1.0)]
    [-3.0, 0.0, 2.0]

    Reference: [Blumensath and Davies, 2008](https://doi.org/10.1007/s00041-008-9035-z).
    """
    return ops.where(ops.absolute(x) <= threshold, ops.zeros_like(x), x)


@_entrywise
def shrink(x: Any, step: Any, strength: Any) -> Any:
    """Proportional shrinkage, the prox of the square: `argmin_y (y - x)**2 / (2 * step) + strength * y**2`.

    Args:
        x: Float tensor of any shape.
        step: Non-negative scalar, or tensor that broadcasts to `x`.
        strength: Non-negative scalar.

    Returns:
        `x / (1 + 2 * step * strength)`.

    Example:

    >>> from keras_reg.ops import shrink
    >>> [float(y) for y in shrink([-3.0, 1.5], step=1.0, strength=0.25)]
    [-2.0, 1.0]
    """
    return x / (1 + 2 * step * strength)


@_entrywise
def mcp_threshold(x: Any, step: Any, strength: Any, gamma: Any) -> Any:
    """Prox of the minimax concave penalty of `keras_reg.regularizers.MCP`.

    For `step < gamma` this is the firm threshold: 0 up to `step * strength`, `x` itself from
    `gamma * strength`, a straight line in between. From `step >= gamma` on the objective is no longer convex
    and the minimiser is a hard threshold at `strength * sqrt(step * gamma)`.

    Args:
        x: Float tensor of any shape.
        step: Non-negative scalar, or tensor that broadcasts to `x`.
        strength: Non-negative scalar.
        gamma: Positive scalar.

    Returns:
        The minimiser, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import mcp_threshold
    >>> [float(y) for y in mcp_threshold([0.5, 2.0, 4.0], step=1.0, strength=1.0, gamma=3.0)]
    [0.0, 1.5, 4.0]

    Reference: [Zhang, 2010](https://arxiv.org/abs/1002.4734).
    """
    firm_is_valid = step < gamma
    gap = ops.where(firm_is_valid, gamma - step, gamma)
    # The line of slope above 1 meets `x` at `gamma * strength`.
    firm = ops.sign(x) * at_most(ops.absolute(soft_threshold(x, step * strength)) * (gamma / gap), ops.absolute(x))
    return ops.where(firm_is_valid, firm, hard_threshold(x, strength * ops.sqrt(step * gamma)))


@_entrywise
def scad_threshold(x: Any, step: Any, strength: Any, a: Any) -> Any:
    """Prox of the smoothly clipped absolute deviation of `keras_reg.regularizers.SCAD`.

    For `step < a - 1`: soft threshold up to `strength * (1 + step)`, `x` itself from `a * strength`, a straight line
    in between. Beyond, the minimiser jumps from the soft threshold to `x` at `strength * (step + a + 1) / 2`, and
    from `step >= a + 1` on at `strength * sqrt(step * (a + 1))`.

    Args:
        x: Float tensor of any shape.
        step: Non-negative scalar, or tensor that broadcasts to `x`.
        strength: Non-negative scalar.
        a: Scalar above 2.

    Returns:
        The minimiser, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import scad_threshold
    >>> [float(y) for y in scad_threshold([0.5, 1.5, 4.0], step=1.0, strength=1.0, a=3.0)]
    [0.0, 0.5, 4.0]

    Reference: [Fan and Li, 2001](https://doi.org/10.1198/016214501753382273).
    """
    size = ops.absolute(x)
    soft = soft_threshold(x, step * strength)
    line_is_valid = step < a - 1
    gap = ops.where(line_is_valid, a - 1 - step, ops.ones_like(step))
    line = ops.sign(x) * at_most(((a - 1) * size - step * a * strength) / gap, a * strength)
    continuous = ops.where(size > a * strength, x, ops.where(size > strength * (1 + step), line, soft))
    jump = strength * ops.where(step < a + 1, (step + a + 1) / 2, ops.sqrt(step * (a + 1)))
    return ops.where(line_is_valid, continuous, ops.where(size > jump, x, soft))


def lq_threshold(x: Any, step: Any, strength: Any, q: float) -> Any:
    """Prox of `strength * |y|**q` for `0 < q < 1`.

    0 up to the jump at `(2 * (1 - q) * step * strength)**(1 / (2 - q)) * (2 - q) / (2 * (1 - q))`; beyond it the larger root of
    `y - |x| + step * strength * q * y**(q - 1) = 0`, found by Newton's method from above to float precision.

    Args:
        x: Float tensor of any shape.
        step: Non-negative scalar, or tensor that broadcasts to `x`.
        strength: Non-negative scalar.
        q: Python float between 0 and 1, both excluded.

    Returns:
        The minimiser, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import lq_threshold
    >>> [round(float(y), 4) for y in lq_threshold([1.0, 2.0], step=1.0, strength=1.0, q=0.5)]
    [0.0, 1.6054]

    Reference: [Marjanovic and Solo, 2012](https://doi.org/10.1109/TSP.2012.2212015).
    """
    return _lq_threshold(x, step, strength, q=q)


@_entrywise
def _lq_threshold(x, step, strength, *, q):
    size = ops.absolute(x)
    ratio_at_jump = 2 * (1 - q) / (2 - q)  # y / |x| where the minimiser jumps
    jump = (2 * (1 - q)) ** (1 / (2 - q)) / ratio_at_jump * ops.power(step * strength, like(x, 1 / (2 - q)))
    kept = size > jump
    # In y / |x| the equation has one parameter, bounded by its value at the jump: nothing can overflow.
    relative = ops.where(kept, jump / ops.where(kept, size, ops.ones_like(size)), ops.zeros_like(size))
    scale = (1 - ratio_at_jump) * ratio_at_jump ** (1 - q) * ops.power(relative, like(x, 2 - q))
    ratio = ops.ones_like(size)
    for _ in range(_LQ_NEWTON_STEPS):
        power = scale * ops.power(ratio, like(x, q - 1))
        ratio = ratio - (ratio - 1 + power) / (1 + (q - 1) * power / ratio)
    return ops.where(size <= jump, ops.zeros_like(x), x * ratio)


@_entrywise
def laplace_threshold(x: Any, step: Any, strength: Any, width: Any) -> Any:
    """Prox of the Laplace relaxation of L0, `strength * (1 - exp(-|y| / width))`.

    The larger root of `y - |x| + (step * strength / width) * exp(-y / width) = 0`, which is a Lambert function
    (principal branch), where it exists and beats 0; continuous as long as `step * strength <= width**2`.

    Args:
        x: Float tensor of any shape.
        step: Non-negative scalar, or tensor that broadcasts to `x`.
        strength: Non-negative scalar.
        width: Positive scalar, in units of the weights.

    Returns:
        The minimiser, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import laplace_threshold
    >>> [round(float(y), 4) for y in laplace_threshold([0.5, 2.0], step=0.5, strength=1.0, width=1.0)]
    [0.0, 1.9272]
    """
    size = ops.absolute(x) / width
    scale = step * strength / (width * width)
    log_scale = ops.log(at_least(scale, 1e-30))
    # Distance from the branch point of the Lambert function, without cancellation; no root where it is negative.
    exists = size >= 1 + log_scale
    branch = ops.sqrt(at_least(-2 * ops.expm1(at_most(1 + log_scale - size, 0.0)), 0.0))
    root = size - 1 + branch * (1 - branch * (1 / 3 - branch * (11 / 72 - branch * 0.0796)))
    lowest = at_least(log_scale, 0.0)
    for _ in range(_LAPLACE_NEWTON_STEPS):
        root = at_most(at_least(root, lowest), size)
        decay = scale * ops.exp(-root)
        slope = 1 - decay
        root = root - ops.where(slope > 0, (root + decay - size) / ops.where(slope > 0, slope, 1.0), 0.0)
    root = at_most(at_least(root, lowest), size)
    # The objective at the root less that at 0, divided by the root.
    safe = ops.where(root > 0, root, 1.0)
    better = (root > 0) & exists & (root / 2 - size - scale * ops.expm1(-root) / safe < 0)
    return _or_itself(x, ops.where(better, x * (root / ops.where(size > 0, size, 1.0)), ops.zeros_like(x)), size)


@_entrywise
def log_threshold(x: Any, step: Any, strength: Any, width: Any) -> Any:
    """Prox of the log-sum relaxation of L0, `strength * log(1 + |y| / width)`.

    The larger root of `(y - |x|) * (y + width) + step * strength = 0` where it exists and beats 0;
    continuous as long as `step * strength <= width**2`.

    Args:
        x: Float tensor of any shape.
        step: Non-negative scalar, or tensor that broadcasts to `x`.
        strength: Non-negative scalar.
        width: Positive scalar, in units of the weights.

    Returns:
        The minimiser, of the shape and dtype of `x`.

    Example:

    >>> from keras_reg.ops import log_threshold
    >>> [round(float(y), 4) for y in log_threshold([0.5, 2.0], step=0.5, strength=1.0, width=1.0)]
    [0.0, 1.8229]

    Reference: [Candes, Wakin and Boyd, 2008](https://arxiv.org/abs/0711.1612).
    """
    size = ops.absolute(x) / width
    scale = step * strength / (width * width)
    middle = (size + 1) / 2
    fold = ops.sqrt(scale)
    exists = middle >= fold
    half_gap = ops.sqrt(at_least(middle - fold, 0.0)) * ops.sqrt(middle + fold)
    # Two forms of one root: each is free of cancellation on its side.
    denominator = ops.where(size < 1, (1 - size) / 2 + half_gap, 1.0)
    low = (size - scale) / ops.where(denominator > 0, denominator, 1.0)
    root = at_most(ops.where(size < 1, low, (size - 1) / 2 + half_gap), size)
    safe = ops.where(root > 0, root, 1.0)
    better = (root > 0) & exists & (root / 2 - size + scale * ops.log1p(root) / safe < 0)
    return _or_itself(x, ops.where(better, x * (root / ops.where(size > 0, size, 1.0)), ops.zeros_like(x)), size)


def _or_itself(x: Any, moved: Any, size: Any) -> Any:
    """`moved`, but `x` where its size is infinite, which no finite step changes, or NaN."""
    return ops.where(ops.isfinite(size), moved, x)


_LQ_NEWTON_STEPS = 6  # 5 reach float64 precision for every q
_LAPLACE_NEWTON_STEPS = 3  # 2 reach float64 precision
