"""The whole way to a smaller model in one call."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_reg._validation import received, whole_number
from keras_reg.models.attachment.attach import attach
from keras_reg.models.compaction.compact import compact
from keras_reg.models.compaction.compiling import compile_anew
from keras_reg.models.shrinking.budgets import budgets_of, can_be_met, check_smallest, cost
from keras_reg.models.shrinking.goal import Goal
from keras_reg.models.shrinking.ramp import Ramp
from keras_reg.models.shrinking.report import ShrinkReport, Tried, report
from keras_reg.models.shrinking.splitting import split_off
from keras_reg.models.shrinking.training import Training
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import StructuralL0Constraint


def shrink(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    units: float | None = None,
    metric_drop: float | None = None,
    monitor: str | None = None,
    epochs: int = 10,
    batch_size: int | None = None,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_data: Any = None,
    backup_dir: Any = None,
    **fit_options: Any,
) -> tuple[Any, ShrinkReport]:
    """Make a trained model smaller: to a budget, or as far as a metric holds.

    For one budget it is this program:

    ```python
    ramped = compact(model)  # a copy
    attach(ramped, StructuralL0Constraint(1.0, every=10))
    ramped.compile(Proximal("adam"), loss)  # as the model is compiled
    ramp = keras.optimizers.schedules.PolynomialDecay(1.0, 2 * updates // 3, macs, power=3)
    ramped.fit(x, y, epochs=epochs, callbacks=[StrengthScheduler(ramp, freq=10)])  # in trainings of under 300 updates: 1, not 10
    small = compact(strip(ramped))
    small.compile("adam", loss)
    small.fit(x, y, epochs=epochs)
    ```

    Each of the two trainings starts the optimizer from its beginning, with the model's present learning rate or schedule. A penalty that
    the model has on a weight which the budget reaches gives way in the first, and is there again in the second and in the result.

    Args:
        model: A built and compiled Sequential or functional model, trained or not. It stays as it is.
        x, y: What to train on, as in `fit`: arrays, a `tf.data.Dataset`, a `PyDataset`, a PyTorch `DataLoader`, a generator without end.
        macs, parameters, units: The budget, one of them: which share may be left of the multiplications, the parameters, the units.
        metric_drop: In place of a budget: how much worse than that of the given model the metric on `validation_data` may be, in units of
            the metric. Budgets of 70 % of the multiplications, 49 %, 34 % and so on are tried, each from what the one before has left,
            and the last that holds is taken.
        monitor: Which metric that is, by its name in `evaluate`. Defaults to the first compiled one, or the loss where there is none.
            Whether more is better is decided as in `EarlyStopping`.
        epochs: Of each of the two trainings of a budget.
        batch_size, verbose, validation_data: As in `fit`. With `verbose` a line is printed for each budget.
        callbacks: As in `fit`, for both trainings; `EarlyStopping` and `ModelCheckpoint`, which choose an epoch, for the second alone.
        backup_dir: A folder for what is trained. The same call with the same folder goes on after an interruption from the last epoch.
        fit_options: `class_weight`, `sample_weight`, `shuffle`, `steps_per_epoch`, `validation_split`, `validation_steps`,
            `validation_batch_size` and `validation_freq`, as in `fit`.

    Returns:
        The smaller model, compiled as the given one, and a report: `print` shows it, as does a notebook; `metrics`, `parameters`, `macs`,
        `bytes` (of the file, without the optimizer's memory) and `milliseconds` (to predict a batch of 32) before and after, `layers`,
        `blockers`, `budgets`, `seconds` and `to_dict()`. Without `validation_data` the metrics are those on the training data.

    Raises:
        ValueError: before any training, where the model is not compiled, not built or subclassed; where not one of budgets and
            `metric_drop` is given; where a budget is below what can leave, with the smallest; where nothing can leave, with what holds
            it; where data do not fit the model; where `backup_dir` has the work of another call.
        RuntimeError: where the first training ends before the budget is reached, as by a callback.

    Example:

    >>> import keras
    >>> from keras_reg.models import shrink
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x, y = keras.random.normal((64, 8)), keras.random.normal((64, 1))
    >>> small, report = shrink(model, x, y, macs=0.5, epochs=2, verbose=0)
    >>> report.macs, small.count_params(), model.count_params()
    ((144, 72), 81, 161)
    """
    started = time.perf_counter()
    data = {"x": x, "y": y, "validation_data": validation_data, "batch_size": batch_size}
    data, fit_options = split_off(data, fit_options)
    of, budgets = budgets_of({"macs": macs, "parameters": parameters, "units": units}, metric_drop, data["validation_data"])
    epochs = whole_number(epochs, "epochs", at_least=1)
    _check(model)
    dense = small = _copied(model)
    full = cost(model, of)
    check_smallest(dense, of, budgets[0] * full, "metric_drop" if metric_drop is not None else of, full)
    training = Training(dense, data, epochs, verbose, callbacks, fit_options)
    if training.updates(dense) in (0, 1):
        raise ValueError(f"Argument `epochs` must make for two updates or more, on the way down to a budget. Received: epochs={epochs}")
    before = metrics = training.metrics(dense)
    goal = Goal(dense, monitor, before, metric_drop)
    training.keep_in(backup_dir, dense, {"of": of, "budgets": budgets[:2], "goal": str(goal), "epochs": epochs})
    tried = []
    for budget in budgets:
        if tried and not can_be_met(small, of, budget * full):
            break
        candidate = _cut(small, of, min(1.0, budget * full / cost(small, of)), training, f"{len(tried)}")
        found = training.metrics(candidate)
        tried.append(Tried(budget, cost(candidate, of) / full, found[goal.monitor], goal.holds(found)))
        if verbose not in (0, "0"):
            print(f"{of} {tried[-1].left:.1%}: {goal.said(found)}")
        if not tried[-1].held:
            break
        small, metrics = candidate, found
    if small is dense:
        warnings.warn(f"shrink: no budget held {goal}: what is returned is a copy of the model.", stacklevel=2)
    return small, report(
        model,
        [_copied(dense), _copied(small)],
        (before, metrics),
        metrics_of=training.judged_on,
        monitor=goal.monitor,
        budgets=tuple(tried),
        seconds=time.perf_counter() - started + training.seconds_before,
    )


def _check(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. {received(model, 'model')}")
    if not model.compiled:
        raise ValueError(f"Argument `model` must be compiled, with the loss to train on. Received: {model.name!r}, which is not")
    _proximal(model.optimizer)  # which says what it does not take


def _copied(model: Any, wrap: Callable[[Any], Any] = lambda optimizer: optimizer) -> Any:
    """The model without units that do nothing, compiled in the same way; its optimizer is at its beginning."""
    copy = compact(model)
    compile_anew(model, copy, wrap)
    return copy


def _proximal(optimizer: Any) -> Any:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner, *scale = optimizer.inner_optimizer, optimizer.initial_scale, optimizer.dynamic_growth_steps
        return keras.optimizers.LossScaleOptimizer(_proximal(inner), *scale)
    return optimizer if isinstance(optimizer, Proximal) else Proximal(optimizer)


def _cut(model: Any, of: str, share: float, training: Training, name: str) -> Any:
    """The model trained down to a share, cut, and trained on."""
    ramped = _copied(model, _proximal)
    updates = training.updates(ramped)
    every = 10 if (updates or 0) >= 300 else 1
    attach(ramped, StructuralL0Constraint(1.0, of, every), replace=True, lasting=False)
    training.fit(ramped, f"{name}-ramp", Ramp(share, updates, every, training.epochs))
    zeros = compact(model)  # with the penalties of the model
    zeros.set_weights(ramped.get_weights())
    cut = _copied(zeros)
    training.fit(cut, f"{name}-refit")
    return cut
