"""Strengths that move during training: along a schedule, or until a wanted share of the weights is zero."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_reg._validation import greater_than, non_negative, one_of, real_number, shown
from keras_reg.models.attachment.mistakes import warn_of_mistakes
from keras_reg.ops.groups import group_axes
from keras_reg.regularizers import Penalty
from keras_reg.regularizers.acting import proximal_optimizers

PROPORTIONAL = 6.0  # a jump of the sparsity by 10 points changes a strength by the factor exp(0.6)
INTEGRAL = 40.0  # 10 points too few during the whole ramp change it by exp(4)
MOST_TRIALS = 100  # of a schedule, before training starts


class _Strengths:
    """The strengths of a model's penalties, read and set in the one place where each acts."""

    def __init__(self, model: keras.Model):
        self.model = model

    def _proximal(self) -> Iterator[tuple[Any, str]]:
        for optimizer in proximal_optimizers(self.model.optimizer):
            if optimizer.built:
                yield from ((optimizer, path) for path in optimizer.strengths)

    def _in_loss(self) -> Iterator[tuple[str, Penalty]]:
        applied = {path for _, path in self._proximal()}
        for variable in self.model.trainable_variables:
            if isinstance(variable.regularizer, Penalty) and variable.path not in applied:
                yield variable.path, variable.regularizer

    def read(self) -> dict[str, float]:
        present = {path: penalty.strength for path, penalty in self._in_loss()}
        for optimizer in proximal_optimizers(self.model.optimizer):
            if optimizer.built:
                present |= optimizer.strengths
        return present

    def write(self, strengths: dict[str, float]) -> None:
        present = self.read()
        changed = {path: value for path, value in strengths.items() if value != present[path]}
        for optimizer, path in list(self._proximal()):
            if path in changed:
                optimizer.set_strength(changed[path], path)
        in_loss = [(penalty, changed[path]) for path, penalty in self._in_loss() if path in changed]
        for penalty, value in in_loss:
            penalty.set_strength(value)
        if in_loss:
            # The strength is a constant of the compiled step.
            self.model.make_train_function(force=True)


class _StrengthCallback(keras.callbacks.Callback):
    def _build(self) -> None:
        """Know the strengths from the first step on."""
        optimizer = self.model.optimizer
        if not optimizer.built and self.model.built and any(proximal_optimizers(optimizer)):
            optimizer.build(self.model.trainable_variables)

    def _sync(self) -> None:
        # On JAX the weights of a running epoch are in the trainer, not in the variables.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

    def _log(self, logs: dict | None, strengths: dict[str, float]) -> None:
        if logs is None:
            return
        if len(set(strengths.values())) == 1:
            logs["strength"] = next(iter(strengths.values()))
        else:
            logs.update({f"strength/{path}": value for path, value in strengths.items()})
        logs["sparsity"] = sparsity(self.model)


def _penalised(model: keras.Model) -> list:
    return [v for v in model.trainable_variables if isinstance(v.regularizer, Penalty)]


def sparsity(model: keras.Model, of: str = "weights") -> float:
    """Share of the penalised weights (or groups, or weights in dead groups) that are exactly zero, between 0 and 1."""
    zero = total = 0
    for variable in _penalised(model):
        value = ops.convert_to_tensor(variable)
        axis = getattr(variable.regularizer, "axis", None)
        if of == "groups" and axis is not None:
            _, inside = group_axes(axis, len(value.shape))
            alive = ops.any(ops.not_equal(value, 0), axis=inside) if inside else ops.not_equal(value, 0)
        elif of == "groups":
            continue
        else:
            alive = ops.not_equal(value, 0)
        count = math.prod(alive.shape)
        zero += count - int(ops.sum(ops.cast(alive, "int32")))
        total += count
    return zero / total if total else 0.0


class StrengthScheduler(_StrengthCallback):
    """Sets the strength of penalties at each epoch or step, as `keras.callbacks.LearningRateScheduler` sets the learning rate.

    Under `keras_reg.optimizers.Proximal` strengths are variables of the optimizer: nothing is compiled anew, and they are saved with
    it. The strength of a penalty in the loss is a constant of the compiled step: each change compiles the step again, which takes
    seconds on large models, so that changes once an epoch or more rarely are what to ask for.

    Args:
        schedule: A function of the epoch (or step), counted from 0, that returns a non-negative number. It must not remember its calls:
            before training starts it is tried over the whole run, so that a value that is none costs no work. Or a function of
            epoch (or step) and present strength, which cannot be tried. Or a `keras.optimizers.schedules.LearningRateSchedule`:
            warm-up, annealing, polynomial.
        freq: `"epoch"` or `"step"`. Steps are updates of the weights: `optimizer.iterations`. Defaults to `"step"` for a
            `LearningRateSchedule`, whose unit it is, and to `"epoch"` for a function. With `steps_per_execution` above 1 the strength
            changes between executions.
        path: `variable.path` of the one variable to act on, such as `"sequential/dense/kernel"`. Defaults to all that have
            a penalty of keras_reg.
        verbose: 1 prints each change. Defaults to 0.

    `logs` gains, at the end of every epoch, `strength` (or `strength/<path>` for each variable where they differ) and
    `sparsity`, the share of the penalised weights that are exactly zero. Put callbacks that read them after this one.

    Example:

    >>> import keras
    >>> from keras_reg.callbacks import StrengthScheduler
    >>> warm_up = StrengthScheduler(lambda epoch: 1e-3 * min(1, (epoch + 1) / 10))
    >>> anneal = StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(1e-2, decay_steps=1000, end_learning_rate=1e-4))
    """

    def __init__(self, schedule: Callable, freq: str | None = None, path: str | None = None, verbose: int = 0):
        super().__init__()
        if not callable(schedule):
            raise TypeError(f"Argument `schedule` must be a function or a LearningRateSchedule. Received: schedule={shown(schedule)}")
        is_keras_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        self.schedule = schedule
        self.freq = one_of(("step" if is_keras_schedule else "epoch") if freq is None else freq, ("epoch", "step"), "freq")
        self.path = path
        self.verbose = verbose
        self._takes_strength = not is_keras_schedule and _arguments(schedule) > 1
        # A value that is none shows before any work is lost.
        self._value(0, 0.0)

    def on_train_begin(self, logs=None):
        self._build()
        warn_of_mistakes(self.model)
        self._strengths = _Strengths(self.model)
        present = self._strengths.read()
        if self.model.built and not present:
            raise ValueError("StrengthScheduler found no penalty of keras_reg on the trainable variables of the model.")
        if self.path is not None and present and self.path not in present:
            raise ValueError(f"Argument `path` must be one of {sorted(present)}. Received: path={self.path!r}")
        self._try_whole_run()
        if self.freq == "step" and any(self._strengths._in_loss()):
            warnings.warn(
                "StrengthScheduler changes at every step the strength of a penalty in the loss, which compiles the training step anew "
                "each time. Use `freq='epoch'`, or set `proximal=True` and train with `keras_reg.optimizers.Proximal`.",
                stacklevel=2,
            )

    def _try_whole_run(self) -> None:
        if self._takes_strength:
            return
        length = self.params.get("epochs") or 1
        if self.freq == "step":
            length *= self.params.get("steps") or 1
        for position in range(0, length, max(1, length // MOST_TRIALS)):
            self._value(position, 0.0)

    def on_epoch_begin(self, epoch, logs=None):
        if self.freq == "epoch":
            self._set(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self.freq == "step":
            self._sync()
            self._set(int(ops.convert_to_tensor(self.model.optimizer.iterations)))

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._log(logs, self._strengths.read())

    def _set(self, position: int) -> None:
        present = self._strengths.read()
        chosen = {path: strength for path, strength in present.items() if self.path in (None, path)}
        new = {path: self._value(position, strength) for path, strength in chosen.items()}
        self._strengths.write(new)
        if self.verbose and new != chosen:
            print(f"StrengthScheduler, {self.freq} {position}: strength {', '.join(f'{v:g}' for v in sorted(set(new.values())))}")

    def _value(self, position: int, strength: float) -> float:
        value = self.schedule(position, strength) if self._takes_strength else self.schedule(position)
        if ops.is_tensor(value):
            value = float(value)
        return non_negative(value, f"schedule({position})")


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
    with the optimizer: a run resumed from the end of an epoch goes on as if it had not stopped.

    Args:
        target: Share of the penalised weights that shall be zero, between 0 and 1, both excluded.
        epoch: Number of epochs from the start of training (`initial_epoch` included) after which it shall be reached.
        of: `"weights"` (default): the share of exact zeros among the penalised weights; `"groups"`: the share of zero groups, for
            group penalties.
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
        self._build()
        warn_of_mistakes(self.model)
        self._strengths = _Strengths(self.model)
        proximal = {path for optimizer in proximal_optimizers(self.model.optimizer) if optimizer.built for path in optimizer.strengths}
        if not proximal:
            raise ValueError(
                "TargetSparsity needs a model compiled with `keras_reg.optimizers.Proximal`, and built: only a prox reaches exact zeros. "
                f"Received: optimizer {type(self.model.optimizer).__name__}"
            )
        zero = [path for path, strength in self._strengths.read().items() if path in proximal and strength == 0]
        if zero:
            raise ValueError(
                f"TargetSparsity multiplies strengths, so none may be 0 at the start. Received: strength 0 at {', '.join(zero)}"
            )
        if self.of == "groups" and not any(hasattr(v.regularizer, "axis") for v in _penalised(self.model)):
            raise ValueError("Argument `of` must be 'weights' for a model without group penalties. Received: of='groups'")
        self._paths = proximal
        self._steps_in_epoch = self.params.get("steps")
        self._last = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._in_epoch = epoch, 0
        if self._last is None:
            self._last = self._asked_for(), sparsity(self.model, self.of)

    def on_train_batch_end(self, batch, logs=None):
        before, self._in_epoch = self._in_epoch, batch + 1
        if before // self.every == self._in_epoch // self.every:
            return
        self._sync()
        self._correct()

    def _asked_for(self) -> float:
        # How long the first epoch of a generator will be is not known: the ramp moves at its end.
        within = self._in_epoch / self._steps_in_epoch if self._steps_in_epoch else 0.0
        progress = min((self._epoch + within) / self.epoch, 1.0)
        return self.target * (1 - (1 - progress) ** 3)

    def _correct(self) -> float:
        asked_for, reached = self._asked_for(), sparsity(self.model, self.of)
        asked_before, reached_before = self._last
        self._last = asked_for, reached
        corrections = self.epoch * max(1.0, (self._steps_in_epoch or self._in_epoch) / self.every)
        change = PROPORTIONAL * ((asked_for - asked_before) - (reached - reached_before)) + INTEGRAL / corrections * (asked_for - reached)
        self._strengths.write({path: s * math.exp(change) for path, s in self._strengths.read().items() if path in self._paths})
        return reached

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._steps_in_epoch = self._steps_in_epoch or self._in_epoch
        reached = self._correct()
        strengths = {path: s for path, s in self._strengths.read().items() if path in self._paths}
        self._log(logs, strengths)
        if logs is not None and self.of == "groups":
            logs["group_sparsity"] = reached
        if self.verbose:
            shown = ", ".join(f"{strength:.3g}" for strength in sorted(set(strengths.values())))
            print(f"TargetSparsity, epoch {epoch + 1}: {reached:.1%} of the {self.of} are zero; strength {shown}")
