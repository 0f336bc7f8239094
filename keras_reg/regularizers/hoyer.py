"""Hoyer-square: a scale-free measure of how few weights carry the norm."""

from typing import Any

from keras import ops

from keras_reg._registration import register
from keras_reg._validation import non_negative
from keras_reg.ops.dtypes import at_least, tiny
from keras_reg.regularizers.penalty import Penalty, pair


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
        if not self.strength:
            return ops.zeros((), w.dtype)
        size, zero, _ = _normalized(w)
        squares = ops.where(zero, ops.ones((), w.dtype), ops.sum(ops.square(size)))
        return self.strength * ops.square(ops.sum(size)) / squares

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        size, zero, scale = _normalized(w)
        squares = ops.where(zero, ops.ones((), w.dtype), ops.sum(ops.square(size)))
        ratio = ops.sum(size) / squares
        pull = 2 * self.strength * ratio / scale
        at_zero = at_least(ops.absolute(grad) - pull, 0.0)
        elsewhere = ops.absolute(grad + pull * ops.sign(w) * (1 - ratio * size))
        # The zero vector is a minimum by a jump: no gradient moves it.
        return ops.where(zero, ops.zeros_like(w), ops.where(ops.equal(w, 0), at_zero, elsewhere))

    def get_config(self) -> dict:
        return {"strength": self.strength, **super().get_config()}


def _normalized(w: Any) -> tuple[Any, Any, Any]:
    """Magnitudes over the largest one, whether all are zero, and the largest one, held constant."""
    size = ops.absolute(w)
    scale = ops.stop_gradient(ops.max(size))
    # Gradients go as 1/scale: below this they would overflow.
    zero = scale < tiny(w) * 1e6
    scale = ops.where(zero, ops.ones_like(scale), scale)
    return ops.where(zero, ops.zeros_like(size), size * ops.stop_gradient(1 / scale)), zero, scale
