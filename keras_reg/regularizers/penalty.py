"""The contract that every penalty keeps."""

import copy
from typing import Any

import keras
from keras import KerasTensor, ops

from keras_reg import binding
from keras_reg._registration import register
from keras_reg._validation import boolean, floating_tensor, non_negative
from keras_reg.ops.dtypes import widen


@register
class Penalty(keras.regularizers.Regularizer):
    """Base of all penalties: a Keras regularizer that also knows its proximal map.

    A subclass is registered with Keras (`keras.saving.register_keras_serializable`), has the arguments `strength` and `proximal`, calls
    this constructor, and writes

    - `value(w)`, with `keras.ops` alone: it is compiled;
    - `get_config()`, with the arguments of its constructor;
    - as much of the rest of the contract as it has: `prox(w, step)`, `subdiff_distance`, `strength_max`. Without a `prox`,
      `proximal=True` is refused.

    Nothing that depends on a strength may be computed in the constructor: strengths move, and may be tensors in `value` and `prox`.
    `keras_reg.testing.check_penalty` names what has been forgotten.

    Args:
        proximal: `False` (default): an ordinary Keras regularizer, whose gradient joins that of the loss.
            `True`: `keras_reg.optimizers.Proximal` applies `prox` after each update, which is what reaches exact zeros; the value
            still shows in the loss, without a gradient. Under any other optimizer the gradient acts as before and a warning says so.

    Class attributes:
        convex: Whether the penalty is convex for every strength.
        radial: Whether it depends on the magnitudes of the weights alone, so that `Grouped` can apply it to group norms.
        constraint: Whether it sets how many weights are 0 instead of what they cost: its value is 0, its prox a projection, its strength
            the share that is dropped.
        strength_names: The config entries that scale the penalty; `strength` is their sum.

    Example:

    >>> import keras
    >>> from keras_reg.regularizers import Penalty
    >>> from keras_reg.testing import check_penalty
    >>> @keras.saving.register_keras_serializable("my_package")
    ... class Huber(Penalty):
    ...     convex = radial = True
    ...     def __init__(self, strength, proximal=False):
    ...         super().__init__(proximal)
    ...         self.strength = float(strength)
    ...     def value(self, w):
    ...         size = keras.ops.absolute(w)
    ...         return self.strength * keras.ops.sum(keras.ops.where(size < 1, size**2 / 2, size - 0.5))
    ...     def get_config(self):
    ...         return {"strength": self.strength, "proximal": self.proximal}
    >>> float(Huber(0.5)([3.0, -1.0, 0.0]))
    1.5
    >>> check_penalty(Huber(0.5), shape=(4, 3))
    """

    convex: bool = False
    radial: bool = False
    constraint: bool = False
    strength_names: tuple[str, ...] = ("strength",)

    def __init__(self, proximal: bool = False):
        self.proximal = boolean(proximal, "proximal")
        if self.proximal and type(self).prox is Penalty.prox:
            raise ValueError(f"Argument `proximal` must be False for {type(self).__name__}, which has no prox. Received: proximal=True")

    # What a subclass writes.

    def value(self, w: Any) -> Any:
        """The penalty of a tensor of float32 or wider, differentiable in it."""
        raise NotImplementedError(f"{type(self).__name__} does not define `value(w)`.")

    def get_config(self) -> dict:
        return {"proximal": self.proximal}

    # What it may write.

    def prox(self, w: Any, step: Any) -> Any:
        """The minimiser of `(x - w)**2 / (2 * step) + penalty(x)` over `x`.

        Args:
            w: Weights: a float tensor of any shape.
            step: Non-negative: a number, or a tensor like `w` with a step for each weight.

        Returns:
            A tensor of the shape and dtype of `w`.
        """
        raise NotImplementedError(f"{self!r} has no prox: train it with `proximal=False`.")

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        """How far `-grad` is from the subdifferential of the penalty at `w`: 0 where `w` is stationary.

        Args:
            w: Weights.
            grad: Gradient of the data loss at `w`, of the same shape.

        Returns:
            A tensor like `w` for entrywise penalties; one distance per group (indexed by `axis`) for group penalties.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `subdiff_distance(w, grad)`.")

    def support(self, w: Any) -> Any:
        """A boolean tensor like `w`: which weights the penalty counts as kept.

        Where it is `False`, the weight is exactly 0. Group penalties keep or drop whole groups.
        """
        return ops.not_equal(floating_tensor(w, "w"), 0)

    def strength_max(self, grad_at_zero: Any) -> float:
        """The largest useful strength: from it on, all weights zero is stationary.

        Args:
            grad_at_zero: Gradient of the data loss where the penalised weights are zero.

        Returns:
            A Python float, to give to `with_strength`; where a penalty has several strengths it is their sum at their present ratio.
        """
        raise NotImplementedError(f"{self!r} has no largest useful strength: zero is stationary for none, or for every one.")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a `ValueError` where weights of this shape cannot be penalised. Called when a layer is built."""
        del shape  # any will do

    def stacked(self) -> "Penalty | None":
        """The penalty of several weights of one shape, stacked along a new first axis: the sum of what it is for each; `None` if unknown.

        With it, `Proximal` computes their proxes in one call. Strengths then are tensors of shape `(n, 1, ..., 1)`.
        """
        return None

    # What only a sum of penalties has otherwise.

    @property
    def by_prox(self) -> "Penalty":
        """What of a proximal penalty its prox applies."""
        return self

    @property
    def by_gradient(self) -> "Penalty | None":
        """What of a proximal penalty its gradient applies."""
        return None

    # What every penalty has.

    def __add__(self, other: Any) -> "Penalty":
        """The sum of penalties, a `keras_reg.regularizers.Sum`: each acts in its own way."""
        from keras_reg.regularizers.sums import Sum  # which is a penalty itself

        return Sum([self, other]) if isinstance(other, keras.regularizers.Regularizer) else NotImplemented

    def __radd__(self, other: Any) -> "Penalty":
        if isinstance(other, int) and other == 0:  # where Python's `sum` starts
            return self
        from keras_reg.regularizers.sums import Sum

        return Sum([other, self]) if isinstance(other, keras.regularizers.Regularizer) else NotImplemented

    def __call__(self, w: Any) -> Any:
        """The penalty of `w`.

        Args:
            w: Weights: a float tensor, variable, array or nested list of any shape.

        Returns:
            A scalar in the dtype of `w`, summed in float32 or wider.
        """
        return binding.called(self, w)

    def checked(self, w: Any) -> Any:
        """Weights as a tensor that the penalty can be asked of."""
        w = floating_tensor(w, "w")
        self.check_shape(w.shape)
        return w

    def value_of(self, w: Any) -> Any:
        """The value of a tensor of any float dtype, in that dtype."""
        if isinstance(w, KerasTensor):
            return self.value(w)
        wide, dtype = widen(w)
        return ops.cast(self.value(wide), dtype)

    def with_strength(self, strength: float) -> "Penalty":
        """A copy with another strength; several strengths keep their ratio."""
        strength = non_negative(strength, "strength")
        config = self.get_config()
        if len(self.strength_names) == 1:
            config[self.strength_names[0]] = strength
            return type(self).from_config(config)
        total = sum(config[name] for name in self.strength_names)
        if total == 0:
            if strength == 0:
                return type(self).from_config(config)
            raise ValueError(
                f"The strengths of {self!r} are all 0, so they have no ratio to keep: build the penalty with the strengths wanted."
            )
        for name in self.strength_names:
            config[name] = strength * (config[name] / total)
        return type(self).from_config(config)

    def set_strength(self, strength: float) -> None:
        """Change the strength of this very penalty, on every weight that it is on; several strengths keep their ratio.

        What has been trained so far is trained on with the new strength: steps that were compiled with the old one are compiled anew. To
        move strengths often, or on some of the weights, use `keras_reg.callbacks.StrengthScheduler` or `Proximal.set_strength`.
        """
        self.__dict__.update(self.with_strength(strength).__dict__)
        binding.reconfigured(self)

    def at_strength(self, strength: Any) -> "Penalty":
        """A copy whose strength is a scalar tensor, which can change between the steps of a compiled function.

        Several strengths keep their ratio. `value` and `prox` take it as they take a number.
        """
        moved = copy.copy(self)
        for name in self.strength_names:
            single = len(self.strength_names) == 1
            setattr(moved, name, strength if single else strength * (getattr(self, name) / self.strength if self.strength else 0.0))
        return moved

    def __repr__(self) -> str:
        # An inner penalty reads better than its config.
        arguments = {name: getattr(self, name, value) for name, value in self.get_config().items()}
        if arguments.get("proximal") is False:
            del arguments["proximal"]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
