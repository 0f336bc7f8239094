"""What the gates of `keras_reg.layers` cost, so that they close."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_reg._registration import register
from keras_reg._validation import items, non_negative
from keras_reg.ops.dtypes import like
from keras_reg.ops.gates import BETA, GAMMA, ZETA, gaussian_gate_information, hard_concrete_open_probability, stretch
from keras_reg.regularizers.penalty import Penalty


class GatePenalty(Penalty):
    """What both have in common: a cost for each gate, times what is behind it."""

    halves = 1
    """How many numbers a gate has, one block of them after the other along the first axis."""

    def __init__(self, strength: float, weights: float | Sequence[float], proximal: bool):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        several = isinstance(weights, (list, tuple, np.ndarray))
        self.weights = [non_negative(w, "weights") for w in items(weights, "weights")] if several else non_negative(weights, "weights")

    def gates_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the gates whose weight has this shape."""
        return shape if self.halves == 1 else (shape[0] // self.halves, *shape[1:])

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if self.halves > 1 and (not shape or (shape[0] or 0) % self.halves):
            raise ValueError(f"It is for a weight whose first axis holds {self.halves} numbers for each gate. Received: shape {shape}")
        gates = math.prod(self.gates_shape(shape)) if isinstance(self.weights, list) else 0
        if isinstance(self.weights, list) and len(self.weights) != gates:
            raise ValueError(
                f"Argument `weights` must have one number for each of the {gates} gates. Received: {len(self.weights)} weights"
            )

    def cost(self, w: Any) -> Any:
        """The cost of each gate at strength and weight 1."""
        raise NotImplementedError

    def value(self, w: Any) -> Any:
        cost = self.cost(w)
        weights = self.weights
        if isinstance(weights, list):
            weights = like(cost, np.reshape(np.asarray(weights, "float64"), tuple(cost.shape)))
        return self.strength * ops.sum(weights * cost)

    def get_config(self) -> dict:
        return {"strength": self.strength, "weights": self.weights, **super().get_config()}


@register
class HardConcreteL0(GatePenalty):
    """`strength * sum_g weights_g * sigmoid(log_alpha_g - beta * log(-gamma / zeta))`: the expected number of open hard-concrete gates.

    For the weight `gate` of a `keras_reg.layers.HardConcreteGate`. With the number of parameters behind each gate as its weight it is the
    expected L0 norm of the parameters, and `strength` the cost of one of them. It is smooth and acts through the loss; it has no prox.

    **The strength has to be scaled.** The expected count is as large as the layer, and Keras averages the loss over the examples: a
    number from a paper whose loss is a sum (`lambda`) is divided by the number of training examples. Far below `1 / examples` per
    parameter nothing closes however long one trains; far above everything does. `HardConcreteL0(lambda / 60000, weights=parameters)`
    with `lambda` between 0.1 and 1 is where to begin on MNIST. `keras_reg.models.insert_gates` finds the weights.

    Args:
        strength: Non-negative cost of one open gate of weight 1, in units of loss.
        weights: How many parameters (or multiplications) are behind each gate: one number for all, or a list with one for each.
        beta, gamma, zeta: As those of the gates.
        proximal: `False`.

    Example:

    >>> from keras_reg.regularizers import HardConcreteL0
    >>> round(float(HardConcreteL0(1.0, weights=[10.0, 100.0])([0.0, -2.397895])), 2)
    39.34

    Reference: [Louizos, Welling and Kingma, 2018](https://arxiv.org/abs/1712.01312).
    """

    def __init__(
        self,
        strength: float,
        weights: float | Sequence[float] = 1.0,
        beta: float = BETA,
        gamma: float = GAMMA,
        zeta: float = ZETA,
        proximal: bool = False,
    ):
        super().__init__(strength, weights, proximal)
        self.beta, self.gamma, self.zeta = stretch(beta, gamma, zeta)

    def cost(self, w: Any) -> Any:
        return hard_concrete_open_probability(w, self.beta, self.gamma, self.zeta)

    def get_config(self) -> dict:
        return {**super().get_config(), "beta": self.beta, "gamma": self.gamma, "zeta": self.zeta}


@register
class GaussianGatePenalty(GatePenalty):
    """`strength * sum_g weights_g * log(1 + mean_g**2 / variance_g) / 2`: the information that Gaussian gates let through, in nats.

    For the weight `gate` of a `keras_reg.layers.GaussianGate`: the means are the first half along the first axis, the logarithms of the
    variances the second. A gate whose variance comes to exceed its squared mean is closed. It acts through the loss; it has no prox.

    **The strength has to be scaled**, as that of `HardConcreteL0`: with the number of parameters behind a gate as its weight,
    `1 / examples` times a number from 0.001 to 0.1. A gate of large weight has to carry more to stay.

    Args:
        strength: Non-negative cost of one nat through a gate of weight 1, in units of loss.
        weights: What is behind each gate: one number for all, or a list with one for each.
        proximal: `False`.

    Example:

    >>> from keras_reg.regularizers import GaussianGatePenalty
    >>> round(float(GaussianGatePenalty(1.0)([[1.0, 1.0], [0.0, -9.0]])), 4)  # variances 1 and exp(-9)
    4.8466

    Reference: [Dai, Zhu, Guo and Wipf, 2018](https://arxiv.org/abs/1802.10399).
    """

    halves = 2

    def __init__(self, strength: float, weights: float | Sequence[float] = 1.0, proximal: bool = False):
        super().__init__(strength, weights, proximal)

    def cost(self, w: Any) -> Any:
        mean, log_variance = ops.split(w, 2, axis=0)
        return gaussian_gate_information(mean, log_variance)
