"""Penalties that are concave in the magnitude: they spare large weights what L1 takes from all."""

from typing import Any

from keras import ops

from keras_reg import ops as maps
from keras_reg._registration import register
from keras_reg._validation import greater_than, non_negative, real_number, step_size
from keras_reg.ops.dtypes import at_most, like, tiny
from keras_reg.regularizers.entrywise import Entrywise


@register
class MCP(Entrywise):
    """Minimax concave penalty: L1 at zero, with a derivative that falls linearly to 0 at `gamma * strength`.

    A weight of magnitude `u` adds `strength * u - u**2 / (2 * gamma)` up to `u = gamma * strength`
    and the constant `gamma * strength**2 / 2` beyond.

    Args:
        strength: Non-negative derivative at zero, in units of loss per unit of weight.
        gamma: Positive; the larger, the closer to L1. Defaults to 3.
        proximal: See `Penalty`.

    Example:

    >>> from keras_reg.regularizers import MCP
    >>> float(MCP(1.0, gamma=3.0)([1.5, 100.0]))
    2.625

    Reference: [Zhang, 2010](https://arxiv.org/abs/1002.4734).
    """

    def __init__(self, strength: float, gamma: float = 3.0, proximal: bool = False):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        self.gamma = greater_than(gamma, 0, "gamma")

    def entry_value(self, size: Any) -> Any:
        size = at_most(size, like(size, self.gamma * self.strength))
        return size * (self.strength - size * (0.5 / self.gamma))

    def derivative(self, size: Any) -> Any:
        return ops.relu(self.gamma * self.strength - size) / self.gamma

    def prox(self, w: Any, step: Any) -> Any:
        return maps.mcp_threshold(w, step_size(step, w), self.strength, self.gamma)

    def get_config(self) -> dict:
        return {"strength": self.strength, "gamma": self.gamma, **super().get_config()}


@register
class SCAD(Entrywise):
    """Smoothly clipped absolute deviation: L1 up to `strength`, then a derivative that falls to 0 at `a * strength`.

    A weight of magnitude `u` adds `strength * u` up to `u = strength`,
    `(2 * a * strength * u - u**2 - strength**2) / (2 * (a - 1))` up to `a * strength`, and `strength**2 * (a + 1) / 2` beyond.

    Args:
        strength: Non-negative derivative near zero, in units of loss per unit of weight.
        a: Above 2; the larger, the closer to L1. Defaults to 3.7, the value of the paper.
        proximal: See `Penalty`.

    Example:

    >>> from keras_reg.regularizers import SCAD
    >>> float(SCAD(1.0, a=3.0)([0.5, 100.0]))
    2.5

    Reference: [Fan and Li, 2001](https://doi.org/10.1198/016214501753382273).
    """

    def __init__(self, strength: float, a: float = 3.7, proximal: bool = False):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        self.a = greater_than(a, 2, "a")

    def entry_value(self, size: Any) -> Any:
        size = at_most(size, like(size, self.a * self.strength))
        return self.strength * size - ops.square(ops.relu(size - self.strength)) * (0.5 / (self.a - 1))

    def derivative(self, size: Any) -> Any:
        fading = ops.relu(self.a * self.strength - size)
        return at_most(fading, like(size, (self.a - 1) * self.strength)) / (self.a - 1)

    def prox(self, w: Any, step: Any) -> Any:
        return maps.scad_threshold(w, step_size(step, w), self.strength, self.a)

    def get_config(self) -> dict:
        return {"strength": self.strength, "a": self.a, **super().get_config()}


@register
class Lq(Entrywise):
    """`strength * sum(|w|**q)` with `0 < q < 1`: between the count of non-zeros (`q` to 0) and L1 (`q` to 1).

    The derivative grows without bound towards zero and fades on large weights. Its gradient is taken as 0 at zero itself.

    Args:
        strength: Non-negative strength.
        q: Exponent between 0 and 1, both excluded; 1/2 (default) and 2/3 are the usual ones.
        proximal: See `Penalty`. Advisable: without it the unbounded gradient near zero makes weights oscillate.

    Example:

    >>> from keras_reg.regularizers import Lq
    >>> float(Lq(0.5, q=0.5)([4.0, -9.0, 0.0]))
    2.5

    Reference: [Xu, Chang, Xu and Zhang, 2012](https://doi.org/10.1109/TNNLS.2012.2197412), whose prox drops the factor 1/2.
    """

    def __init__(self, strength: float, q: float = 0.5, proximal: bool = False):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        self.q = real_number(q, "q")
        if not 0 < self.q < 1:
            raise ValueError(f"Argument `q` must be between 0 and 1, both excluded. Received: q={self.q}")

    def entry_value(self, size: Any) -> Any:
        # The slope at zero is infinite; a subnormal weight counts as zero.
        zero = size < tiny(size)
        size = ops.where(zero, ops.ones_like(size), size)
        return self.strength * ops.where(zero, ops.zeros_like(size), size**self.q)

    def derivative(self, size: Any) -> Any:
        return self.strength * self.q * size ** (self.q - 1)

    def prox(self, w: Any, step: Any) -> Any:
        return maps.lq_threshold(w, step_size(step, w), self.strength, self.q)

    def get_config(self) -> dict:
        return {"strength": self.strength, "q": self.q, **super().get_config()}
