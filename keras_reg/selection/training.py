"""The fits of a path on one set of examples: what is run here, in another process or on another machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_reg.callbacks.data_loss import track
from keras_reg.models.statistics import zeros
from keras_reg.selection.data import Data
from keras_reg.selection.folder import Folder, Point
from keras_reg.selection.packing import State, unpack
from keras_reg.selection.strengths import Strengths

PARTS = 10  # of validation data at least, from which their standard error is estimated


@dataclass
class Job:
    """Fits at several strengths, one after the other, by one copy of the model.

    Attributes:
        name: Of the examples: `"all"`, or a fold.
        strengths: With their places on the grid.
        code: The user's functions and classes in the model, where it is trained in this process.
        only: The place, among the weights of the model, of the one whose strength moves; `None` for all.
    """

    name: str
    model: bytes
    strengths: list[tuple[int, float]]
    data: Data
    validation: Data | None
    fit: dict[str, Any]
    monitor: str
    warm_start: bool
    patience: int | None
    seed: int | None
    verbose: int
    folder: Folder
    backend: str
    code: dict[str, Any] = field(default_factory=dict)
    only: int | None = None


def train(job: Job, report: Callable[[Point], Any] = lambda point: None) -> list[Point]:
    """The results of all fits; those that are in the folder are read. It ends early where `report` returns `True`."""
    if job.backend != keras.backend.backend():
        raise RuntimeError(
            f"Models of {job.backend} cannot be trained here, where Keras runs on {keras.backend.backend()}: set KERAS_BACKEND."
        )
    points, trainer = [], None
    for index, strength in job.strengths:
        point = job.folder.read(job.name, index)
        if point is None:
            if trainer is None:
                trainer = Trainer(job, points[-1].weights if points and job.warm_start else None)
            point = trainer.fit(index, strength)
            job.folder.write(job.name, point)
        points.append(point)
        if report(point):
            break
    return points


class Trainer:
    """A copy of the model that is trained at one strength after the other, compiled once."""

    def __init__(self, job: Job, weights: list[np.ndarray] | None = None):
        self.job = job
        self.model = unpack(job.model, job.code)
        self.strengths = Strengths(self.model, job.only)
        self.strengths.prepare()
        if job.data.cuttable:  # the first fit then draws as many random numbers as the others, wherever it is made
            batch, _ = next(job.data.cut(slice(2)).batches(2))
            self.model._symbolic_build(data_batch=batch)
            names = sorted(self.model.get_metrics_result())
            if job.validation is not None and job.monitor not in names:
                raise ValueError(f"Argument `monitor` must be one of {names}. Received: monitor={job.monitor!r}")
        self.start = State(self.model)
        if weights is not None:
            self.model.set_weights(weights)

    def fit(self, index: int, strength: float) -> Point:
        job, model, started = self.job, self.model, time.perf_counter()
        if not job.warm_start:
            self.start.restore_model()
        self.start.restore_optimizer()  # learning-rate schedules begin anew
        self.strengths.set(strength)
        if job.seed is not None:
            keras.utils.set_random_seed(job.seed + index)
        track(model)
        data = job.data
        given = {"x": data.x, "y": data.y, "sample_weight": data.sample_weight, "class_weight": data.class_weight}
        callbacks = [*tree.flatten(job.fit.get("callbacks") or []), *self._early_stop()]
        if job.validation is not None and (callbacks or job.verbose):  # somebody looks at it after each epoch
            given["validation_data"] = _for_keras(job.validation)
        arguments = {**job.fit, "callbacks": callbacks, "verbose": job.verbose}
        history = model.fit(**{key: value for key, value in given.items() if value is not None}, **arguments)
        counted = zeros(self.strengths.variables.values())
        scores, errors = self._scores()
        return Point(
            index=index,
            strength=strength,
            epochs=len(history.epoch),
            seconds=round(time.perf_counter() - started, 3),
            weights_in_all=counted.size,
            nonzero=counted.size - counted.zeros,
            groups=counted.groups,
            nonzero_groups=counted.groups - counted.zero_groups,
            objective=float(history.history["loss"][-1]),
            scores=scores,
            errors=errors,
            weights=[np.array(w) for w in model.get_weights()],
        )

    def _early_stop(self) -> list[Any]:
        if self.job.patience is None:
            return []
        # With its penalty, which is the same all through the fit.
        monitor = "loss" if self.job.validation is None else "val_loss"
        return [keras.callbacks.EarlyStopping(monitor, patience=self.job.patience)]

    def _scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """The metrics on the validation data, the loss without penalties, and their standard errors."""
        data = self.job.validation
        if data is None:
            return {}, {}
        track(self.model)  # another callback may have ended that
        batch_size = self.job.fit.get("validation_batch_size") or self.job.fit.get("batch_size") or 32
        means = _RunningMeans()
        arguments = {"batch_size": max(1, min(batch_size, -(-len(data) // PARTS)))} if data.cuttable else {}
        if not data.cuttable and self.job.fit.get("validation_steps"):
            arguments["steps"] = self.job.fit["validation_steps"]
        given = {"x": data.x, "y": data.y, "sample_weight": data.sample_weight}
        logs = self.model.evaluate(
            **{key: value for key, value in given.items() if value is not None},
            **arguments,
            verbose=0,
            return_dict=True,
            callbacks=[means],
        )
        logs["loss"] = logs.pop("data_loss")
        errors = {("loss" if key == "data_loss" else key): means.standard_error(key) for key in means.names if key != "loss"}
        errors = {key: error for key, error in errors.items() if np.isfinite(error)}
        return {key: float(value) for key, value in logs.items()}, errors


def _for_keras(data: Data) -> Any:
    if not data.cuttable:
        return data.x
    return (data.x, data.y) if data.sample_weight is None else (data.x, data.y, data.sample_weight)


class _RunningMeans(keras.callbacks.Callback):
    """The means over batches, from those over all batches so far that Keras tells."""

    def __init__(self):
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def on_test_batch_end(self, batch, logs=None):
        self.rows.append({key: float(value) for key, value in (logs or {}).items()})

    @property
    def names(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    def standard_error(self, name: str) -> float:
        """Of the mean of a metric that is a mean over examples; NaN where there is one batch."""
        running = np.array([row.get(name, np.nan) for row in self.rows], "float64")
        sums = running * np.arange(1, len(running) + 1)
        batches = np.diff(sums, prepend=0.0)
        if len(batches) > 2:
            batches = batches[:-1]  # the last may be smaller
        return float(np.std(batches, ddof=1) / np.sqrt(len(batches))) if len(batches) > 1 else float("nan")
