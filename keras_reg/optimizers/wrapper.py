"""An optimizer around another one, which keeps all that Keras's optimizers have in common."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_reg._validation import shown

REFUSED = {
    keras.optimizers.LossScaleOptimizer: "it belongs outside: `LossScaleOptimizer(Proximal(optimizer))`",
}
for _name, _reason in {
    "MultiOptimizer": "it belongs outside: give each of its optimizers a `Proximal` of its own",
    "ScheduleFreeAdamW": "it trains an interpolation of two sequences of weights, and a prox on that is a prox on neither",
}.items():
    if hasattr(keras.optimizers, _name):  # newer Keras
        REFUSED[getattr(keras.optimizers, _name)] = _reason
OF_THE_INNER = (
    "learning_rate",
    "weight_decay",
    "clipnorm",
    "global_clipnorm",
    "clipvalue",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)
"""Arguments of every Keras optimizer that the inner one keeps."""


class Wrapper(keras.optimizers.Optimizer):
    """What is set and read of it is that of the inner optimizer.

    Args:
        inner_optimizer: As `checked` gives it.
        name: Its own name.
    """

    def __init__(self, inner_optimizer: Any, name: str | None):
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer

    @classmethod
    def checked(cls, inner: Any, others: dict[str, Any]) -> Any:
        """The optimizer that an argument `inner_optimizer` means, beside other arguments, of which there may be none."""
        for argument, value in others.items():
            if argument not in OF_THE_INNER:
                raise TypeError(f"{cls.__name__} has no argument `{argument}`. Received: {argument}={value!r}")
            raise ValueError(f"Argument `{argument}` belongs to the inner optimizer: set it there. Received: {argument}={value!r}")
        return _optimizer(inner)

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        super().apply_gradients(grads_and_vars)
        return self.iterations

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)


def _optimizer(inner: Any) -> Any:
    try:
        optimizer = keras.optimizers.get(inner)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        optimizer, cause = None, error
    else:
        cause = None
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"Argument `inner_optimizer` must be a Keras optimizer, its name or its config. Received: inner_optimizer={shown(inner)}"
        ) from cause
    if isinstance(optimizer, Wrapper):
        raise ValueError(f"Argument `inner_optimizer` must not be a {type(optimizer).__name__} itself. Received: inner_optimizer={inner!r}")
    for kind, reason in REFUSED.items():
        if isinstance(optimizer, kind):
            raise ValueError(f"Argument `inner_optimizer` must not be {kind.__name__}: {reason}. Received: inner_optimizer={inner!r}")
    return optimizer


def _forwarded(name: str) -> property:
    def read(self):
        return getattr(self.inner_optimizer, name)

    def write(self, value):
        # Keras's constructor sets its own before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            setattr(self.inner_optimizer, name, value)

    return property(read, write)


for _name in (*OF_THE_INNER[1:], "_model_variables_moving_average"):
    setattr(Wrapper, _name, _forwarded(_name))
