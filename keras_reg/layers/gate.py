"""What all gates share: where they are, when they are noisy, and how they are saved."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg._loading import regularizer_from
from keras_reg._validation import axes, boolean, shown, whole_number
from keras_reg.ops.groups import group_axes
from keras_reg.weights import read


class Gate(keras.layers.Layer):
    """Multiplies its input by gates along `axis`: by random ones in training, otherwise by fixed ones.

    A subclass writes `sample`, `gates`, `open_probability`, `closed`, and how its weight `gate` starts. A frozen gate (`trainable = False`)
    is fixed in training too.

    Attributes:
        halves: How many numbers a gate has.
        bounds: Between which numbers the optimizer may move the weight.
    """

    halves = 1
    bounds = (-10.0, 10.0)

    def __init__(self, axis: Any, per_sample: bool, gate_regularizer: Any, seed: int | None, **kwargs):
        super().__init__(**kwargs)
        self.axis = None if axis is None else axes(axis, "axis")
        self.per_sample = boolean(per_sample, "per_sample")
        self.gate_regularizer = _regularizer(gate_regularizer)
        self.seed = whole_number(seed, "seed", at_least=0, or_none=True)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.supports_masking = True

    def start(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """The initial values of a weight of this shape."""
        raise NotImplementedError

    def sample(self, shape: tuple) -> Any:
        """Random gates of a shape that the gates broadcast to."""
        raise NotImplementedError

    def gates(self) -> Any:
        """The gates without noise, as they are when the model predicts."""
        raise NotImplementedError

    def open_probability(self) -> Any:
        """How likely each gate is open, between 0 and 1."""
        raise NotImplementedError

    def closed(self, weight: Any) -> Any:
        """What the weight is, as an array, where all gates are closed, and far enough that they are seldom open in training."""
        raise NotImplementedError

    def close(self, which: Any) -> None:
        """Close the gates for which a boolean array of their shape is true. Training may open them again."""
        weight = read(self.gate)
        self.gate.assign(np.where(np.concatenate([which] * self.halves), self.closed(weight), weight))

    def indexed(self, rank: int) -> tuple[int, ...]:
        """The axes of an input of this rank that index the gates."""
        every = tuple(range(1 if self.per_sample else 0, rank))
        return every if self.axis is None else group_axes(self.axis, rank)[0]

    def build(self, input_shape):
        rank = len(input_shape)
        own = self.indexed(rank)
        if self.per_sample and 0 in own:
            raise ValueError(
                f"Argument `axis` of {self.name!r} must not name axis 0, of the examples, unless `per_sample=False` (as for gates on a "
                f"kernel). Received: axis={self.axis} for inputs of shape {tuple(input_shape)}"
            )
        lengths = tuple(input_shape[axis] for axis in own)
        if None in lengths or not lengths:
            raise ValueError(
                f"{self.name!r} needs to know how many gates there are: the input must have a fixed length along axis={self.axis}. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )
        self._check(self.gate_regularizer)
        self.gate = self.add_weight(
            name="gate",
            shape=lengths if self.halves == 1 else (self.halves * lengths[0], *lengths[1:]),
            initializer=self.start,
            regularizer=self.gate_regularizer,
            constraint=_Between(*self.bounds),
            autocast=False,  # half precision moves where gates close
        )

    def _check(self, regularizer: Any) -> None:
        """Refuse a penalty that is for other gates."""

    def spread(self, gates: Any, rank: int) -> Any:
        """Gates in a shape that broadcasts to inputs of this rank; an axis more is that of the examples."""
        own = self.indexed(rank)
        shape = [1] * rank
        for axis, length in zip(own[::-1], tuple(gates.shape)[::-1], strict=False):
            shape[axis] = length
        if len(gates.shape) > len(own):
            shape[0] = -1
        return ops.reshape(gates, shape)

    def call(self, inputs, training=None):
        rank = len(inputs.shape)
        if training and self.trainable:
            examples = (ops.shape(inputs)[0],) if self.per_sample else ()
            gates = self.sample((*examples, *(inputs.shape[axis] for axis in self.indexed(rank))))
        else:
            gates = self.gates()
        gates = self.spread(gates, rank)
        return inputs * ops.cast(gates, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis,
            "per_sample": self.per_sample,
            "gate_regularizer": keras.regularizers.serialize(self.gate_regularizer),
            "seed": self.seed,
        }


class _Between(keras.constraints.Constraint):
    """Keeps a weight where its gradient does not vanish. It has no config: the layer makes it itself."""

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high

    def __call__(self, w: Any) -> Any:
        return ops.clip(w, self.low, self.high)


def _regularizer(value: Any) -> Any:
    if isinstance(value, dict):
        return regularizer_from(value, "gate_regularizer")
    try:
        found = keras.regularizers.get(value)
    except (ValueError, TypeError):
        found = value
    if found is not None and not isinstance(found, keras.regularizers.Regularizer):
        raise TypeError(f"Argument `gate_regularizer` must be a regularizer or None. Received: gate_regularizer={shown(value)}")
    return found
