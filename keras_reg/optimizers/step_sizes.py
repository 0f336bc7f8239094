"""How far the prox steps after an update: `step` in `argmin_x (x - w)**2 / (2 * step) + penalty(x)`.

In the optimizer's own metric the step is what the optimizer multiplies an unchanging gradient by. Then the weights rest where
the gradient of the loss and the penalty balance, which is the optimum of their sum.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def momentum(inner: Any) -> float:
    """The share of its last update that the optimizer repeats, where it adds up past updates instead of averaging past gradients."""
    return inner.momentum if isinstance(inner, (keras.optimizers.SGD, keras.optimizers.RMSprop)) else 0.0


def accumulated(inner: Any, past: Any, learning_rate: Any) -> tuple[Any, Any]:
    """By what a gradient that never changed would have been multiplied so far, and by what in this update.

    The first is to be handed in as `past` at the next update. A falling learning rate leaves it behind: what is still moving from
    larger rates meets the prox of larger rates.
    """
    total = momentum(inner) * past + learning_rate
    return total, momentum(inner) * total + learning_rate if getattr(inner, "nesterov", False) else total


def preconditioned(inner: Any) -> Callable[[Any, Any, Any], tuple] | None:
    """`step, *slots = result(inner, variable, rate)`, where `step(*slots)` has one for every weight and each comes of the same entry of
    the slots; `None` where the optimizer has no diagonal metric.

    To be called after the update, before the iterations are counted on.
    """
    for kind, step in _STEPS.items():
        if isinstance(inner, kind):
            return step
    return None


def _power(base: float, inner: Any, like: Any) -> Any:
    return ops.power(ops.cast(base, like.dtype), ops.cast(inner.iterations + 1, like.dtype))


def _adam(inner: Any, variable: Any, rate: Any) -> tuple:
    slots = inner._velocity_hats if getattr(inner, "amsgrad", False) else inner._velocities
    corrected = rate * ops.sqrt(1 - _power(inner.beta_2, inner, rate))
    return lambda velocity: corrected / (ops.sqrt(velocity) + inner.epsilon), _slot(inner, slots, variable, rate)


def _nadam(inner: Any, variable: Any, rate: Any) -> tuple:
    seen = 1 - _power(inner.beta_2, inner, rate)
    return lambda velocity: rate / (ops.sqrt(velocity / seen) + inner.epsilon), _slot(inner, inner._velocities, variable, rate)


def _adamax(inner: Any, variable: Any, rate: Any) -> tuple:
    return lambda largest: rate / (largest + inner.epsilon), _slot(inner, inner._u, variable, rate)


def _rmsprop(inner: Any, variable: Any, rate: Any) -> tuple:
    square = _slot(inner, inner._velocities, variable, rate)
    if not inner.centered:
        return lambda square: rate / ops.sqrt(square + inner.epsilon), square
    mean = _slot(inner, inner._average_gradients, variable, rate)
    return lambda square, mean: rate / ops.sqrt(square - ops.square(mean) + inner.epsilon), square, mean


def _adagrad(inner: Any, variable: Any, rate: Any) -> tuple:
    return lambda total: rate / ops.sqrt(total + inner.epsilon), _slot(inner, inner._accumulators, variable, rate)


def _ftrl(inner: Any, variable: Any, rate: Any) -> tuple:
    return lambda total: 1 / _ftrl_curvature(inner, total, rate), _slot(inner, inner._accumulators, variable, rate)


def _ftrl_curvature(inner: Any, total: Any, rate: Any) -> Any:
    l2 = inner.l2_regularization_strength + inner.beta / (2 * rate)
    return ops.power(total, -inner.learning_rate_power) / rate + 2 * l2


def _slot(inner: Any, slots: list, variable: Any, like: Any) -> Any:
    return ops.cast(slots[inner._get_variable_index(variable)].value, like.dtype)


def worth_compiling(inner: Any, with_prox: bool) -> bool:
    """Whether its update of a weight is a few plain operations, of which TensorFlow makes a pass each."""
    if type(inner) not in (*_STEPS, keras.optimizers.AdamW, keras.optimizers.SGD, keras.optimizers.Adadelta, keras.optimizers.Lion):
        return False
    return with_prox or type(inner) is not keras.optimizers.SGD or inner.momentum != 0


def remembers(inner: Any) -> bool:
    """Whether the optimizer computes the weights anew from what it remembers, so that it has to be told what the prox does to them."""
    return isinstance(inner, keras.optimizers.Ftrl)


def remember(inner: Any, variable: Any, before: Any, after: Any, learning_rate: Any) -> None:
    """Tell the optimizer, if it remembers, what the prox does to the variable."""
    if remembers(inner):
        linear = inner._linears[inner._get_variable_index(variable)]
        total = _slot(inner, inner._accumulators, variable, learning_rate)
        linear.assign_sub(ops.cast(_ftrl_curvature(inner, total, learning_rate) * (after - before), linear.dtype))


_STEPS = {
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Adam: _adam,  # and AdamW
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
    keras.optimizers.Ftrl: _ftrl,
}
