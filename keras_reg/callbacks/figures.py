"""Figures of several weights together, under the short names that `logs` and TensorBoard show."""

import math
from collections.abc import Iterable

import keras

from keras_reg.ops.counts import Counts


def shares(counts: Iterable[Counts]) -> dict[str, float]:
    """Shares of zeros and of zero groups, norms, and the number of weights that are not finite."""
    counts = list(counts)
    size, groups = (max(1, sum(values)) for values in ((own.size for own in counts), (own.groups for own in counts)))
    return {
        "zeros": sum(own.zeros for own in counts) / size,
        "near_zeros": sum(own.near_zeros for own in counts) / size,
        "zero_groups": sum(own.zero_groups for own in counts) / groups,
        "l1_norm": sum(own.l1 for own in counts),
        "l2_norm": math.hypot(*(own.l2 for own in counts)),
        "non_finite": float(sum(own.nan + own.infinite for own in counts)),
    }


def by_class(variables: dict[str, keras.Variable], penalties: dict[str, float | None]) -> dict[str, float]:
    """The sum of the penalties of each class, as `penalty/L1`."""
    sums: dict[str, float] = {}
    for name, value in penalties.items():
        if value is not None:
            key = f"penalty/{type(variables[name].regularizer).__name__}"
            sums[key] = sums.get(key, 0.0) + value
    return sums


class MeanPenalty:
    """The mean of the penalty over the steps since a first one, linear between the steps at which it is known."""

    def __init__(self, step: int, value: float):
        self.first = self.step = step
        self.value = value
        self.sum = 0.0

    def add(self, step: int, value: float) -> None:
        self.sum += (step - self.step) * (self.value + value) / 2
        self.step, self.value = step, value

    def mean(self) -> float:
        return self.sum / (self.step - self.first) if self.step > self.first else self.value
