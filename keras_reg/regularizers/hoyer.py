"""Hoyer-square: a scale-free measure of how few weights carry the norm."""

from typing import Any

from keras import ops

from keras_reg._registration import register
from keras_reg._validation import non_negative
from keras_reg.ops.dtypes import at_least, magnitude, tiny
from keras_reg.regularizers.penalty import Penalty, is_zero, pair, with_gradient


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
        return ops.zeros((), w.dtype) if is_zero(self.strength) else with_gradient(self.total, self.pull, w)

    def total(self, w: Any) -> Any:
        _, total, squares, _ = _normalized(w)
        return self.strength * ops.square(total) / squares

    def pull(self, w: Any, scale: Any) -> Any:
        """`scale` times the gradient, with 0 at zero weights."""
        size, total, squares, largest = _normalized(w)
        ratio = total / squares
        steepest = 2 * scale * self.strength * ratio / largest
        return ops.sign(w) * (steepest - (steepest * ratio) * size)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        _, total, squares, largest = _normalized(w)
        at_zero = at_least(ops.absolute(grad) - 2 * self.strength * total / squares / largest, 0.0)
        # The zero vector is a minimum by a jump: no gradient moves it.
        at_zero = ops.where(total == 0, ops.zeros_like(w), at_zero)
        return ops.where(ops.equal(w, 0), at_zero, ops.absolute(grad + self.pull(w, 1.0)))

    def get_config(self) -> dict:
        return {"strength": self.strength, **super().get_config()}


def _normalized(w: Any) -> tuple[Any, Any, Any, Any]:
    """Magnitudes over the largest one, their sum, the sum of their squares (1 at a zero vector), and the largest one."""
    size = magnitude(w)
    # The ratio of the sums does not depend on it: it is held constant.
    largest = ops.stop_gradient(ops.max(size))
    # Gradients go as 1 / largest: below this they would overflow.
    zero = largest < tiny(w) * 1e6
    largest = ops.where(zero, ops.ones_like(largest), largest)
    size = size * ops.where(zero, ops.zeros_like(largest), 1 / largest)
    squares = ops.sum(ops.square(size))
    return size, ops.sum(size), ops.where(zero, ops.ones_like(squares), squares), largest
