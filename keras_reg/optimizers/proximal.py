"""The optimizer that applies the proximal maps of the penalties after every update of another one."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg._keras import check
from keras_reg._registration import register
from keras_reg._validation import boolean, non_negative, one_of
from keras_reg.backend import numbers_suffice, outside_of_graphs, read
from keras_reg.binding import has_flowed, is_record, join, move, record
from keras_reg.contract import is_constraint, is_proximal, kind_of, structure_of
from keras_reg.optimizers import step_sizes
from keras_reg.optimizers.counted import Counted
from keras_reg.optimizers.rows import Rows
from keras_reg.optimizers.strength_file import StrengthFile
from keras_reg.optimizers.together import stacked, together, unstacked
from keras_reg.optimizers.wrapper import Wrapper
from keras_reg.regularizers.structural import Groups
from keras_reg.strength_variable import wide

METRICS = ("auto", "euclidean", "preconditioned")


@register
class Proximal(Wrapper):
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
        keep_zeros: Whether weights that are exactly 0 before an update are 0 after it, whatever gradient, momentum, weight decay and
            averaging do: refitting what penalties, `compact` or a file have left. All trainable weights, also those without a penalty, of
            which there need be none; a bias that starts at 0 stays there as well. Defaults to `False`.
        metric: `"auto"` (default): `"preconditioned"` where the inner optimizer has it, else `"euclidean"`. With Adam on MNIST (20,000
            images, 300-100 network, one seed) it kept fewer weights at equal error: L1 at 2.6 % error left 57 % exact zeros against
            32 %, and at 84 % zeros it erred by 3.4 % against 4.9 %.
        name: Name of the optimizer.

    Raises:
        ValueError: when it is built (before the first update) for variables without a proximal penalty (and `keep_zeros=False`), or
            with one whose prox does not exist in the metric.

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

    def __init__(self, inner_optimizer: Any, metric: str = "auto", name: str | None = None, keep_zeros: bool = False, **kwargs: Any):
        inner = self.checked(inner_optimizer, kwargs)
        check("optimizer", inner)
        own_metric = step_sizes.preconditioned(inner)
        one_of(metric, METRICS, "metric")
        if metric == "preconditioned" and own_metric is None:
            raise ValueError(
                f"Argument `metric` must be 'euclidean' or 'auto' with {type(inner).__name__}, which has no diagonal metric "
                f"(Adam, AdamW, Nadam, Adamax, RMSprop, Adagrad and Ftrl have one). Received: metric={metric!r}"
            )
        super().__init__(inner, name)
        self.metric = metric if metric != "auto" else "euclidean" if own_metric is None else "preconditioned"
        self.keep_zeros = boolean(keep_zeros, "keep_zeros")
        self.counted = Counted(self)
        self.rows = Rows(self)
        self.strength_file = StrengthFile(self)
        self._strengths = None  # one for each trainable variable
        self._past = None
        self._running = 0
        self._from_config = False

    def build(self, variables: Sequence[Any]) -> None:
        """Create the variables of both optimizers, and claim the penalised variables: from here on the prox acts on them.

        Called by Keras at the first step. In a loop of your own, call it before the first loss is computed.
        """
        if self.built:
            return
        variables = list(variables)
        if not variables:  # Keras, on loading HDF5: it has none at hand then
            return
        self._check_that_there_is_a_penalty(variables)
        self.check_penalties(lambda variable: variable.regularizer, variables)
        with _all_or_nothing(self.inner_optimizer):
            self.inner_optimizer.build(variables)
        dtype = "float64" if any(wide(v) == "float64" for v in variables) else "float32"
        if step_sizes.momentum(self.inner_optimizer):
            # Among the inner variables: on JAX those alone are put back where a step only accumulates gradients.
            if self._past is None:
                self._past = _variable(self, (), "zeros", dtype, "proximal_step")
            if not any(self._past is variable for variable in self.inner_optimizer.variables):
                self.inner_optimizer._track_variable(self._past)
        self._strengths = _variable(self, (len(variables),), "zeros", dtype, "strengths")
        self._trainable_variables = variables
        self._trainable_variables_indices.update({self._var_key(variable): index for index, variable in enumerate(variables)})
        self.refresh_claims()
        self.built = True
        self.strength_file.restore()

    def _check_that_there_is_a_penalty(self, variables: list[Any]) -> None:
        if self.keep_zeros or any(is_proximal(v.regularizer) for v in variables):
            return
        others = sorted({v.regularizer.__class__.__name__ for v in variables if v.regularizer is not None})
        message = (
            f"{self.name!r} has nothing to apply: none of its {len(variables)} trainable variables has a penalty with `proximal=True` "
            f"(regularizers found: {', '.join(others) or 'none'}). Give a layer one, such as "
            "`kernel_regularizer=keras_reg.regularizers.L1(1e-4, proximal=True)`, or train with the inner optimizer alone."
        )
        if not self._from_config:
            raise ValueError(message)
        # A file is loaded, whatever has become of the penalties since.
        warnings.warn(message, stacklevel=3)

    def _check_prox(self, variable: Any, penalty: Any) -> None:
        """Refuse, by name, a penalty without a prox in the metric."""
        if structure_of(penalty) is not None or is_constraint(penalty):
            return
        try:
            with outside_of_graphs():
                sample = ops.ones((2,) * len(variable.shape), "float32")
                penalty.by_prox.prox(sample, ops.ones_like(sample) if self.metric == "preconditioned" else 1.0)
        except NotImplementedError as error:
            hint = " `metric='euclidean'` needs one step alone." if self.metric == "preconditioned" else ""
            raise ValueError(
                f"Proximal with metric={self.metric!r} cannot apply the penalty of {variable.path!r}, {penalty!r}: {error}{hint}"
            ) from None

    def check_penalties(self, regularizer_of: Callable[[Any], Any], variables: Sequence[Any] | None = None) -> None:
        """Raise a `ValueError` where this optimizer could not apply the penalties that variables have or are to get."""
        checked = {}  # with the penalties, lest another gets the identity of one that is gone
        for variable in self._trainable_variables if variables is None else variables:
            if is_proximal(penalty := regularizer_of(variable)):
                case = (kind_of(penalty) or id(penalty), len(variable.shape))
                if case not in checked:  # a deep network has many of few kinds
                    checked[case] = penalty
                    self._check_prox(variable, penalty)

    def refresh_claims(self) -> None:
        """Take up the penalties that the variables have got since it was built; those that are gone are dropped by that."""
        new = [v for v in self._trainable_variables if is_proximal(v.regularizer) and not self.applies_prox_to(v)]
        strengths = {}
        for variable in new:
            own, index = record(variable), self._get_variable_index(variable)
            strengths[index] = own.strength
            own.claim(self, index)
        self.set_strengths_at(strengths)
        join(self._trainable_variables)
        self.rows.refresh()

    def applies_prox_to(self, variable: Any) -> bool:
        """Whether this optimizer, once built, applies a prox to the variable after each update."""
        own = variable.regularizer
        return is_record(own) and own.proximal and own.is_claimed_by(self)

    @property
    def claimed(self) -> list[Any]:
        """The variables to which it applies a prox, in order."""
        return [variable for variable in self._trainable_variables if self.applies_prox_to(variable)]

    @property
    def strengths(self) -> dict[str, float]:
        """The present strength of each penalised variable, by its path."""
        return {variable.path: variable.regularizer.strength for variable in self.claimed}

    def set_strength(self, strength: float, path: str | None = None) -> None:
        """Change the strength of all penalised variables, or of the one at `path` and those that share its structure.

        Nothing is compiled anew, but for what was compiled before the first change on JAX.

        Args:
            strength: Non-negative; where a penalty has several strengths, their sum at their ratio.
            path: `variable.path` of one variable.
        """
        strength = non_negative(strength, "strength")
        if not self.built:
            raise ValueError("The optimizer has no strengths before it is built: call `build(model.trainable_variables)` first.")
        chosen = [variable for variable in self.claimed if path in (None, variable.path)]
        if not chosen:
            raise ValueError(f"Argument `path` must be one of {sorted(v.path for v in self.claimed)}. Received: path={path!r}")
        move([(variable, strength) for variable in chosen])

    # `keras_reg.binding` alone writes strengths.

    def strength_at(self, index: int) -> float:
        """The strength of the trainable variable with this index; NaN where it cannot be read now."""
        if self._strengths._value is None:  # JAX's trainer has it
            return math.nan
        with outside_of_graphs():
            return float(read(self._strengths)[index])

    def strength_in_step(self, index: int) -> Any:
        """The same for a step that is being computed or traced."""
        if numbers_suffice():
            return self._trainable_variables[index].regularizer.strength
        return self._strengths.value[index]

    def set_strengths_at(self, strengths: dict[int, float]) -> None:
        if strengths:
            with outside_of_graphs():
                values = np.array(read(self._strengths))
                values[list(strengths)] = list(strengths.values())
                self._strengths.assign(values)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        trainable_variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if not self.built and trainable_variables:
            late = [v.path for v in trainable_variables if has_flowed(v.regularizer)]
            if late:
                raise ValueError(
                    f"The penalties of {', '.join(late)} were in a loss before {self.name!r} was built, so that their gradients may be "
                    "among `grads`, and would count twice. Call `optimizer.build(model.trainable_variables)` before the first loss."
                )
            with keras.name_scope(self.name, caller=self):
                self.build(trainable_variables)
        with self._inside_the_inner_optimizer():
            self.inner_optimizer.apply(grads, trainable_variables)

    @contextlib.contextmanager
    def _inside_the_inner_optimizer(self) -> Iterator[None]:
        """Follow its updates from the inside, at the one place that sees real updates alone and their learning rate, on every backend."""
        inside = vars(self.inner_optimizer)
        # Replicas run in threads that take turns.
        self._running += 1
        inside["_backend_update_step"] = self._update
        inside["_update_model_variables_moving_average"] = self._average
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                inside.pop("_backend_update_step", None)
                inside.pop("_update_model_variables_moving_average", None)

    def _update(self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        rate, past = self._rate(learning_rate)
        inner, (grads, variables) = self.inner_optimizer, self.rows.update(grads, variables, rate)
        alive = self.counted.alive(variables)
        if variables:
            type(inner)._backend_update_step(inner, grads, variables, learning_rate)
        if past is not None:
            self._past.assign(past)
        steps = self._steps(rate)
        for variable, values in self._proxed(variables, steps):
            step_sizes.remember(inner, variable, values, rate)
            variable.assign(values)
        self.counted.apply(variables, alive, steps, rate)

    def _rate(self, learning_rate: Any) -> tuple[Any, Any]:
        """The step of the prox without a metric, and what is to be remembered of it, if anything is."""
        rate = ops.cast(learning_rate, self._strengths.dtype)
        if self._past is None:
            return rate, None
        past, rate = step_sizes.accumulated(self.inner_optimizer, self._past.value, rate)
        return rate, past

    def _steps(self, rate: Any) -> Callable[[Any], Any]:
        if self.metric == "euclidean":
            return lambda variables: rate
        return step_sizes.preconditioned(self.inner_optimizer)(self.inner_optimizer, rate)

    def _proxed(self, variables: Iterable[Any], steps: Callable, factor: float = 1.0) -> Iterator[tuple[Any, Any]]:
        """The weights with penalties and what their proxes make of them."""
        for members in together(v for v in variables if self.applies_prox_to(v) and not is_constraint(v.regularizer)):
            if structure_of(members[0].regularizer) is not None:
                after = self._prox_of_structure(members, [steps([variable]) for variable in members], factor)
            else:
                before = ops.stop_gradient(stacked([variable.value for variable in members]))
                after = unstacked(self.penalty_in_step(members, factor).by_prox.prox(before, steps(members)), len(members))
            yield from zip(members, after, strict=True)

    def ahead(self, updates: int, learning_rate: float, factor: float) -> dict[int, np.ndarray]:
        """What the proxes alone, at strengths multiplied by `factor`, make of the weights in so many updates: by `id` of the variable."""
        with outside_of_graphs():
            rate, _ = self._rate(learning_rate)
            one = self._steps(rate)
            proxed = self._proxed(self.claimed, lambda variables: updates * one(variables), factor)
            return {id(variable): ops.convert_to_numpy(values) for variable, values in proxed}

    def penalty_in_step(self, members: Sequence[Any], factor: float = 1.0) -> Any:
        """The penalty of a weight, or of several that are stacked."""
        own, indices = members[0].regularizer, [self._get_variable_index(variable) for variable in members]
        if len(members) == 1:
            return own.at(factor * self.strength_in_step(indices[0]))
        if numbers_suffice():
            strengths = [factor * self.strength_in_step(index) for index in indices]
            if len(set(strengths)) == 1:
                return own.at(strengths[0]).stacked()
            strengths = ops.convert_to_tensor(strengths, self._strengths.dtype)
        else:
            strengths = factor * ops.take(self._strengths.value, indices)
        return own.configured.stacked().at_strength(ops.reshape(strengths, (-1, *(1,) * len(members[0].shape))))

    def _prox_of_structure(self, members: Sequence[Any], steps: Sequence[Any], factor: float) -> list[Any]:
        """The prox of a penalty on several weights together, of those that are being updated."""
        dtype = self._strengths.dtype
        groups = Groups.of([(variable.regularizer.configured, tuple(variable.shape)) for variable in members])
        before = [ops.stop_gradient(variable.value) for variable in members]
        strength = self.penalty_in_step(members[:1], factor).strength
        after = groups.prox([ops.cast(values, dtype) for values in before], steps, strength)
        return [ops.cast(values, variable.dtype) for variable, values in zip(members, after, strict=True)]

    def _average(self, variables: Sequence[Any]) -> None:
        inner = self.inner_optimizer
        type(inner)._update_model_variables_moving_average(inner, variables)
        if not inner.use_ema:
            return
        for variable, average in zip(variables, inner._model_variables_moving_average, strict=True):
            if self.keep_zeros or self.applies_prox_to(variable):
                average.assign(ops.where(ops.equal(variable.value, 0), ops.zeros_like(average.value), average.value))

    @property
    def variables(self) -> list:
        # Not the learning rate and iterations that Keras's constructor made: the inner optimizer has those.
        return [*([] if self._strengths is None else [self._strengths]), *self.inner_optimizer.variables]

    def __repr__(self) -> str:
        kept = ", keep_zeros=True" if self.keep_zeros else ""
        return f"Proximal({type(self.inner_optimizer).__name__}, metric={self.metric!r}{kept})"

    # Keras saves the inner optimizer and the file of strengths, attributes, by themselves.

    def save_own_variables(self, store: Any) -> None:
        del store

    def load_own_variables(self, store: Any) -> None:
        self.counted.restart()
        self.strength_file.load_other(store)

    def get_config(self) -> dict:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"inner_optimizer": inner, "metric": self.metric, "name": self.name, "keep_zeros": self.keep_zeros}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "Proximal":
        if "inner_optimizer" not in config:
            raise ValueError("Proximal needs an inner optimizer, which its name alone does not say: write `Proximal('adam')`.")
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        made = cls(**{**config, "inner_optimizer": inner})
        made._from_config = True
        return made


def _variable(optimizer: Any, shape: tuple, initializer: str, dtype: str, name: str) -> Any:
    with outside_of_graphs(), keras.name_scope(optimizer.name, caller=optimizer):
        return keras.Variable(initializer, shape, dtype, trainable=False, aggregation="only_first_replica", name=name)


@contextlib.contextmanager
def _all_or_nothing(optimizer: Any) -> Iterator[None]:
    """Have a build that is broken off leave no variables behind, which the next one would make again."""
    before = len(optimizer._variables)
    try:
        yield
    except BaseException:
        optimizer.built = False
        del optimizer._variables[before:]
        raise
