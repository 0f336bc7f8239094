"""Penalties that look at each weight by itself."""

import math
from typing import Any

from keras import ops

from keras_reg.ops.dtypes import at_least, magnitude
from keras_reg.regularizers.arguments import largest_magnitude, pair
from keras_reg.regularizers.penalty import Penalty


class Entrywise(Penalty):
    """`sum(price(|w|))`: a sum over the weights of a price of their magnitude.

    A subclass writes

    - `price(size)`: what weights of magnitudes `size` pay, differentiable;
    - `slope(size)`: the derivative of the price, from the right at 0; infinite where every gradient is resisted;
    - `prox(w, step)`, if it has one;
    - `get_config()`.

    Value, gradient, distance to the subdifferential and largest useful strength follow. Strengths may be scalar tensors in `price` and
    `prox`.
    """

    radial = True

    def price(self, size: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define `price(size)`.")

    def slope(self, size: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define `slope(size)`.")

    def value(self, w: Any) -> Any:
        return ops.sum(self.price(magnitude(w)))

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        slope = self.slope(ops.absolute(w))
        at_zero = at_least(ops.absolute(grad) - slope, 0.0)
        elsewhere = ops.absolute(grad + slope * ops.sign(w))
        return ops.where(ops.equal(w, 0), at_zero, elsewhere)

    def stacked(self) -> Penalty | None:
        return self if prox_is_ours(self) else None

    def strength_max(self, grad_at_zero: Any) -> float:
        slope = float(self.with_strength(1.0).slope(ops.zeros(())))
        if slope == 0 or math.isinf(slope):
            return super().strength_max(grad_at_zero)
        return largest_magnitude(grad_at_zero) / slope


def prox_is_ours(penalty: Penalty) -> bool:
    """Whether it is known what the prox of this class does to an axis more."""
    return type(penalty).prox.__module__.split(".")[0] == "keras_reg"
