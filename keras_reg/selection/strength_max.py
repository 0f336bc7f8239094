"""From which strength on everything penalised is zero."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_reg.callbacks.gradients import gradient_at
from keras_reg.contract import structure_of
from keras_reg.selection.data import Data
from keras_reg.selection.strengths import Strengths, check_model
from keras_reg.weights import layers_of, own_variables, read

CLOSE, MOST_STEPS = 1e-8, 200


@dataclass(frozen=True)
class StrengthMax:
    """What `strength_max` found; `float(found)` is that of the model."""

    strength: float
    """Of the model: the strength of its strongest penalty, the others at their ratios."""
    weights: dict[str, float]
    """Of each penalised weight, by its path."""

    def __float__(self) -> float:
        return self.strength


def strength_max(
    model: Any, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, batch_size: int | None = None
) -> StrengthMax:
    """The smallest strength at which everything penalised is zero: the dual norm of the gradient of the data loss at zero.

    For L1 that is `max |gradient|`, for the group lasso the largest norm of a group of it, and so on: `Penalty.strength_max`. The gradient
    is that of the compiled loss, without its penalties, over all the data, where the penalised weights are zero.

    Exact for a convex model of one layer: its other weights, such as the bias, are first fitted as they are best with the penalised ones
    at zero. Elsewhere it is a starting point for a grid. Where penalised weights follow each other, zeros in one hide the data from the
    next: then each is set to zero by itself, the other weights being as they are now; and where this hides the data still, as in front
    of a `relu` without biases, the gradient is that by the weight as it is now.

    Args:
        model: A built and compiled Keras model with penalties of keras_reg, proximal or not. It stays as it is.
        x, y, sample_weight, class_weight, batch_size: As `fit` takes them; a dataset that can be read more than once is taken as well.
            Batches are of 1,024 examples unless said otherwise.

    Returns:
        `strength`, of the whole model, and `weights`, by `variable.path`.

    Raises:
        ValueError: without a penalty, or with one for which zero is a minimum at none or at every strength.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.regularizers import L1
    >>> from keras_reg.selection import strength_max
    >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> y = np.array([5.0, 1.0, 3.0, 3.0])  # 3 + 2 * x[:, 0]
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_regularizer=L1(0.1))])
    >>> model.compile("sgd", "mse")
    >>> float(strength_max(model, x, y))
    2.0
    """
    check_model(model)
    strengths = Strengths(model)
    for path, variable in strengths.variables.items():
        if structure_of(variable.regularizer) is not None:
            raise ValueError(f"{variable.regularizer!r} on {path!r} has no largest useful strength: zeros end what is behind them.")
    mean_gradient = MeanGradient(model, Data.of(x, y, sample_weight, class_weight), batch_size or 1024)
    before = {path: v.regularizer.strength for path, v in strengths.variables.items()}
    try:
        strengths.set(0.0)
        gradients = _at_zero(mean_gradient, strengths, _beside(model, strengths))
    finally:
        strengths.restore(before)
    found = {}
    for path, variable in strengths.variables.items():
        try:
            found[path] = float(variable.regularizer.strength_max(gradients[path].astype("float32")))
        except NotImplementedError as error:
            raise ValueError(f"The penalty of {path!r} has no largest useful strength: give strengths as numbers. {error}") from None
    return StrengthMax(max(found[path] / ratio for path, ratio in strengths.ratios.items() if ratio), found)


class MeanGradient:
    """The gradient of the loss over all the data, as a function of the values of the trainable variables."""

    def __init__(self, model: Any, data: Data, batch_size: int):
        self.variables = list(model.trainable_variables)
        self.data, self.batch_size = data, batch_size
        self.gradient = gradient_at(model)

    def __call__(self, changed: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """By `id` of the variable; with other values for some of them."""
        values = [np.array(changed.get(id(v), read(v)), v.dtype) for v in self.variables]
        sums, number = [np.zeros(v.shape) for v in self.variables], 0
        for batch, size in self.data.batches(self.batch_size):
            for total, part in zip(sums, self.gradient(values, batch), strict=True):
                total += size * np.asarray(part, "float64")
            number += size
        return {id(v): total / number for v, total in zip(self.variables, sums, strict=True)}


def _at_zero(mean_gradient: MeanGradient, strengths: Strengths, beside: list[Any]) -> dict[str, np.ndarray]:
    zeros = {id(v): np.zeros(v.shape) for v in strengths.variables.values()}
    found = _fitted(mean_gradient, zeros, beside)
    if any(not found[key].any() for key in zeros):
        found = {key: mean_gradient({key: zero})[key] for key, zero in zeros.items()}
    if any(not found[key].any() for key in zeros):
        present = mean_gradient({})
        found = {key: gradient if gradient.any() else present[key] for key, gradient in found.items()}
    return {path: found[id(v)] for path, v in strengths.variables.items()}


def _beside(model: Any, strengths: Strengths) -> list[Any]:
    """The other weights of a model of one layer."""
    trained = [layer for layer in layers_of(model) if any(v.trainable for v in own_variables(layer))]
    penalised = {id(v) for v in strengths.variables.values()}
    return [v for v in own_variables(trained[0]) if v.trainable and id(v) not in penalised] if len(trained) == 1 else []


def _fitted(mean_gradient: MeanGradient, fixed: dict[int, np.ndarray], free: list[Any]) -> dict[int, np.ndarray]:
    """The gradient where that by the `free` weights is zero, by Barzilai and Borwein's steps."""
    values = {id(v): np.array(read(v), "float64") for v in free}
    gradients = mean_gradient({**fixed, **values})
    if not free:
        return gradients

    def flat(arrays):
        return np.concatenate([arrays[id(v)].ravel() for v in free])

    slope, step = flat(gradients), 1.0
    scale = max(np.abs(slope).max(), 1e-12)
    best, least = gradients, np.inf
    for _ in range(MOST_STEPS):
        values = {id(v): values[id(v)] - step * gradients[id(v)] for v in free}
        gradients = mean_gradient({**fixed, **values})
        change, before, slope = -step * slope, slope, flat(gradients)
        if np.abs(slope).max() < least:
            best, least = gradients, np.abs(slope).max()
        bend = change @ (slope - before)
        if least < CLOSE * scale or bend == 0:
            break
        step = abs(change @ change / bend)
    return best
