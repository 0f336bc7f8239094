"""L1, L2 and their sum: drop-in for Keras's classes, with the priors they stand for."""

import math
from typing import Any

from keras import ops

from keras_reg import ops as maps
from keras_reg._registration import register
from keras_reg._validation import greater_than, non_negative, step_size
from keras_reg.ops.dtypes import magnitude, widen
from keras_reg.regularizers.entrywise import Entrywise


@register
class L1(Entrywise):
    """`l1 * sum(|w|)`: every weight shrinks by the same amount.

    As a gradient it hops around zero in a band of width `2 * learning_rate * l1`; its prox, the soft threshold, lands on zero.

    Args:
        l1: Non-negative strength, in units of loss per unit of weight. Defaults to 0.01, as in Keras.
        proximal: See `Penalty`.

    Example:

    >>> from keras_reg.regularizers import L1
    >>> penalty = L1(0.5)
    >>> float(penalty([1.0, -3.0]))
    2.0
    >>> [float(w) for w in penalty.prox([1.0, -3.0], step=2.0)]
    [0.0, -2.0]

    Reference: [Tibshirani, 1996](https://doi.org/10.1111/j.2517-6161.1996.tb02080.x).
    """

    convex = True
    strength_names = ("l1",)

    def __init__(self, l1: float = 0.01, proximal: bool = False):
        super().__init__(proximal)
        self.l1 = non_negative(0.01 if l1 is None else l1, "l1")

    @property
    def strength(self) -> float:
        return self.l1

    def value(self, w: Any) -> Any:
        return self.l1 * ops.sum(magnitude(w))

    def entry_value(self, size: Any) -> Any:
        return self.l1 * size

    def prox(self, w: Any, step: Any) -> Any:
        return maps.soft_threshold(w, step_size(step, w) * self.l1)

    def derivative(self, size: Any) -> Any:
        return self.l1 * ops.ones_like(size)

    @classmethod
    def from_prior(cls, scale: float, num_examples: int, proximal: bool = False) -> "L1":
        """The strength that a Laplace prior of this scale on every weight means.

        Keras averages the data loss over the examples. Where that loss is a negative log-likelihood (a crossentropy), the
        posterior is highest where `mean loss + l1 * sum(|w|)` is lowest, with `l1 = 1 / (scale * num_examples)`.
        Keras's mean squared error is the Gaussian one times `2 * noise_variance` per output: multiply the strength by that.

        Args:
            scale: Scale of the prior, positive: the mean magnitude believed of a weight.
            num_examples: Number of training examples, positive.

        Example:

        >>> from keras_reg.regularizers import L1
        >>> L1.from_prior(scale=0.1, num_examples=1000).l1
        0.01
        """
        return cls(1 / (greater_than(scale, 0, "scale") * greater_than(num_examples, 0, "num_examples")), proximal)

    def prior_scale(self, num_examples: int) -> float:
        """The scale of the Laplace prior that this strength means: the reverse of `from_prior`; infinite at strength 0."""
        num_examples = greater_than(num_examples, 0, "num_examples")
        return 1 / (self.l1 * num_examples) if self.l1 else math.inf

    def log_prior(self, w: Any, num_examples: int) -> Any:
        """Log-density of the weights under that prior: `sum(-log(2 * scale) - |w| / scale)`, a scalar of at least float32."""
        scale = _proper(self.prior_scale(num_examples), self)
        w, _ = widen(w, "w")
        return -math.log(2 * scale) * math.prod(w.shape) - ops.sum(ops.absolute(w)) / scale

    def get_config(self) -> dict:
        return {"l1": self.l1, **super().get_config()}


@register
class L2(Entrywise):
    """`l2 * sum(w**2)`: weights shrink in proportion, which makes them small and none zero.

    The squared norm, without a factor 1/2, as in Keras.

    Args:
        l2: Non-negative strength, in units of loss per squared unit of weight. Defaults to 0.01, as in Keras.
        proximal: See `Penalty`.

    Example:

    >>> from keras_reg.regularizers import L2
    >>> penalty = L2(0.25)
    >>> float(penalty([1.0, -3.0]))
    2.5
    >>> [float(w) for w in penalty.prox([1.0, -3.0], step=2.0)]
    [0.5, -1.5]

    Reference: [Hoerl and Kennard, 1970](https://doi.org/10.1080/00401706.1970.10488634).
    """

    convex = True
    strength_names = ("l2",)

    def __init__(self, l2: float = 0.01, proximal: bool = False):
        super().__init__(proximal)
        self.l2 = non_negative(0.01 if l2 is None else l2, "l2")

    @property
    def strength(self) -> float:
        return self.l2

    def value(self, w: Any) -> Any:
        return self.l2 * ops.sum(ops.square(w))

    def entry_value(self, size: Any) -> Any:
        return self.l2 * ops.square(size)

    def prox(self, w: Any, step: Any) -> Any:
        return maps.shrink(w, step_size(step, w), self.l2)

    def derivative(self, size: Any) -> Any:
        return 2 * self.l2 * size

    @classmethod
    def from_prior(cls, stddev: float, num_examples: int, proximal: bool = False) -> "L2":
        """The strength that a Gaussian prior of mean 0 and this standard deviation on every weight means.

        `l2 = 1 / (2 * stddev**2 * num_examples)`, for a data loss that is the mean negative log-likelihood; see `L1.from_prior`.

        Args:
            stddev: Standard deviation of the prior, positive, in units of the weights.
            num_examples: Number of training examples, positive.

        Example:

        >>> from keras_reg.regularizers import L2
        >>> L2.from_prior(stddev=0.5, num_examples=1000).l2
        0.002
        """
        return cls(1 / (2 * greater_than(stddev, 0, "stddev") ** 2 * greater_than(num_examples, 0, "num_examples")), proximal)

    def prior_stddev(self, num_examples: int) -> float:
        """The standard deviation of the Gaussian prior that this strength means: the reverse of `from_prior`."""
        num_examples = greater_than(num_examples, 0, "num_examples")
        return math.sqrt(1 / (2 * self.l2 * num_examples)) if self.l2 else math.inf

    def log_prior(self, w: Any, num_examples: int) -> Any:
        """Log-density of the weights under that prior, a scalar of at least float32."""
        stddev = _proper(self.prior_stddev(num_examples), self)
        w, _ = widen(w, "w")
        return -math.log(stddev * math.sqrt(2 * math.pi)) * math.prod(w.shape) - ops.sum(ops.square(w / stddev)) / 2

    def get_config(self) -> dict:
        return {"l2": self.l2, **super().get_config()}


def _proper(width: float, penalty: Entrywise) -> float:
    if math.isinf(width):
        raise ValueError(f"{penalty!r} stands for a flat prior, which has no density: the strength must be greater than 0.")
    return width


@register
class L1L2(Entrywise):
    """`l1 * sum(|w|) + l2 * sum(w**2)`, the elastic net: zeros from the first part, shared weight among correlated inputs from the second.

    Args:
        l1: Non-negative strength of the absolute values. Defaults to 0, as in Keras.
        l2: Non-negative strength of the squares. Defaults to 0, as in Keras.
        proximal: See `Penalty`.

    `strength` is `l1 + l2`; `with_strength` and `strength_max` keep the ratio of the two.

    Example:

    >>> from keras_reg.regularizers import L1L2
    >>> float(L1L2(l1=0.5, l2=0.25)([1.0, -3.0]))
    4.5

    Reference: [Zou and Hastie, 2005](https://doi.org/10.1111/j.1467-9868.2005.00503.x).
    """

    convex = True
    strength_names = ("l1", "l2")

    def __init__(self, l1: float = 0.0, l2: float = 0.0, proximal: bool = False):
        super().__init__(proximal)
        self.l1 = non_negative(0.0 if l1 is None else l1, "l1")
        self.l2 = non_negative(0.0 if l2 is None else l2, "l2")

    @property
    def strength(self) -> float:
        return self.l1 + self.l2

    def entry_value(self, size: Any) -> Any:
        return size * (self.l1 + self.l2 * size)

    def prox(self, w: Any, step: Any) -> Any:
        step = step_size(step, w)
        return maps.shrink(maps.soft_threshold(w, step * self.l1), step, self.l2)

    def derivative(self, size: Any) -> Any:
        return self.l1 + 2 * self.l2 * size

    def get_config(self) -> dict:
        return {"l1": self.l1, "l2": self.l2, **super().get_config()}


l1 = L1
l2 = L2
l1_l2 = L1L2
