"""What an array of weights holds, counted in NumPy: zeros, norms, groups and bins, in blocks that stay in the processor's cache."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_reg.ops.groups import group_axes

BLOCK = 65536


@dataclass(frozen=True)
class Counts:
    """What is in one array. NaN and infinities are counted as such, and left out of the norms and the range."""

    size: int
    zeros: int
    near_zeros: int
    """Magnitudes of at most the given bound; exact zeros are among them."""
    nan: int
    infinite: int
    l1: float
    """Sum of the magnitudes."""
    l2: float
    """Euclidean norm."""
    low: float
    high: float
    groups: int
    zero_groups: int


def count(values: np.ndarray, near_zero: float = 1e-3, axis: int | tuple[int, ...] | None = None) -> Counts:
    """Count what is in an array of any shape and dtype; `axis` names the axes that index groups, `None` that there are none."""
    zeros = near_zeros = nan = infinite = 0
    l1 = l2 = 0.0
    low, high = math.inf, -math.inf
    scratch = np.empty(min(BLOCK, values.size), "float32")
    for block in blocks(values):
        least, most = float(block.min()), float(block.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            nan += int(np.count_nonzero(np.isnan(block)))
            infinite += int(np.count_nonzero(np.isinf(block)))
            block = block[np.isfinite(block)]
            if not block.size:
                continue
            least, most = float(block.min()), float(block.max())
        low, high = min(low, least), max(high, most)
        largest = max(-least, most)
        zeros += int(np.count_nonzero(block == 0))
        size = np.absolute(block, out=scratch[: block.size] if block.dtype == scratch.dtype else None)
        near_zeros += int(np.count_nonzero(size <= near_zero))
        if 1e-15 < largest < 1e15:
            l1 += float(np.sum(size))
            l2 = math.hypot(l2, math.sqrt(np.dot(size, size)))
        elif largest:  # squares that would overflow or vanish
            size = size.astype("float64") / largest
            l1 += largest * float(np.sum(size))
            l2 = math.hypot(l2, largest * math.sqrt(np.dot(size, size)))
    groups, zero_groups = (0, 0) if axis is None else _count_groups(values, axis, zeros)
    return Counts(values.size, zeros, near_zeros, nan, infinite, l1, l2, low, high, groups, zero_groups)


def _count_groups(values: np.ndarray, axis: int | tuple[int, ...], zeros: int) -> tuple[int, int]:
    index, inside = group_axes(axis, values.ndim)
    groups = math.prod(values.shape[a] for a in index)
    # A zero group takes as many zeros as it has weights; one without weights is none.
    if not values.size or zeros < values.size // groups:
        return groups, 0
    alive = np.zeros([1 if a in inside else values.shape[a] for a in range(values.ndim)], bool)
    rows = max(1, 8 * BLOCK // max(1, values[0].size))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        alive[slice(None) if 0 in inside else part] |= np.any(values[part] != 0, axis=inside, keepdims=True)
    return groups, groups - int(np.count_nonzero(alive))


def histogram(values: np.ndarray, counts: Counts, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """How many of the finite values, of which `counts` are known, are in each of at most `bins` bins of one width over their range.

    The width is a power of two and the centres are its multiples, so zero is in the middle of a bin, the edges of two histograms
    fit each other, and scaling a weight to its bin rounds nothing: the counts are exactly those of `numpy.histogram` on these edges.

    Returns:
        The edges (float64, one more than there are bins) and the counts (int64); no bins where no value is finite.
    """
    low, high = counts.low, counts.high
    if low > high:
        return np.empty(0), np.empty(0, "int64")
    exponent, first, last = _width(low, high, bins)
    # Half-bins: the lower half of bin j starts at 2j - 1.
    start = math.floor(math.ldexp(low, 1 - exponent))
    halves = np.zeros(2 * (last - first + 1), "int64")
    offset = start - (2 * first - 1)
    pairs = np.zeros(len(halves) ** 2, "int64") if values.size >= BLOCK and len(halves) <= 128 else None
    scale = 2.0 ** (1 - exponent) if -125 <= 1 - exponent <= 125 else None
    size = min(BLOCK, values.size)
    position, index = np.empty(size, "float32"), np.empty(size, np.intp)
    for block in blocks(values):
        if counts.nan or counts.infinite:
            block = block[np.isfinite(block)]
        if scale is None:
            scaled = np.ldexp(block.astype("float64"), 1 - exponent)
        else:
            scaled = np.multiply(block, scale, out=position[: block.size] if block.dtype == position.dtype else None)
        np.floor(scaled, out=scaled)
        np.subtract(scaled, float(start), out=scaled)
        if pairs is not None and block.size == BLOCK:
            # Counting takes longer than the arithmetic before it: two values are counted as one of a pair.
            both, second = scaled[: BLOCK // 2], scaled[BLOCK // 2 :]
            np.multiply(both, len(halves), out=both)
            np.add(both, second, out=both)
            index[: BLOCK // 2] = both
            pairs += np.bincount(index[: BLOCK // 2], minlength=len(pairs))
        else:
            index[: block.size] = scaled
            found = np.bincount(index[: block.size])
            halves[offset : offset + len(found)] += found
    if pairs is not None:
        table = pairs.reshape(len(halves), len(halves))
        halves[offset:] += (table.sum(axis=0) + table.sum(axis=1))[: len(halves) - offset]
    edges = 2.0 * first - 1 + np.arange(0.0, 2 * (last - first) + 3, 2)
    if -1000 < exponent < 900:
        edges *= 2.0 ** (exponent - 1)
    else:
        with np.errstate(over="ignore"):
            edges = np.ldexp(edges, exponent - 1)
        largest = np.finfo("float64").max
        edges = np.clip(edges, -largest, largest)
    return edges, halves[::2] + halves[1::2]


def _width(low: float, high: float, bins: int) -> tuple[int, int, int]:
    """The binary exponent of the width, and the multiples of the width in the middle of the first and of the last bin."""
    # Divided before it is subtracted: the difference of two numbers may overflow.
    wanted = high / bins - low / bins or abs(low) / bins or 1 / bins
    exponent = max(math.frexp(wanted)[1] - 1, -1072)
    while True:
        first, last = ((math.floor(math.ldexp(value, 1 - exponent)) + 1) // 2 for value in (low, high))
        if last - first < bins:
            return exponent, first, last
        exponent += 1


def blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The values in flat pieces of float32 or float64; nothing else is copied."""
    flat = values.ravel(order="K")
    if flat.dtype not in ("float32", "float64"):
        wide = "float32" if (flat.dtype.itemsize <= 2 and flat.dtype.kind not in "iu") or flat.dtype.itemsize == 1 else "float64"
        for start in range(0, flat.size, BLOCK):
            yield flat[start : start + BLOCK].astype(wide)
        return
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]
