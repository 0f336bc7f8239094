"""Hoyer-square: a scale-free measure of how few weights carry the norm."""

from typing import Any

from keras import ops

from keras_reg._registration import register
from keras_reg._validation import non_negative
from keras_reg.ops.dtypes import at_least, magnitude, tiny
from keras_reg.ops.fused import fused, sum_of_magnitudes, sum_of_squares
from keras_reg.ops.gradients import branch, may_branch
from keras_reg.regularizers.penalty import Penalty, is_zero, pair, with_formula


def refuse_proximal(penalty: Penalty) -> None:
    if penalty.proximal:
        raise ValueError(
            f"Argument `proximal` must be False for {type(penalty).__name__}, whose prox has no closed form. Received: proximal=True"
        )


@register
class HoyerSquare(Penalty):
    """`strength * (sum |w|)**2 / sum(w**2)`, between `strength` (one non-zero weight) and `strength * w.size` (all of equal size).

    Scale-invariant: it does not shrink the weights as a whole. Weights above `sum(w**2) / sum(|w|)` grow, weights below it shrink.
    The penalty and its gradient are 0 at a zero vector. It has no closed-form prox, so `proximal=True` is refused.

    Args:
        strength: Non-negative strength, in units of loss.
        proximal: `False`.

    Example:

    >>> from keras_reg.regularizers import HoyerSquare
    >>> [float(HoyerSquare(1.0)(w)) for w in ([2.0, 0.0], [2.0, 2.0])]
    [1.0, 2.0]

    Reference: [Yang, Wen and Li, 2020 (DeepHoyer)](https://arxiv.org/abs/1908.09979).
    """

    radial = True

    def __init__(self, strength: float, proximal: bool = False):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        refuse_proximal(self)

    def value(self, w: Any) -> Any:
        return ops.zeros((), w.dtype) if is_zero(self.strength) else with_formula(self, self.pull, w)

    def total(self, w: Any) -> Any:
        total, squares, _ = _sums(w)
        return self.strength * ops.square(total) / squares

    def pull(self, w: Any, scale: Any) -> Any:
        """`scale` times the gradient, with 0 at zero weights."""
        total, squares, unit = _sums(w)
        ratio = total / squares
        step = 2 * scale * self.strength * ratio / unit
        return fused(lambda w, step, rate: step * (ops.sign(w) - rate * w), w, step, ratio / unit)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        total, squares, unit = _sums(w)
        at_zero = at_least(ops.absolute(grad) - 2 * self.strength * total / squares / unit, 0.0)
        # The zero vector is a minimum by a jump: no gradient moves it.
        at_zero = ops.where(total == 0, ops.zeros_like(w), at_zero)
        return ops.where(ops.equal(w, 0), at_zero, ops.absolute(grad + self.pull(w, 1.0)))

    def get_config(self) -> dict:
        return {"strength": self.strength, **super().get_config()}


def _sums(w: Any) -> tuple[Any, Any, Any]:
    """The sum of the magnitudes and that of the squares (1 at a zero vector), of weights in a unit, and this unit."""

    def scaled():
        # The penalty does not depend on it: it is held constant.
        largest = ops.stop_gradient(ops.amax(ops.absolute(w)))
        # Gradients go as 1 / largest: below this they would overflow.
        zero = largest < tiny(w) * 1e8
        unit = ops.where(zero, ops.ones_like(largest), largest)
        size = magnitude(w) * ops.where(zero, ops.zeros_like(unit), 1 / unit)
        squares = ops.sum(ops.square(size))
        return ops.sum(size), ops.where(zero, ops.ones_like(squares), squares), unit

    if not may_branch(w):
        return scaled()
    total, squares = sum_of_magnitudes(w), sum_of_squares(w)
    in_range = ops.logical_and(squares >= 1e-25, squares <= 1e25)  # so that none of them can have overflowed or vanished
    return branch(in_range, lambda: (total, squares, ops.ones_like(squares)), scaled)
