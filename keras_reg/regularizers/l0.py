"""The count of non-zero weights and its relaxations."""

import math
from typing import Any

from keras import ops

from keras_reg import ops as maps
from keras_reg._registration import register
from keras_reg._validation import greater_than, non_negative, one_of, step_size
from keras_reg.ops.dtypes import at_most
from keras_reg.regularizers.entrywise import Entrywise

RELAXATIONS = ("laplace", "log", "geman_mcclure", "hard")
DEFAULT_WIDTH = 0.1


@register
class L0(Entrywise):
    """A relaxation of `strength * (number of non-zero weights)`: with a derivative that fades on large weights.

    With `u = |w|` and the width `t`, the penalty of each weight is

    | `relaxation` | penalty | derivative near zero | prox |
    | --- | --- | --- | --- |
    | `"laplace"` | `strength * (1 - exp(-u / t))` | `strength / t` | exact zeros |
    | `"log"` | `strength * log(1 + u / t)` | `strength / t` | exact zeros |
    | `"geman_mcclure"` | `strength * u**2 / (u**2 + t**2)` | 0 | none: smooth at zero, it never gives one |
    | `"hard"` | `strength * (u > 0)` | none | hard threshold |

    `"laplace"` and `"geman_mcclure"` tend to `strength * count` as the width goes to 0; `"log"` is unbounded.

    Args:
        strength: Non-negative penalty of one non-zero weight, in units of loss.
        relaxation: One of `"laplace"` (default), `"log"`, `"geman_mcclure"`, `"hard"`. `"hard"` has no useful gradient and
            needs `proximal=True`; `"geman_mcclure"` has no prox and refuses it.
        width: Positive magnitude, in units of the weights, above which a weight counts as non-zero: weights well below it
            are pulled, weights well above it are left alone. Defaults to 0.1, about the scale at which `Dense` layers
            start. `"hard"` has none.
        proximal: See `Penalty`.

    Example:

    >>> from keras_reg.regularizers import L0
    >>> penalty = L0(0.5, relaxation="laplace", width=1e-3)
    >>> float(penalty([1.0, -3.0, 0.0]))
    1.0
    >>> [float(w) for w in L0(0.5, relaxation="hard", proximal=True).prox([0.5, -3.0], step=1.0)]
    [0.0, -3.0]

    References: [Mangasarian, 1996](https://doi.org/10.1007/978-1-4613-3437-8_11) (Laplace),
    [Candes, Wakin and Boyd, 2008](https://arxiv.org/abs/0711.1612) (log),
    [Geman and McClure, 1985](https://www.dam.brown.edu/people/geman/Homepage/Image%20processing,%20image%20analysis,%20Markov%20random%20fields,%20and%20MCMC/1985GemanMcClureASA.pdf),
    [Blumensath and Davies, 2008](https://doi.org/10.1007/s00041-008-9035-z) (hard).
    """

    def __init__(self, strength: float, relaxation: str = "laplace", width: float | None = None, proximal: bool = False):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        self.relaxation = one_of(relaxation, RELAXATIONS, "relaxation")
        if relaxation == "hard":
            if width is not None:
                raise ValueError(f"Argument `width` must be None with relaxation='hard', which has none. Received: width={width!r}")
            if not proximal:
                raise ValueError("Argument `proximal` must be True with relaxation='hard', whose gradient is 0. Received: proximal=False")
            self.width = None
        else:
            self.width = greater_than(DEFAULT_WIDTH if width is None else width, 0, "width")
        if relaxation == "geman_mcclure" and proximal:
            raise ValueError(
                "Argument `proximal` must be False with relaxation='geman_mcclure', which is smooth at zero and has no prox that gives "
                "zeros; 'laplace', 'log' and 'hard' have one. Received: proximal=True"
            )

    def entry_value(self, size: Any) -> Any:
        if self.relaxation == "hard":
            return self.strength * ops.cast(ops.not_equal(size, 0), size.dtype)
        if self.relaxation == "laplace":
            return -self.strength * ops.expm1(size * (-1 / self.width))
        if self.relaxation == "log":
            return self.strength * ops.log1p(size * (1 / self.width))
        square = ops.square(at_most(size * (1 / self.width), _SATURATED))
        return self.strength * (square / (1 + square))

    def derivative(self, size: Any) -> Any:
        if self.relaxation == "hard":
            return ops.where(ops.equal(size, 0), math.inf, ops.zeros_like(size))
        steepest = self.strength / self.width
        scaled = size * (1 / self.width)
        if self.relaxation == "laplace":
            return steepest * ops.exp(-scaled)
        if self.relaxation == "log":
            return steepest / (1 + scaled)
        scaled = at_most(scaled, _SATURATED)
        return (2 * steepest) * scaled / ops.square(1 + ops.square(scaled))

    def prox(self, w: Any, step: Any) -> Any:
        step = step_size(step, w)
        if self.relaxation == "hard":
            return maps.hard_threshold(w, (2 * step * self.strength) ** 0.5)
        if self.relaxation == "laplace":
            return maps.laplace_threshold(w, step, self.strength, self.width)
        if self.relaxation == "log":
            return maps.log_threshold(w, step, self.strength, self.width)
        return super().prox(w, step)

    def get_config(self) -> dict:
        return {"strength": self.strength, "relaxation": self.relaxation, "width": self.width, **super().get_config()}


_SATURATED = 1e9  # in widths: the penalty is its limit to float64 precision, and no square overflows
