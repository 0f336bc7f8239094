"""Strengths along a schedule."""

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_reg._validation import non_negative, one_of, shown, whole_number
from keras_reg.binding import move
from keras_reg.callbacks.strength import StrengthCallback
from keras_reg.contract import is_constraint
from keras_reg.running import innermost

MOST_TRIALS = 100  # of a schedule, before training starts


class StrengthScheduler(StrengthCallback):
    """Sets the strength of penalties, or the sparsity of constraints, at each epoch or step, as
    `keras.callbacks.LearningRateScheduler` sets the learning rate.

    Strengths are state of the model, or of `keras_reg.optimizers.Proximal`: nothing is compiled anew, whether a penalty acts by its
    gradient or by its prox. `loss`, `val_loss`, `evaluate`, the config of the layers and what is saved have the present strength.

    Args:
        schedule: A function of the epoch (or step), counted from 0, that returns a non-negative number. It must not remember its calls:
            before training starts it is tried over the whole run, so that an invalid value costs no work. Or a function of
            epoch (or step) and present strength, which cannot be tried. Or a `keras.optimizers.schedules.LearningRateSchedule`:
            warm-up, annealing, polynomial.
        freq: `"epoch"`, `"step"`, or a whole number `n` for every `n`-th step. Steps are updates of the weights: `optimizer.iterations`,
            read at the start of each epoch and counted on from there. Defaults to `"step"` for a `LearningRateSchedule`, whose unit it
            is, and to `"epoch"` for a function. With `steps_per_execution` above 1 the strength changes between executions.
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
        taken = 1 if is_keras_schedule else _arguments(schedule)
        if taken not in (1, 2):
            raise TypeError(
                f"Argument `schedule` must take an epoch (or step), or that and a strength. Received: a function of {taken} arguments"
            )
        self._takes_strength = taken == 2
        if not self._takes_strength:
            # An invalid value shows before any work is lost.
            self._value(0)

    def on_train_begin(self, logs=None):
        self._position = self._last = None
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
            if not is_constraint(penalty):
                try:
                    penalty.with_strength(1.0)
                except ValueError as error:  # strengths without a ratio
                    raise ValueError(f"StrengthScheduler cannot move {path!r}. {error}") from None
                continue
            for position, value in self._tried.items():  # shares, whose bounds are the constraint's own
                try:
                    penalty.with_strength(value)
                except ValueError as error:
                    raise ValueError(f"schedule({position})={value} is out of bounds. {error}") from None
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
        if self.freq != "step":
            return
        step = self._first + batch // self._accumulated
        # Passed, not met: several steps may be executed at once. A run that goes on between two of them has the strength of the first.
        before = step - 1 if self._last is None else self._last
        if step // self._every > before // self._every:
            self._set(step)
        self._last = step

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
    accumulated = getattr(innermost(optimizer), "gradient_accumulation_steps", None) or 1
    return int(ops.convert_to_numpy(optimizer.iterations)), accumulated


def _arguments(function: Callable) -> int:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a built-in function
        return 1
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    takes_one = places or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return max(needed, 1) if takes_one else needed
