"""The weights that the laws are tried on, and how a penalty is called on them."""

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_reg.regularizers import Penalty
from keras_reg.testing.autodiff import compiled, value_and_gradient


class Case:
    """One penalty, one shape and a source of random numbers."""

    def __init__(self, penalty: Penalty, shape: tuple[int, ...], rng: np.random.Generator):
        self.penalty, self.shape, self.rng = penalty, shape, rng
        self._value = compiled(self.call)
        self._values = compiled(functools.partial(ops.map, self.call))

    def call(self, w: Any, penalty: Penalty | None = None) -> Any:
        with warnings.catch_warnings():
            # That nothing applies the prox is what the warning says, and is so here.
            warnings.filterwarnings("ignore", message=".*is proximal, but no optimizer.*")
            return (penalty or self.penalty)(w)

    def value(self, w: np.ndarray) -> float:
        return float(ops.convert_to_numpy(self._value(ops.convert_to_tensor(w))))

    def values(self, candidates: list[np.ndarray]) -> np.ndarray:
        return ops.convert_to_numpy(self._values(ops.convert_to_tensor(np.stack(candidates)))).astype("float64")

    def value_and_gradient(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        return value_and_gradient(self.call, w)

    @functools.cached_property
    def has_prox(self) -> bool:
        return defined(self.penalty.prox, np.ones(self.shape, "float32"), 1.0) is not None

    def prox(self, w: np.ndarray, step: Any) -> np.ndarray:
        step = ops.convert_to_tensor(step) if isinstance(step, np.ndarray) else step
        return ops.convert_to_numpy(self.penalty.prox(ops.convert_to_tensor(w), step))

    def normal(self, scale: float = 1.0) -> np.ndarray:
        return (self.rng.normal(size=self.shape) * scale).astype("float32")

    def slices(self) -> Iterator[tuple]:
        """Index of every slice along every axis: whatever `axis` a group penalty has, its groups are among unions of these."""
        for axis, size in enumerate(self.shape):
            for index in range(size):
                yield (slice(None),) * axis + (index,)

    def with_zeros(self) -> Iterator[np.ndarray]:
        """The zero vector, single zeros, and each slice zero in turn."""
        yield np.zeros(self.shape, "float32")
        yield self.normal() * (self.rng.random(self.shape) < 0.5)
        for index in self.slices():
            w = self.normal()
            w[index] = 0
            yield w

    def extremes(self) -> Iterator[np.ndarray]:
        """Subnormal, tiny, large and mixed weights; the squares of larger ones overflow."""
        for size in (1e-42, 1e-37, 1e-25, 1e-15, 1e15):
            yield np.where(self.rng.random(self.shape) < 0.5, -size, size).astype("float32")
        yield (self.normal() * 10.0 ** self.rng.uniform(-40, 15, self.shape)).astype("float32")


def defined(method: Any, *arguments: Any) -> Any:
    """What the method returns, or None where it is not defined."""
    return defined_or(NotImplementedError, method, *arguments)


def defined_or(error: type, method: Any, *arguments: Any) -> Any:
    """What the method returns, or None where it raises this."""
    try:
        return method(*arguments)
    except error:
        return None


def show(values: Any) -> str:
    return np.array2string(np.asarray(values), precision=6, separator=", ", threshold=40).replace("\n", "")
