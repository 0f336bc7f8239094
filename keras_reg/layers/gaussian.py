"""Gates of a mean and a noise, closed where the noise is the larger."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg._registration import register
from keras_reg._validation import greater_than
from keras_reg.layers.gate import Gate
from keras_reg.ops.gates import gaussian_gate, gaussian_signal_share


@register
class GaussianGate(Gate):
    """Multiplies its input by Gaussian gates along `axis`: the variational information bottleneck.

    In training gate `g` is `mean_g + stddev_g * noise`, drawn anew for each example and batch; when the model predicts, it is `mean_g`, and
    exactly 0 where `variance_g > mean_g**2`. Its one weight, `gate`, holds the means, and after them along its first axis the logarithms
    of the variances; `keras_reg.regularizers.GaussianGatePenalty` is the information that gates let through.

    Gates close only if the penalty is scaled as its docstring says; `keras_reg.callbacks.TargetSparsity(…, of="gates")` closes as many as
    are wanted. `keras_reg.models.insert_gates` puts gates into a model with what is behind them as weights; `strip` and `compact` take
    them out again.

    Args:
        axis: The axis (or axes) that index the gates, as in `BatchNormalization`. `None`: a gate for each entry.
        initial_noise: Positive standard deviation at the start, where the means are 1. Defaults to 0.01.
        per_sample: Whether each example has gates of its own (default), or all of a batch the same.
        gate_regularizer: The penalty of the weight, `GaussianGatePenalty(…)`.
        seed: Seed of the noise.
        **kwargs: `name`, `dtype`, `trainable`, as of any layer. A frozen gate has no noise.

    Shapes: any, with known lengths along `axis`; the output has that of the input.

    Example:

    >>> import keras
    >>> from keras_reg.layers import GaussianGate
    >>> from keras_reg.regularizers import GaussianGatePenalty
    >>> gate = GaussianGate(gate_regularizer=GaussianGatePenalty(0.01 / 60000, weights=394))
    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, "relu"), gate, keras.layers.Dense(10)])
    >>> tuple(gate.gate.shape)  # means, and logarithms of variances
    (600,)

    Reference: [Dai, Zhu, Guo and Wipf, 2018](https://arxiv.org/abs/1802.10399).
    """

    halves = 2
    bounds = (-20.0, 20.0)

    def __init__(
        self,
        axis: Any = -1,
        initial_noise: float = 0.01,
        per_sample: bool = True,
        gate_regularizer: Any = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(axis, per_sample, gate_regularizer, seed, **kwargs)
        self.initial_noise = greater_than(initial_noise, 0, "initial_noise")

    def start(self, shape, dtype=None):
        half = (shape[0] // 2, *shape[1:])
        return ops.concatenate([ops.ones(half, dtype), ops.full(half, 2 * math.log(self.initial_noise), dtype)])

    def parameters(self) -> tuple[Any, Any]:
        """The means, and the logarithms of the variances."""
        return tuple(ops.split(self.gate.value, 2, axis=0))

    def sample(self, shape):
        mean, log_variance = self.parameters()
        noise = keras.random.normal(shape, dtype=self.gate.dtype, seed=self.seed_generator)
        return mean + ops.exp(log_variance / 2) * noise

    def gates(self):
        """The gates without noise, as they are when the model predicts."""
        return gaussian_gate(*self.parameters())

    def open_probability(self):
        """`mean**2 / (mean**2 + variance)`, the share of each gate that is no noise: at least one half where it is open."""
        return gaussian_signal_share(*self.parameters())

    def closed(self, weight):
        mean, log_variance = np.split(weight, 2)
        noise = 2 * np.log(np.maximum(np.abs(mean), np.finfo("float32").tiny)) + 1
        return np.concatenate([mean, np.maximum(log_variance, np.maximum(noise, self.bounds[0]))])

    def _check(self, regularizer):
        if hasattr(regularizer, "beta"):
            raise ValueError(
                f"Argument `gate_regularizer` of {self.name!r} must be for Gaussian gates. Received: gate_regularizer={regularizer!r}"
            )

    def get_config(self):
        return {**super().get_config(), "initial_noise": self.initial_noise}
