"""Gates that are exactly 0 or exactly 1 with a probability of their own."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg._registration import register
from keras_reg._validation import real_number
from keras_reg.layers.gate import Gate
from keras_reg.ops.gates import BETA, GAMMA, ZETA, hard_concrete_gate, hard_concrete_open_probability, hard_concrete_sample, stretch

ROOM = 2.2
"""How far `log_alpha` may move beyond where a gate is 0 or 1."""


@register
class HardConcreteGate(Gate):
    """Multiplies its input by hard-concrete gates along `axis`: an L0 penalty that gradients can follow.

    In training gate `g` is `clip(s * (zeta - gamma) + gamma, 0, 1)` with `s = sigmoid((log(u) - log(1 - u) + log_alpha_g) / beta)` and `u`
    uniform, drawn anew for each example and batch; when the model predicts, it is `clip(sigmoid(log_alpha_g) * (zeta - gamma) + gamma, 0,
    1)`. Its one weight, `gate`, holds `log_alpha`; `keras_reg.regularizers.HardConcreteL0` is the expected number of open gates.

    Gates close only if the penalty is scaled as its docstring says, by the number of training examples and by what is behind a gate, and if
    there are steps enough: with Adam `log_alpha` moves by about the learning rate a step, and has 4.8 to go from `initial_open=0.92` to 0.
    `keras_reg.callbacks.TargetSparsity(…, of="gates")` closes as many as are wanted. `keras_reg.models.insert_gates` puts gates into a
    model with what is behind them as weights; `strip` and `compact` take them out again.

    Args:
        axis: The axis (or axes) that index the gates, as in `BatchNormalization`. `None`: a gate for each entry.
        beta: Temperature, positive.
        gamma: Lower end of the stretched interval, below 0.
        zeta: Upper end, above 1.
        initial_open: `sigmoid(log_alpha)` at the start, between 0 and 1, both excluded. Defaults to 0.92, where the gates without noise are
            just 1, so that they change nothing yet. The optimizer keeps `log_alpha` between -4.6 and 4.6 (farther apart where `gamma` and
            `zeta` need it), from where a gate can come back.
        per_sample: Whether each example has gates of its own (default), or all of a batch the same.
        gate_regularizer: The penalty of the weight, `HardConcreteL0(…)` with the same `beta`, `gamma` and `zeta`.
        seed: Seed of the noise.
        **kwargs: `name`, `dtype`, `trainable`, as of any layer. A frozen gate has no noise.

    Shapes: any, with known lengths along `axis`; the output has that of the input.

    Example:

    >>> import keras
    >>> from keras_reg.layers import HardConcreteGate
    >>> from keras_reg.regularizers import HardConcreteL0
    >>> gate = HardConcreteGate(gate_regularizer=HardConcreteL0(0.5 / 60000, weights=394))  # inputs and outputs of a hidden unit
    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, "relu"), gate, keras.layers.Dense(10)])
    >>> [round(float(keras.ops.convert_to_numpy(z)[0]), 2) for z in (gate.gates(), gate.open_probability())]
    [1.0, 0.98]

    Reference: [Louizos, Welling and Kingma, 2018](https://arxiv.org/abs/1712.01312).
    """

    def __init__(
        self,
        axis: Any = -1,
        beta: float = BETA,
        gamma: float = GAMMA,
        zeta: float = ZETA,
        initial_open: float = 0.92,
        per_sample: bool = True,
        gate_regularizer: Any = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(axis, per_sample, gate_regularizer, seed, **kwargs)
        self.beta, self.gamma, self.zeta = stretch(beta, gamma, zeta)
        self.bounds = (min(-4.6, self._zero_from - ROOM), max(4.6, self._one_from + ROOM))
        self.initial_open = real_number(initial_open, "initial_open")
        if not 0 < self.initial_open < 1:
            raise ValueError(f"Argument `initial_open` must be between 0 and 1, both excluded. Received: initial_open={initial_open}")

    def start(self, shape, dtype=None):
        return ops.full(shape, math.log(self.initial_open / (1 - self.initial_open)), dtype)

    @property
    def _zero_from(self) -> float:
        return math.log(-self.gamma / self.zeta)

    @property
    def _one_from(self) -> float:
        return math.log((1 - self.gamma) / (self.zeta - 1))

    def sample(self, shape):
        uniform = keras.random.uniform(shape, dtype=self.gate.dtype, seed=self.seed_generator)
        return hard_concrete_sample(self.gate.value, uniform, self.beta, self.gamma, self.zeta)

    def gates(self):
        """The gates without noise, as they are when the model predicts."""
        return hard_concrete_gate(self.gate.value, self.gamma, self.zeta)

    def open_probability(self):
        """The probability of each gate to be other than 0 in training; their sum is the expected number of open gates."""
        return hard_concrete_open_probability(self.gate.value, self.beta, self.gamma, self.zeta)

    def closed(self, weight):
        return np.minimum(weight, self._zero_from - 1)

    def _check(self, regularizer):
        own = {"beta": self.beta, "gamma": self.gamma, "zeta": self.zeta}
        theirs = {name: getattr(regularizer, name, value) for name, value in own.items()}
        if getattr(regularizer, "halves", 1) != 1 or theirs != own:
            raise ValueError(
                f"Argument `gate_regularizer` of {self.name!r} must be for its gates, with beta={self.beta:.4g}, gamma={self.gamma:g}, "
                f"zeta={self.zeta:g}. Received: gate_regularizer={regularizer!r}"
            )

    def get_config(self):
        own = {"beta": self.beta, "gamma": self.gamma, "zeta": self.zeta, "initial_open": self.initial_open}
        return {**super().get_config(), **own}
