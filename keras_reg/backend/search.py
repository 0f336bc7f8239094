"""The smallest of many numbers without sorting them, which XLA does on one processor: by counting how many are below a bound."""

from typing import Any

from keras import ops

SAMPLE = 8192
BISECTED = 3
"""One bound in so many is the middle of the two before, the others lie where a line between their counts says."""


def smallest_of_bits(bits: Any, number: Any) -> Any:
    """Which are the `number` smallest, of equals the later ones.

    Args:
        bits: Whole numbers of 32 bits, not negative, as a vector.
        number: A scalar tensor, at least 0.
    """

    def below(bound):
        return ops.sum(ops.cast(bits < bound, "int32"))

    def going_on(turn, low, fewer, high, more):
        del turn, fewer
        return ops.logical_and(more != number, high - low > 1)

    def narrowed(turn, low, fewer, high, more):
        share = ops.cast(number - fewer, "float32") / ops.cast(more - fewer, "float32")
        between = ops.cast(share * ops.cast(high - low, "float32"), "int32")
        bound = low + ops.where(turn % BISECTED == 0, (high - low) // 2, ops.clip(between, 1, high - low - 1))
        count = below(bound)
        enough = count >= number
        low, fewer = ops.where(enough, low, bound), ops.where(enough, fewer, count)
        return turn + 1, low, fewer, ops.where(enough, bound, high), ops.where(enough, count, more)

    # Below `low` there are `fewer` than `number`, or none; below `high` there are `more`, or as many.
    low, high = _guessed(bits, number)
    fewer, more = below(low), below(high)
    low, fewer = (ops.where(fewer < number, one, 0) for one in (low, fewer))
    high, more = (ops.where(more >= number, one, all_of) for one, all_of in ((high, ops.max(bits) + 1), (more, bits.shape[0])))
    turn = ops.convert_to_tensor(1, "int32")
    _, low, fewer, high, more = ops.while_loop(going_on, narrowed, (turn, low, fewer, high, more))

    def without_some_equals():
        equal = bits == low
        seen = ops.cumsum(ops.cast(equal, "int32"))
        return ops.logical_or(bits < low, ops.logical_and(equal, seen > seen[-1] - (number - fewer)))

    return ops.cond(ops.equal(more, number), lambda: bits < high, without_some_equals)


def _guessed(bits: Any, number: Any) -> tuple[Any, Any]:
    """Two bounds between which the one that is looked for probably is, from a sample."""
    sample = ops.sort(bits[:: max(1, bits.shape[0] // SAMPLE)])
    size = sample.shape[0]
    share = ops.cast(number, "float32") / bits.shape[0]
    spread = 4 * ops.sqrt(size * share * (1 - share)) + 1
    low, high = (ops.cast(ops.clip(share * size + by, 0, size - 1), "int32") for by in (-spread, spread))
    return ops.take(sample, low), ops.take(sample, high) + 1
