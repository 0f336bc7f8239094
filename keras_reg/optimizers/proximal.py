"""The optimizer that applies the proximal maps of the penalties after every update of another one."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_reg._registration import register
from keras_reg._validation import non_negative, one_of, shown
from keras_reg.ops.fused import compiled, in_blocks, in_parts, in_place, joins, take_off
from keras_reg.optimizers import step_sizes
from keras_reg.optimizers.claims import Claims, is_proximal, structure_of, wide
from keras_reg.regularizers import Penalty
from keras_reg.regularizers.structural import Groups

METRICS = ("auto", "euclidean", "preconditioned")
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


@register
class Proximal(keras.optimizers.Optimizer):
    """Any Keras optimizer, followed after each update by the proximal map of every penalty with `proximal=True`.

    With `z` the weights after an update of the inner optimizer, each penalised variable becomes

    `argmin_x sum_i (x_i - z_i)**2 / (2 * step_i) + penalty(x)`

    which lands on exact zeros where a gradient step hops over them. The penalty's value still shows in the loss; its gradient
    is stopped. What `step` is, the metric says:

    | `metric` | `step` | minimises |
    | --- | --- | --- |
    | `"preconditioned"` | the optimizer's own for each weight, `learning_rate / (sqrt(v) + epsilon)` in Adam | loss + penalty |
    | `"euclidean"`, SGD | the learning rate, added up over past updates as SGD's momentum adds them up | loss + penalty |
    | `"euclidean"`, others | the learning rate: a decoupled shrinkage, as AdamW's weight decay is | no fixed objective |

    Under the first two a strength means what it means in the loss. Under the third it is measured against the optimizer's normalised
    updates, of about one learning rate a step, whatever the scale of the loss. (Lion moves every weight by just that at each step:
    there a strength below 1 holds no weight at zero, and one above 1 lets none grow.)

    Weights at zero stay there while the gradient that the optimizer acts on stays below the strength. Of plain SGD that is the
    gradient of a single batch, whose noise moves many weights off zero for a step; momentum and Adam average it.

    Args:
        inner_optimizer: A Keras optimizer, its name or its config. Learning rate, schedules, weight decay, clipping, averaging (EMA),
            gradient accumulation are set on it. `"preconditioned"` is there for Adam, AdamW, Nadam, Adamax, RMSprop, Adagrad and Ftrl.
            `LossScaleOptimizer` and `MultiOptimizer` go around `Proximal`, not inside; `ScheduleFreeAdamW` is refused.
        metric: `"auto"` (default): `"preconditioned"` where the inner optimizer has it, else `"euclidean"`. With Adam on MNIST (20,000
            images, 300-100 network, one seed) it kept fewer weights at equal error: L1 at 2.6 % error left 57 % exact zeros against
            32 %, and at 84 % zeros it erred by 3.4 % against 4.9 %.
        name: Name of the optimizer.

    Raises:
        ValueError: when it is built (before the first update) for variables without a proximal penalty, or with one whose
            prox does not exist in the metric.

    Order of an update: clipping, weight decay, the optimizer's step, the prox, averaging, constraints. With gradient accumulation
    the prox runs on real updates alone. With `use_ema=True` the average of a weight starts anew at 0 while the weight is 0, so that
    the zeros of the weights are zeros of the averaged ones. Gradients with NaN give weights with NaN, as without the prox.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.optimizers import Proximal
    >>> from keras_reg.regularizers import L1
    >>> x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    >>> y = x[:, :1] - x[:, 1:2]  # two of twenty inputs matter
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, kernel_regularizer=L1(0.1, proximal=True))])
    >>> model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    >>> history = model.fit(x, y, epochs=50, verbose=0)
    >>> int(np.count_nonzero(model.get_weights()[0]))
    2

    References: [Parikh and Boyd, 2014](https://doi.org/10.1561/2400000003),
    [Yun, Lozano and Yang, 2021](https://arxiv.org/abs/2007.07875) (preconditioned).
    """

    def __init__(self, inner_optimizer: Any, metric: str = "auto", name: str | None = None, **kwargs: Any):
        for argument, value in kwargs.items():
            if argument not in OF_THE_INNER:
                raise TypeError(f"Proximal has no argument `{argument}`. Received: {argument}={value!r}")
            raise ValueError(f"Argument `{argument}` belongs to the inner optimizer: set it there. Received: {argument}={value!r}")
        inner = _optimizer(inner_optimizer)
        own_metric = step_sizes.preconditioned(inner)
        one_of(metric, METRICS, "metric")
        if metric == "preconditioned" and own_metric is None:
            raise ValueError(
                f"Argument `metric` must be 'euclidean' or 'auto' with {type(inner).__name__}, which has no diagonal metric "
                f"(Adam, AdamW, Nadam, Adamax, RMSprop, Adagrad and Ftrl have one). Received: metric={metric!r}"
            )
        # Past the tracking of attributes by Keras, which would take the inner variables for its own.
        object.__setattr__(self, "_claims", Claims(self))
        super().__init__(learning_rate=0.0, name=name)
        for unused in (self._iterations, self._learning_rate):
            self._untrack_variable(unused)
        self.inner_optimizer = inner
        self.metric = metric if metric != "auto" else "euclidean" if own_metric is None else "preconditioned"
        self._past = None
        self._in_apply = False

    def build(self, variables: Sequence[Any]) -> None:
        """Create the variables of both optimizers, and claim the penalised variables: from here on the prox acts on them.

        Called by Keras at the first step. In a loop of your own, call it before the first loss is computed.
        """
        if self.built:
            return
        variables = list(variables)
        if not variables:  # Keras, on loading HDF5: it has none at hand then
            return
        penalised = [v for v in variables if is_proximal(v.regularizer)]
        if not penalised:
            others = sorted({type(v.regularizer).__name__ for v in variables if v.regularizer is not None})
            raise ValueError(
                f"{self.name!r} has nothing to apply: none of its {len(variables)} trainable variables has a penalty with `proximal=True` "
                f"(regularizers found: {', '.join(others) or 'none'}). Give a layer one, such as "
                "`kernel_regularizer=keras_reg.regularizers.L1(1e-4, proximal=True)`, or train with the inner optimizer alone."
            )
        for variable in penalised:
            self._check_prox(variable, variable.regularizer)
        self.inner_optimizer.build(variables)
        if step_sizes.momentum(self.inner_optimizer):
            # Among the inner variables: on JAX those alone are put back where a step only accumulates gradients.
            dtype = "float64" if any(wide(v) == "float64" for v in penalised) else "float32"
            self._past = self.inner_optimizer.add_variable((), dtype=dtype, aggregation="only_first_replica", name="proximal_step")
        for index, variable in enumerate(variables):
            self._trainable_variables_indices[self._var_key(variable)] = index
        self._trainable_variables.extend(variables)
        self._claims.update(variables)
        # From the inside, at the one place that sees real updates alone and their learning rate, on every backend.
        self.inner_optimizer._backend_update_step = self._update_and_apply_prox
        self.inner_optimizer._update_model_variables_moving_average = self._average
        self.built = True

    def _check_prox(self, variable: Any, penalty: Penalty) -> None:
        """Refuse, by name, a penalty without a prox in the metric."""
        if structure_of(penalty) is not None:
            return
        sample = ops.ones((2,) * len(variable.shape), "float32")
        step = ops.ones_like(sample) if self.metric == "preconditioned" else 1.0
        try:
            penalty.prox(sample, step)
        except NotImplementedError as error:
            hint = " `metric='euclidean'` needs one step alone." if self.metric == "preconditioned" else ""
            raise ValueError(
                f"Proximal with metric={self.metric!r} cannot apply the penalty of {variable.path!r}, {penalty!r}: {error}{hint}"
            ) from None

    def check_penalties(self, regularizer_of: Callable[[Any], Any]) -> None:
        """Raise a `ValueError` where this optimizer, built, could not apply the penalties that its variables are to get."""
        for variable in self._trainable_variables:
            if is_proximal(penalty := regularizer_of(variable)):
                self._check_prox(variable, penalty)

    def refresh_claims(self) -> None:
        """Take up the penalties that the variables have got since it was built, and drop those that are gone."""
        self._claims.update(self._trainable_variables)

    def applies_prox_to(self, variable: Any) -> bool:
        """Whether this optimizer, once built, applies a prox to the variable after each update."""
        return variable in self._claims

    @property
    def strengths(self) -> dict[str, float]:
        """The present strength of each penalised variable, by its path."""
        return self._claims.values()

    def set_strength(self, strength: float, path: str | None = None) -> None:
        """Change the strength of all penalised variables, or of the one at `path`; nothing is compiled anew.

        Args:
            strength: Non-negative; where a penalty has several strengths, their sum at their ratio.
            path: `variable.path` of one variable.
        """
        strength = non_negative(strength, "strength")
        if not self.built:
            raise ValueError("The optimizer has no strengths before it is built: call `build(model.trainable_variables)` first.")
        self._claims.set(strength, path)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        if not self.built:
            late = [v.path for v in trainable_variables if getattr(v.regularizer, "gradient_flowed", False)]
            if late:
                raise ValueError(
                    f"The penalties of {', '.join(late)} were in a loss before {self.name!r} was built, so that their gradients may be "
                    "among `grads`, and would count twice. Call `optimizer.build(model.trainable_variables)` before the first loss."
                )
            with keras.name_scope(self.name, caller=self):
                self.build(trainable_variables)
        self._in_apply = True
        try:
            self.inner_optimizer.apply(grads, trainable_variables)
        finally:
            self._in_apply = False

    def _update_and_apply_prox(self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        inner = self.inner_optimizer
        if not self._in_apply:  # the inner optimizer is being used alone
            type(inner)._backend_update_step(inner, grads, variables, learning_rate)
            return
        rate = learning_rate
        if self._past is not None:
            past, rate = step_sizes.accumulated(inner, self._past.value, ops.cast(learning_rate, self._past.dtype))
            self._past.assign(past)
        alone, structures, joined = [], {}, {}
        for gradient, variable in zip(grads, variables, strict=True):
            if not self.applies_prox_to(variable):
                continue
            if partners := getattr(variable.regularizer, "partners", ()):
                structures[variable.regularizer.structure] = partners
                continue
            key, rank = self._var_key(variable), len(variable.shape)
            entrywise = len(variable.regularizer.separable_axes(rank)) == rank
            if joins(gradient) and step_sizes.worth_compiling(inner, with_prox=entrywise):
                # The norms of groups take less time of weights that are there as an array.
                joined[key] = functools.partial(self._apply_prox, variable, rate) if entrywise else None
            if joined.get(key) is None:
                alone.append(variable)
        with self._joined_to_the_update(joined):
            type(inner)._backend_update_step(inner, grads, variables, learning_rate)
        for variable in alone:
            self._apply_prox(variable, rate)
        for partners in structures.values():
            self._apply_to_all(partners, rate)

    @contextlib.contextmanager
    def _joined_to_the_update(self, joined: dict) -> Iterator[None]:
        """Compile the updates of these variables, by their keys, each with what is to follow it.

        TensorFlow would make a pass over the weights for every operation of an update.
        """
        inner = self.inner_optimizer
        bare = functools.partial(type(inner).update_step, inner)

        def update_step(gradient, variable, learning_rate):
            key = self._var_key(variable)

            def update(gradient):
                bare(gradient, variable, learning_rate)
                if joined[key] is not None:
                    joined[key]()

            if key in joined:
                compiled(update)(gradient)
            else:
                bare(gradient, variable, learning_rate)

        if joined:
            inner.update_step = update_step
        try:
            yield
        finally:
            if joined:
                del inner.update_step

    def _apply_prox(self, variable: Any, rate: Any) -> None:
        strength = self._claims.strength_of(variable)
        penalty = variable.regularizer.at_strength(ops.convert_to_tensor(strength))

        rate = ops.cast(rate, strength.dtype)
        step, *slots = self._step(variable, rate)

        def prox(x, *slots):
            return penalty.prox(x, step(*slots))

        axes = penalty.separable_axes(len(variable.shape))
        before = ops.stop_gradient(variable.value)
        # In a stateless scope the value is not the variable's own.
        if in_parts(before) and variable.value is variable._value and not step_sizes.remembers(self.inner_optimizer):
            shares = None if slots else penalty.shares_taken(before, step())
            if shares is not None and shares.dtype == before.dtype:
                take_off(before, shares)
                return
            if axes:
                in_place(prox, axes, before, *slots)
                return
        after = in_blocks(prox, axes, before, *slots)
        step_sizes.remember(self.inner_optimizer, variable, before, after, rate)
        variable.assign(after)

    def _step(self, variable: Any, rate: Any) -> tuple:
        """A function that makes the step, and the arrays that it takes."""
        if self.metric == "euclidean":
            return (lambda: rate,)
        return step_sizes.preconditioned(self.inner_optimizer)(self.inner_optimizer, variable, rate)

    def _apply_to_all(self, partners: Sequence[Any], rate: Any) -> None:
        """The prox of a penalty on several weights together."""
        strength = self._claims.strength_of(partners[0])
        rate = ops.cast(rate, strength.dtype)
        steps = [step(*slots) for step, *slots in (self._step(variable, rate) for variable in partners)]
        groups = Groups.of([(variable.regularizer, tuple(variable.shape)) for variable in partners])
        before = [ops.stop_gradient(variable.value) for variable in partners]
        after = groups.prox([ops.cast(values, strength.dtype) for values in before], steps, ops.convert_to_tensor(strength))
        for variable, old, new in zip(partners, before, after, strict=True):
            new = ops.cast(new, old.dtype)
            step_sizes.remember(self.inner_optimizer, variable, old, new, rate)
            variable.assign(new)

    def _average(self, variables: Sequence[Any]) -> None:
        inner = self.inner_optimizer
        type(inner)._update_model_variables_moving_average(inner, variables)
        if not (self._in_apply and inner.use_ema):
            return
        for variable, average in zip(variables, inner._model_variables_moving_average, strict=True):
            if self.applies_prox_to(variable):
                average.assign(ops.where(ops.equal(variable.value, 0), ops.zeros_like(average.value), average.value))

    @property
    def variables(self) -> list:
        return self._variables[:] + self.inner_optimizer.variables

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

    def save_own_variables(self, store: Any) -> None:
        # Keras saves the inner optimizer, an attribute, by itself.
        for index, variable in enumerate(self._claims.in_order(self._trainable_variables)):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        strengths = self._claims.in_order(self._trainable_variables)
        if len(store) != len(strengths):
            raise ValueError(
                f"{self.name!r} has {len(strengths)} penalised variables, and the saved one {len(store)}: "
                "were they built for the same model?"
            )
        for index, variable in enumerate(strengths):
            variable.assign(store[str(index)])

    def get_config(self) -> dict:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"inner_optimizer": inner, "metric": self.metric, "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "Proximal":
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "inner_optimizer": inner})


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
    if isinstance(optimizer, Proximal):
        raise ValueError(f"Argument `inner_optimizer` must not be a Proximal itself. Received: inner_optimizer={inner!r}")
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
    setattr(Proximal, _name, _forwarded(_name))
