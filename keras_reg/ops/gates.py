"""Stochastic gates: what they are in training, what they are afterwards, and what they cost. Pure functions."""

import math
from typing import Any

from keras import ops

from keras_reg._validation import greater_than, real_number
from keras_reg.ops.dtypes import like, tiny, widen

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""The constants of the paper."""


def stretch(beta: Any, gamma: Any, zeta: Any) -> tuple[float, float, float]:
    """The temperature and the ends of the interval that the gates are stretched to, checked."""
    beta, gamma = greater_than(beta, 0, "beta"), real_number(gamma, "gamma")
    if gamma >= 0:
        raise ValueError(f"Argument `gamma` must be below 0, or no gate would ever be closed. Received: gamma={gamma}")
    return beta, gamma, greater_than(zeta, 1, "zeta")


def hard_concrete_sample(log_alpha: Any, uniform: Any, beta: float = BETA, gamma: float = GAMMA, zeta: float = ZETA) -> Any:
    """Hard-concrete gates: `clip(s * (zeta - gamma) + gamma, 0, 1)` with `s = sigmoid((log(u) - log(1 - u) + log_alpha) / beta)`.

    Exactly 0 and exactly 1 with a probability of their own; differentiable in `log_alpha` in between.

    Args:
        log_alpha: Float tensor, one number for each gate.
        uniform: Random numbers between 0 and 1, of a shape that broadcasts with `log_alpha`.
        beta: Temperature, positive: the smaller, the more often a gate is 0 or 1.
        gamma: Lower end of the stretched interval, below 0.
        zeta: Upper end, above 1.

    Returns:
        Gates in [0, 1], at least float32.

    Example:

    >>> from keras_reg.ops import hard_concrete_sample
    >>> [round(float(z), 4) for z in hard_concrete_sample([0.0, 0.0, 0.0], [0.05, 0.5, 0.95])]
    [0.0, 0.5, 1.0]

    Reference: [Louizos, Welling and Kingma, 2018](https://arxiv.org/abs/1712.01312).
    """
    beta, gamma, zeta = stretch(beta, gamma, zeta)
    log_alpha, _ = widen(log_alpha, "log_alpha")
    uniform = like(log_alpha, uniform)
    concrete = ops.sigmoid((ops.log(uniform) - ops.log(1 - uniform) + log_alpha) / beta)
    return ops.clip(concrete * (zeta - gamma) + gamma, 0.0, 1.0)


def hard_concrete_gate(log_alpha: Any, gamma: float = GAMMA, zeta: float = ZETA) -> Any:
    """The same gates without noise: `clip(sigmoid(log_alpha) * (zeta - gamma) + gamma, 0, 1)`, with no temperature.

    Exactly 0 from `log_alpha = log(-gamma / zeta)` down, and exactly 1 from `log((1 - gamma) / (zeta - 1))` up: -2.398 and 2.398 with
    the constants of the paper.

    Args:
        log_alpha: Float tensor, one number for each gate.
        gamma: Lower end of the stretched interval, below 0.
        zeta: Upper end, above 1.

    Returns:
        Gates in [0, 1], at least float32.

    Example:

    >>> from keras_reg.ops import hard_concrete_gate
    >>> [round(float(z), 4) for z in hard_concrete_gate([-2.4, 0.0, 2.4])]
    [0.0, 0.5, 1.0]

    Reference: [Louizos, Welling and Kingma, 2018](https://arxiv.org/abs/1712.01312).
    """
    _, gamma, zeta = stretch(BETA, gamma, zeta)
    log_alpha, _ = widen(log_alpha, "log_alpha")
    between = ops.clip(ops.sigmoid(log_alpha) * (zeta - gamma) + gamma, 0.0, 1.0)
    # Where the two ends begin is not left to rounding.
    opened = ops.where(log_alpha >= math.log((1 - gamma) / (zeta - 1)), ops.ones_like(between), between)
    return ops.where(log_alpha <= math.log(-gamma / zeta), ops.zeros_like(between), opened)


def hard_concrete_open_probability(log_alpha: Any, beta: float = BETA, gamma: float = GAMMA, zeta: float = ZETA) -> Any:
    """The probability that a hard-concrete gate is not 0: `sigmoid(log_alpha - beta * log(-gamma / zeta))`.

    Their sum is the expected L0 norm of the gates. It overstates what is open without noise: a gate that has just closed there still has
    the probability 0.31.

    Args:
        log_alpha: Float tensor, one number for each gate.
        beta: Temperature, positive.
        gamma: Lower end of the stretched interval, below 0.
        zeta: Upper end, above 1.

    Returns:
        Probabilities, at least float32.

    Example:

    >>> from keras_reg.ops import hard_concrete_open_probability
    >>> [round(float(p), 4) for p in hard_concrete_open_probability([-2.397895, 0.0])]
    [0.3102, 0.8318]

    Reference: [Louizos, Welling and Kingma, 2018](https://arxiv.org/abs/1712.01312).
    """
    beta, gamma, zeta = stretch(beta, gamma, zeta)
    log_alpha, _ = widen(log_alpha, "log_alpha")
    return ops.sigmoid(log_alpha - beta * math.log(-gamma / zeta))


def gaussian_gate(mean: Any, log_variance: Any) -> Any:
    """A Gaussian gate `mean + stddev * noise` without its noise: `mean`, and exactly 0 where the variance exceeds `mean**2`.

    Args:
        mean: Float tensor.
        log_variance: Logarithm of the variance, of the same shape.

    Returns:
        Gates, at least float32.

    Example:

    >>> from keras_reg.ops import gaussian_gate
    >>> [float(z) for z in gaussian_gate([0.5, 0.5], [-2.0, -1.0])]
    [0.5, 0.0]

    Reference: [Dai, Zhu, Guo and Wipf, 2018](https://arxiv.org/abs/1802.10399).
    """
    mean, _ = widen(mean, "mean")
    return ops.where(_log_ratio(mean, log_variance) < 0, ops.zeros_like(mean), mean)


def gaussian_gate_information(mean: Any, log_variance: Any) -> Any:
    """`log(1 + mean**2 / variance) / 2`: a bound, in nats, on what a Gaussian gate lets through.

    The gradient is 0 where the mean is 0.

    Args:
        mean: Float tensor.
        log_variance: Logarithm of the variance, of the same shape.

    Returns:
        A number of at least 0 for each gate, at least float32.

    Example:

    >>> from keras_reg.ops import gaussian_gate_information
    >>> [round(float(nats), 4) for nats in gaussian_gate_information([0.0, 1.0], [0.0, 0.0])]
    [0.0, 0.3466]

    Reference: [Dai, Zhu, Guo and Wipf, 2018](https://arxiv.org/abs/1802.10399).
    """
    mean, _ = widen(mean, "mean")
    nats = ops.softplus(_log_ratio(mean, log_variance)) / 2
    return ops.where(ops.absolute(mean) < tiny(mean), ops.zeros_like(nats), nats)


def gaussian_signal_share(mean: Any, log_variance: Any) -> Any:
    """`mean**2 / (mean**2 + variance)`: what of a Gaussian gate is no noise."""
    mean, _ = widen(mean, "mean")
    return ops.sigmoid(_log_ratio(mean, log_variance))


def _log_ratio(mean: Any, log_variance: Any) -> Any:
    """`log(mean**2 / variance)`, finite where the mean is 0."""
    size = ops.absolute(mean)
    smallest = tiny(mean)
    return 2 * ops.log(ops.where(size < smallest, like(mean, smallest), size)) - like(mean, log_variance)
