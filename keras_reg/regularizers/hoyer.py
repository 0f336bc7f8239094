"""Hoyer-square: a scale-free measure of how few weights carry the norm."""

from typing import Any

from keras import ops

from keras_reg._registration import register
from keras_reg._validation import non_negative
from keras_reg.backend import norm
from keras_reg.ops.dtypes import at_least, magnitude
from keras_reg.regularizers.arguments import pair
from keras_reg.regularizers.penalty import Penalty


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
    >>> [round(float(HoyerSquare(1.0)(w)), 5) for w in ([2.0, 0.0], [2.0, 2.0])]
    [1.0, 2.0]

    Reference: [Yang, Wen and Li, 2020 (DeepHoyer)](https://arxiv.org/abs/1908.09979).
    """

    radial = True

    def __init__(self, strength: float, proximal: bool = False):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")

    def value(self, w: Any) -> Any:
        total, length = _norms(w)
        return self.strength * ops.square(total / length)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        total, length = _norms(w)
        ratio = total / length
        slope = 2 * self.strength * ratio / length
        # The zero vector is a minimum by a jump: no gradient moves it.
        at_zero = ops.where(total == 0, ops.zeros_like(w), at_least(ops.absolute(grad) - slope, 0.0))
        elsewhere = ops.absolute(grad + slope * (ops.sign(w) - ratio * (w / length)))
        return ops.where(ops.equal(w, 0), at_zero, elsewhere)

    def get_config(self) -> dict:
        return {"strength": self.strength, **super().get_config()}


def _norms(w: Any) -> tuple[Any, Any]:
    """The sum of the magnitudes and the Euclidean norm, 1 at a zero vector."""
    length = ops.squeeze(norm(w, tuple(range(len(w.shape))))) if len(w.shape) else ops.absolute(w)
    return ops.sum(magnitude(w)), ops.where(length > 0, length, ops.ones_like(length))
