"""Penalties that look at each weight by itself."""

import math
from typing import Any

from keras import ops

from keras_reg.ops.dtypes import at_least, magnitude
from keras_reg.regularizers.arguments import largest_magnitude, pair
from keras_reg.regularizers.penalty import Penalty


class Entrywise(Penalty):
    """`sum(entry_value(|w|))`: a sum over the weights of a function of their magnitude.

    A subclass writes

    - `entry_value(size)`: the penalty of weights of magnitudes `size`, differentiable;
    - `derivative(size)`: its derivative, from the right at 0; infinite where every gradient is resisted;
    - `prox(w, step)`, if it has one;
    - `get_config()`.

    Value, gradient, distance to the subdifferential and largest useful strength follow. In `entry_value` and `prox`
    strengths may be tensors.
    """

    radial = True

    def entry_value(self, size: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define `entry_value(size)`.")

    def derivative(self, size: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define `derivative(size)`.")

    def value(self, w: Any) -> Any:
        return ops.sum(self.entry_value(magnitude(w)))

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        slope = self.derivative(ops.absolute(w))
        at_zero = at_least(ops.absolute(grad) - slope, 0.0)
        elsewhere = ops.absolute(grad + slope * ops.sign(w))
        return ops.where(ops.equal(w, 0), at_zero, elsewhere)

    def stacked(self) -> Penalty | None:
        return self if prox_is_ours(self) else None

    def strength_max(self, grad_at_zero: Any) -> float:
        slope = float(self.with_strength(1.0).derivative(ops.zeros(())))
        if slope == 0 or math.isinf(slope):
            return super().strength_max(grad_at_zero)
        return largest_magnitude(grad_at_zero) / slope


def prox_is_ours(penalty: Penalty) -> bool:
    """Whether it is known what the prox of this class does to an axis more."""
    return type(penalty).prox.__module__.split(".")[0] == "keras_reg"
