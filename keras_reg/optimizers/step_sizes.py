"""How far the prox steps after an update: `step` in `argmin_x (x - w)**2 / (2 * step) + penalty(x)`.

In the optimizer's own metric the step is what the optimizer multiplies an unchanging gradient by. Then the weights rest where
the gradient of the loss and the penalty balance, which is the optimum of their sum.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_reg.ops.dtypes import like, widen
from keras_reg.optimizers.together import stacked


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


def preconditioned(inner: Any) -> Callable[[Any, Any], Callable[[Any], Any]] | None:
    """`steps = result(inner, rate)`, and `steps(variables)` has a step for each weight, of several variables stacked; `None` where the
    optimizer has no diagonal metric.

    To be called after the update, before the iterations are counted on; once for all variables, which share what is the same for all.
    """
    for kind, steps in _STEPS.items():
        if isinstance(inner, kind):
            return steps
    return None


def _adam(inner: Any, rate: Any) -> Callable:
    velocity = _reader(inner, inner._velocity_hats if getattr(inner, "amsgrad", False) else inner._velocities)
    rate = rate * ops.sqrt(_seen(inner, rate))
    return lambda variables: like(v := velocity(variables), rate) / (ops.sqrt(v) + inner.epsilon)


def _nadam(inner: Any, rate: Any) -> Callable:
    velocity, seen = _reader(inner, inner._velocities), _seen(inner, rate)
    return lambda variables: like(v := velocity(variables), rate) / (ops.sqrt(v / like(v, seen)) + inner.epsilon)


def _adamax(inner: Any, rate: Any) -> Callable:
    largest = _reader(inner, inner._u)
    return lambda variables: like(u := largest(variables), rate) / (u + inner.epsilon)


def _rmsprop(inner: Any, rate: Any) -> Callable:
    square = _reader(inner, inner._velocities)
    if not inner.centered:
        return lambda variables: like(v := square(variables), rate) / ops.sqrt(v + inner.epsilon)
    mean = _reader(inner, inner._average_gradients)
    return lambda variables: like(v := square(variables), rate) / ops.sqrt(v - ops.square(mean(variables)) + inner.epsilon)


def _adagrad(inner: Any, rate: Any) -> Callable:
    total = _reader(inner, inner._accumulators)
    return lambda variables: like(v := total(variables), rate) / ops.sqrt(v + inner.epsilon)


def _ftrl(inner: Any, rate: Any) -> Callable:
    return lambda variables: 1 / _ftrl_curvature(inner, variables, rate)


def _ftrl_curvature(inner: Any, variables: list[Any], rate: Any) -> Any:
    total = _reader(inner, inner._accumulators)(variables)
    rate = like(total, rate)
    return total**-inner.learning_rate_power / rate + (2 * inner.l2_regularization_strength + inner.beta / rate)


def _seen(inner: Any, rate: Any) -> Any:
    """The weights that an average of squares which started at 0 has given so far."""
    return 1 - inner.beta_2 ** ops.cast(inner.iterations + 1, rate.dtype)


def _reader(inner: Any, slots: list) -> Callable[[list[Any]], Any]:
    """What the optimizer remembers of variables, in float32 or wider."""
    return lambda variables: widen(stacked([slots[inner._get_variable_index(variable)].value for variable in variables]))[0]


def remember(inner: Any, variable: Any, after: Any, rate: Any) -> None:
    """Tell the optimizer, if it computes the weights anew from what it remembers, what the prox does to the variable."""
    if isinstance(inner, keras.optimizers.Ftrl):
        linear = inner._linears[inner._get_variable_index(variable)]
        linear.assign_sub(ops.cast(_ftrl_curvature(inner, [variable], rate) * (after - variable.value), linear.dtype))


_STEPS = {
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Adam: _adam,  # and AdamW
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
    keras.optimizers.Ftrl: _ftrl,
}
