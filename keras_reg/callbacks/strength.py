"""Strengths that move during training: along a schedule, or until a wanted share of the weights is zero."""

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_reg._validation import greater_than, non_negative, one_of, real_number, shown, whole_number
from keras_reg.binding import is_constraint, make_movable, move, penalised, proximal_optimizers
from keras_reg.callbacks.building import is_built, when_built
from keras_reg.models.attachment.mistakes import warn_of_mistakes
from keras_reg.models.statistics import zeros
from keras_reg.regularizers.constraint import share

PROPORTIONAL = 6.0  # a jump of the sparsity by 10 points changes a strength by the factor exp(0.6)
INTEGRAL = 40.0  # 10 points too few during the whole ramp change it by exp(4)
FARTHEST = 1e6  # from the configured strength, in either direction
MOST_TRIALS = 100  # of a schedule, before training starts


class _StrengthCallback(keras.callbacks.Callback):
    """What moves strengths: which of them, from when on, and what `logs` say of it."""

    path: str | None = None
    _ready = False

    def set_model(self, model):
        super().set_model(model)
        self._ready = False
        # Here, as `keras.distribution` looks at the state of the model once, before training begins.
        if is_built(model):
            make_movable(model, [v for path, v in penalised(model).items() if self.path in (None, path)])
        else:
            when_built(model, self._start)

    def on_train_begin(self, logs=None):
        if is_built(self.model):
            self._start()

    def _start(self) -> None:
        """Once the model has its weights and its optimizer."""
        optimizer = self.model.optimizer
        if not optimizer.built and any(proximal_optimizers(optimizer)):
            optimizer.build(self.model.trainable_variables)
        warn_of_mistakes(self.model)
        self._penalised = penalised(self.model)
        self._moved = self._choose()
        self._refuse_rivals()
        make_movable(self.model, self._moved.values())
        self._apart = self._ends_apart()
        self._ready = True

    def _choose(self) -> dict[str, Any]:
        """The weights whose strengths move, by path."""
        raise NotImplementedError

    def _ends_apart(self) -> bool:
        """Whether strengths differ, so that each is logged by itself; decided once, as the columns of a log are."""
        raise NotImplementedError

    def _refuse_rivals(self) -> None:
        # The callbacks of one `fit` share the dict of its parameters.
        movers = self.params.setdefault("moved_strengths", {}) if self.params is not None else {}
        for path in self._moved:
            rival = movers.setdefault(path, self)
            if rival is not self:
                raise ValueError(
                    f"{type(rival).__name__} and {type(self).__name__} both move the strength of {path!r}: give each weights of its own by "
                    "`path=`, or leave one of them out."
                )

    def on_train_end(self, logs=None):
        if self.params is not None:
            self.params.pop("moved_strengths", None)

    def _sync(self) -> None:
        # On JAX the weights of a running epoch are in the trainer, not in the variables.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

    def _strengths(self) -> dict[str, float]:
        return {path: v.regularizer.strength for path, v in self._penalised.items()}

    def _log(self, logs: dict | None, strengths: dict[str, float]) -> None:
        if logs is None:
            return
        if self._apart:
            logs.update({f"strength/{path}": value for path, value in strengths.items()})
        else:
            logs["strength"] = next(iter(strengths.values()))
        logs["sparsity"] = zeros(self._penalised.values()).sparsity


class StrengthScheduler(_StrengthCallback):
    """Sets the strength of penalties, or the sparsity of constraints, at each epoch or step, as
    `keras.callbacks.LearningRateScheduler` sets the learning rate.

    Strengths are state of the model, or of `keras_reg.optimizers.Proximal`: nothing is compiled anew, whether a penalty acts by its
    gradient or by its prox. `loss`, `val_loss`, `evaluate`, the config of the layers and what is saved have the present strength.

    Args:
        schedule: A function of the epoch (or step), counted from 0, that returns a non-negative number. It must not remember its calls:
            before training starts it is tried over the whole run, so that a value that is none costs no work. Or a function of
            epoch (or step) and present strength, which cannot be tried. Or a `keras.optimizers.schedules.LearningRateSchedule`:
            warm-up, annealing, polynomial.
        freq: `"epoch"`, `"step"`, or a whole number `n` for each `n`-th step.
            Steps are updates of the weights: `optimizer.iterations`, read at the start of each epoch and counted
            on from there. Defaults to `"step"` for a `LearningRateSchedule`, whose unit it is, and to `"epoch"` for a function. With
            `steps_per_execution` above 1 the strength changes between executions.
        path: `variable.path` of the one variable to act on, such as `"sequential/dense/kernel"`. Defaults to all that have
            a penalty of keras_reg.
        verbose: 1 prints each change. Defaults to 0.

    A penalty with several strengths keeps their ratio; where all are configured to be 0 there is none, which is an error. Another
    callback of the same `fit` must not move the same strengths.

    `logs` gains, at the end of every epoch, `strength` (or `strength/<path>` for each variable where they differ) and
    `sparsity`, the share of the penalised weights that are exactly zero. Put callbacks that read them after this one.

    Example:

    >>> import keras
    >>> from keras_reg.callbacks import StrengthScheduler
    >>> warm_up = StrengthScheduler(lambda epoch: 1e-3 * min(1, (epoch + 1) / 10))
    >>> anneal = StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(1e-2, decay_steps=1000, end_learning_rate=1e-4))
    """

    def __init__(self, schedule: Callable, freq: str | int | None = None, path: str | None = None, verbose: int = 0):
        super().__init__()
        if not callable(schedule):
            raise TypeError(f"Argument `schedule` must be a function or a LearningRateSchedule. Received: schedule={shown(schedule)}")
        is_keras_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        self.schedule = schedule
        freq = ("step" if is_keras_schedule else "epoch") if freq is None else freq
        by_number = isinstance(freq, numbers.Integral)
        self._every = whole_number(freq, "freq", at_least=1) if by_number else 1
        self.freq = "step" if by_number else one_of(freq, ("epoch", "step"), "freq")
        self.path = path
        self.verbose = verbose
        self._takes_strength = not is_keras_schedule and _arguments(schedule) > 1
        if not self._takes_strength:
            # A value that is none shows before any work is lost.
            self._value(0)

    def on_train_begin(self, logs=None):
        self._position = None
        self._try_whole_run()
        super().on_train_begin(logs)

    def _choose(self) -> dict[str, Any]:
        if not self._penalised:
            raise ValueError("StrengthScheduler found no penalty of keras_reg on the trainable variables of the model.")
        if self.path is not None and self.path not in self._penalised:
            raise ValueError(f"Argument `path` must be one of {sorted(self._penalised)}. Received: path={self.path!r}")
        chosen = {path: v for path, v in self._penalised.items() if self.path in (None, path)}
        for path, variable in chosen.items():
            penalty = variable.regularizer
            if penalty.strength == 0 and len(penalty.strength_names) > 1:
                raise ValueError(
                    f"StrengthScheduler cannot move {path!r}: the strengths of {penalty!r} are all 0, so they have no ratio to keep. "
                    "Build the penalty with the strengths wanted."
                )
            if is_constraint(penalty):  # a share: what is none shows before any work is lost
                for position, value in self._tried.items():
                    share(value, f"schedule({position})")
        return chosen

    def _ends_apart(self) -> bool:
        if not self._takes_strength and len(self._moved) == len(self._penalised):
            return False  # one value for all
        return len(self._penalised) > 1 and (self.path is not None or len(set(self._strengths().values())) > 1)

    def _start(self) -> None:
        super()._start()
        if self._position is not None:  # the model was built on the way to the first step
            self._set(self._position)

    def _try_whole_run(self) -> None:
        self._tried = {}
        if self._takes_strength:
            return
        length = self.params.get("epochs") or 1
        if self.freq == "step":
            length *= self.params.get("steps") or 1
        for position in range(0, length, max(1, length // MOST_TRIALS)):
            self._tried[position] = self._value(position)

    def on_epoch_begin(self, epoch, logs=None):
        if self.freq == "epoch":
            self._set(epoch)
        else:
            self._first, self._accumulated = _steps(self.model.optimizer)

    def on_train_batch_begin(self, batch, logs=None):
        step = self._first + batch // self._accumulated if self.freq == "step" else 0
        if self.freq == "step" and step % self._every == 0:
            self._set(step)

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._log(logs, self._strengths())

    def _set(self, position: int) -> None:
        if not self._ready:
            self._position = position
            return
        # Numbers that the host has: a step is not waited for.
        chosen = {path: v.regularizer.strength for path, v in self._moved.items()} if self._takes_strength or self.verbose else {}
        value = None if self._takes_strength else self._value(position)
        new = {path: self._value(position, chosen[path]) if value is None else value for path in self._moved}
        move([(variable, new[path]) for path, variable in self._moved.items()])
        if self.verbose and new != chosen:
            print(f"StrengthScheduler, {self.freq} {position}: strength {', '.join(f'{v:g}' for v in sorted(set(new.values())))}")

    def _value(self, position: int, *strength: float) -> float:
        value = self.schedule(position, *strength)
        if ops.is_tensor(value):
            value = float(ops.convert_to_numpy(value))
        return non_negative(value, f"schedule({position})")


def _steps(optimizer: Any) -> tuple[int, int]:
    """The number of updates so far, and how many batches go into one."""
    inner = optimizer
    while hasattr(inner, "inner_optimizer"):
        inner = inner.inner_optimizer
    return int(ops.convert_to_numpy(optimizer.iterations)), getattr(inner, "gradient_accumulation_steps", None) or 1


def _arguments(function: Callable) -> int:
    try:
        kinds = [p.kind for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    except ValueError:  # a built-in function
        return 1
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


class TargetSparsity(_StrengthCallback):
    """Finds the strengths under which a wanted share of the weights is exactly zero at a given epoch, and holds it.

    The sparsity asked for rises from 0 to `target` along `target * (1 - (1 - t)**3)`, `t` from 0 to 1 at `epoch`. A proportional-integral
    controller moves the logarithm of the strengths towards it; the strengths keep their ratios. They are its state, saved
    with the optimizer: a run resumed from the end of an epoch goes on as if it had not stopped. It moves them as much less as the
    learning rate is below the largest so far, as a strength acts by both, and by a factor of a million at the most.

    Args:
        target: Share of the penalised weights that shall be zero, between 0 and 1, both excluded.
        epoch: Number of epochs from the start of training (`initial_epoch` included) after which it shall be reached.
        of: `"weights"` (default): the share of exact zeros among the penalised weights; `"groups"`: the share of zero groups, for
            group penalties. Groups that reach over several weights count once.
        every: Steps between two corrections. Defaults to 10. Fewer follow more closely; each counts the zeros once.
        verbose: 1 prints a line each epoch. Defaults to 0.

    Needs `keras_reg.optimizers.Proximal`: without a prox there are no exact zeros to count. `logs` gains `strength` (or `strength/<path>`),
    `sparsity` and, for groups, `group_sparsity`, at the end of every epoch.

    Example:

    >>> from keras_reg.callbacks import TargetSparsity
    >>> callback = TargetSparsity(0.9, epoch=10)

    Reference for the ramp: [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878).
    """

    def __init__(self, target: float, epoch: int, of: str = "weights", every: int = 10, verbose: int = 0):
        super().__init__()
        self.target = real_number(target, "target")
        if not 0 < self.target < 1:
            raise ValueError(f"Argument `target` must be between 0 and 1, both excluded. Received: target={target}")
        self.epoch = greater_than(epoch, 0, "epoch")
        self.of = one_of(of, ("weights", "groups"), "of")
        self.every = int(greater_than(every, 0, "every"))
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        self._steps_in_epoch = self.params.get("steps")
        self._last = None
        self._largest_rate = 0.0
        super().on_train_begin(logs)

    def _choose(self) -> dict[str, Any]:
        optimizers = list(proximal_optimizers(self.model.optimizer))
        counted = [path for path, v in self._penalised.items() if is_constraint(v.regularizer)]
        if counted:
            raise ValueError(
                "TargetSparsity looks for strengths, and a constraint has none: its share of zeros is set, and moved with "
                f"StrengthScheduler. Received: a model with constraints on {', '.join(counted)}"
            )
        chosen = {path: v for path, v in self._penalised.items() if any(optimizer.applies_prox_to(v) for optimizer in optimizers)}
        if not chosen:
            raise ValueError(
                "TargetSparsity needs a model compiled with `keras_reg.optimizers.Proximal`, and a penalty with `proximal=True`: only a "
                f"prox reaches exact zeros. Received: optimizer {type(self.model.optimizer).__name__}"
            )
        zero = [path for path, variable in chosen.items() if variable.regularizer.strength == 0]
        if zero:
            raise ValueError(
                f"TargetSparsity multiplies strengths, so none may be 0 at the start. Received: strength 0 at {', '.join(zero)}"
            )
        if self.of == "groups" and not any(hasattr(v.regularizer, "axis") for v in self._penalised.values()):
            raise ValueError("Argument `of` must be 'weights' for a model without group penalties. Received: of='groups'")
        return chosen

    def _ends_apart(self) -> bool:
        return len({v.regularizer.strength for v in self._moved.values()}) > 1

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._in_epoch = epoch, 0
        self._remember_where_it_starts()

    def _remember_where_it_starts(self) -> None:
        if self._ready and self._last is None:
            self._last = self._asked_for(), self._reached()

    def on_train_batch_end(self, batch, logs=None):
        before, self._in_epoch = self._in_epoch, batch + 1
        if before // self.every == self._in_epoch // self.every:
            return
        self._sync()
        self._remember_where_it_starts()
        self._correct()

    def _asked_for(self) -> float:
        # How long the first epoch of a generator will be is not known: the ramp moves at its end.
        within = self._in_epoch / self._steps_in_epoch if self._steps_in_epoch else 0.0
        progress = min((self._epoch + within) / self.epoch, 1.0)
        return self.target * (1 - (1 - progress) ** 3)

    def _reached(self) -> float:
        if self.of == "groups":
            return zeros(self._penalised.values(), groups_of_penalties=True).group_sparsity
        return zeros(self._penalised.values()).sparsity

    def _correct(self) -> float:
        asked_for, reached = self._asked_for(), self._reached()
        asked_before, reached_before = self._last
        self._last = asked_for, reached
        corrections = self.epoch * max(1.0, (self._steps_in_epoch or self._in_epoch) / self.every)
        change = PROPORTIONAL * ((asked_for - asked_before) - (reached - reached_before)) + INTEGRAL / corrections * (asked_for - reached)
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._largest_rate = max(self._largest_rate, rate)
        change *= rate / self._largest_rate if self._largest_rate else 0.0
        move([(variable, self._moderate(variable, change)) for variable in self._moved.values()])
        return reached

    def _moderate(self, variable: Any, change: float) -> float:
        own = variable.regularizer
        configured = own.configured.strength
        return min(max(own.strength * math.exp(change), configured / FARTHEST), configured * FARTHEST)

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._steps_in_epoch = self._steps_in_epoch or self._in_epoch
        self._remember_where_it_starts()
        reached = self._correct()
        strengths = {path: v.regularizer.strength for path, v in self._moved.items()}
        self._log(logs, strengths)
        if logs is not None and self.of == "groups":
            logs["group_sparsity"] = reached
        if self.verbose:
            shown = ", ".join(f"{strength:.3g}" for strength in sorted(set(strengths.values())))
            print(f"TargetSparsity, epoch {epoch + 1}: {reached:.1%} of the {self.of} are zero; strength {shown}")
