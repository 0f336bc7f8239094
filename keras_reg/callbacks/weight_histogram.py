"""The callback that shows what training does to the weights."""

import numbers
import os
import re
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg._validation import boolean, non_negative, received, whole_number
from keras_reg.backend import is_first_process
from keras_reg.callbacks.data_loss import release, track
from keras_reg.callbacks.event_file import EventFile, histogram_record, scalar_record
from keras_reg.callbacks.gradients import gradient_function
from keras_reg.callbacks.statistics import shares
from keras_reg.models.attachment.mistakes import warn_of_mistakes
from keras_reg.models.gate_report import count_gates
from keras_reg.models.statistics import by_class, penalties, totals
from keras_reg.ops.counts import Counts, count, histogram
from keras_reg.weights import choose, group_axis, named_weights, read


class WeightHistogram(keras.callbacks.Callback):
    """Writes histograms and statistics of the weights as TensorBoard logs, and the statistics of the model into `logs`.

    It needs the `tensorboard` package and no TensorFlow. Records go to the run `weights` below `log_dir`, beside the `train` and
    `validation` of `keras.callbacks.TensorBoard`. Their step is the optimizer's number of updates, which goes on from one `fit` to
    the next and in a resumed run. Initial and final weights are always logged, the initial ones of a model that is built by then.

    Put it before the callbacks that are to see its statistics (CSVLogger, EarlyStopping, ModelCheckpoint, …). Every epoch adds to `logs`:

    | name | meaning |
    | --- | --- |
    | `zeros`, `near_zeros` | share of the chosen weights that are exactly 0; of magnitude `near_zero` or less |
    | `zero_groups` | share of groups that are exactly 0: those of the weight's penalty, or else units and filters |
    | `l1_norm`, `l2_norm` | sum of magnitudes, Euclidean norm |
    | `non_finite` | number of chosen weights that are NaN or infinite |
    | `penalty` | what the penalties on weights add to the loss now, and those on activities have added in the mean of the epoch |
    | `data_loss`, `val_data_loss` | `loss` and `val_loss` (which stay) without `model.losses`, batch by batch |

    The data losses are metrics of the model while it trains with this callback: Keras averages them as it does `loss`. They are absent
    where the model's own `train_step` does not call `compute_loss`, or reports no metrics. On TensorFlow a model traces its steps anew in
    every `fit` with this callback, as the metrics change.

    TensorBoard gets the same under `model/…`, the penalty by class as well, and for each weight, by its path in the model, the histogram
    and its `zeros`, `near_zeros`, `zero_groups`, norms, `penalty` and `strength`; for each layer with several chosen weights, their sums.

    Args:
        log_dir: Directory, or a remote address that TensorBoard's own writer takes.
        freq: `"epoch"`, `"5 epochs"` for every fifth, or the number of batches from one logging to the next.
        include: Which weights: a name pattern such as `"*/kernel"` or `"encoder/*"` (`"*"` for all), a layer, a variable, or a list of
            those. Defaults to kernels, embeddings and all weights with a penalty. A pattern that no weight answers to is an error.
        exclude: Which of these to leave out, in the same terms.
        bins: The largest number of bins, at least 2. Their width is a power of two, and zero is in the middle of one.
        near_zero: Up to which magnitude a weight counts as nearly zero, in units of the weights.
        updates: Whether to log histograms of what changed since the last logging as well. Keeps one copy of the chosen weights.
        gradients: A batch `(x, y)` or `(x, y, sample_weight)`: histograms of the gradient on it of the compiled loss, penalties
            included, layers running as in inference. Evaluated apart from the training step, at every logging.
        gates: Whether to log histograms of `layer.open_probability()`, the probabilities that gates are open, of every layer that has it.
            Of those of `keras_reg.layers` also `open_gates` and `expected_open_gates`, by layer, and of the model in `logs` too.

    Under `tf.distribute`, several JAX processes or `torch.distributed`, the first process writes. A log directory that fails costs
    the logs, with one warning, and not the training.

    Example:

    >>> import tempfile
    >>> import keras, numpy as np
    >>> from keras_reg.callbacks import WeightHistogram
    >>> from keras_reg.regularizers import L1
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer=L1(0.01))])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 3))
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[WeightHistogram(tempfile.mkdtemp())])
    >>> history.history["zeros"]
    [0.0, 0.0]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike = "logs",
        freq: int | str = "epoch",
        include: Any = None,
        exclude: Any = None,
        bins: int = 64,
        near_zero: float = 1e-3,
        updates: bool = False,
        gradients: tuple | None = None,
        gates: bool = False,
    ):
        super().__init__()
        if not isinstance(log_dir, (str, bytes, os.PathLike)):
            raise TypeError(f"Argument `log_dir` must be a path. {received(log_dir, 'log_dir')}")
        self.log_dir = os.fspath(log_dir)
        self.batches_between, self.epochs_between = _frequency(freq)
        self.include, self.exclude = include, exclude
        self.bins = whole_number(bins, "bins", at_least=2)
        self.near_zero = non_negative(near_zero, "near_zero")
        self.updates = boolean(updates, "updates")
        if gradients is not None and not (isinstance(gradients, (tuple, list)) and len(gradients) in (2, 3)):
            raise ValueError(f"Argument `gradients` must be a batch (x, y) or (x, y, sample_weight). Received: {type(gradients).__name__}")
        self.gradients = gradients
        self.gates = boolean(gates, "gates")
        # Keras may go on with the next step before the hook of the last one has run, unless the hook reads weights.
        self.async_safe = self.batches_between is None
        self._step = 0
        self._warned = False

    # `self.model` is looked at where a record is due and nowhere else: on JAX each look breaks into the flow of the training steps.

    def set_model(self, model):
        super().set_model(model)
        self._data_loss = track(model) if getattr(model, "compiled", False) else None

    def on_train_begin(self, logs=None):
        warn_of_mistakes(self.model)
        self._start_step = self._weights = self._file = None
        self._batches = self._epoch_batches = 0

    def on_epoch_begin(self, epoch, logs=None):
        # Not in on_train_begin, where a later callback may yet restore the weights of a run that was broken off.
        if self._start_step is None:
            self._start_iterations = self._iterations() or 0
            # The optimizer of a model that was compiled anew counts from 0 again.
            self._start_step = self._step = max(self._step, self._start_iterations)
        self._batches += self._epoch_batches
        self._epoch_batches = 0
        # TensorFlow builds some models at their first step.
        if self._weights is None and self.model.built:
            self._start()
            self._look(None, write=True)

    def on_train_batch_end(self, batch, logs=None):
        before = self._start_step + self._batches + self._epoch_batches
        self._epoch_batches = max(self._epoch_batches, batch + 1)
        if self.batches_between is None:
            return
        if (self._start_step + self._batches + self._epoch_batches) // self.batches_between > before // self.batches_between:
            self._update_step()
            self._look(logs, write=True)

    def on_epoch_end(self, epoch, logs=None):
        self._update_step()
        due = self.epochs_between is not None and (epoch + 1) % self.epochs_between == 0
        statistics = self._look(logs, write=due)
        if logs is not None:
            logs.update(statistics)
            if self._data_loss is not None and not float(ops.convert_to_numpy(self._data_loss.count)):
                logs.pop("data_loss", None)  # a step of the model's own computes its loss elsewhere

    def on_train_end(self, logs=None):
        if self._data_loss is not None:
            release(self.model)
        if self._weights is None:
            return
        if self._written != self._step:
            self._look(None, write=True)
        if self._file is not None:
            self._file.close()

    def _start(self):
        warn_of_mistakes(self.model)  # of a model that was not built when training began
        self._weights = choose(self.model, self.include, self.exclude)
        self._previous = {}
        self._gradient = gradient_function(self.model, self.gradients) if self.gradients is not None else None
        self._gated = self._gated_layers() if self.gates else {}
        self._file = EventFile(os.path.join(self.log_dir, "weights"), self._start_step) if is_first_process(self.model) else None
        self._written = None

    def _iterations(self) -> int | None:
        iterations = getattr(self.model.optimizer, "iterations", None)
        return None if iterations is None else int(ops.convert_to_numpy(iterations))

    def _update_step(self):
        iterations = self._iterations()
        done = self._batches + self._epoch_batches if iterations is None else iterations - self._start_iterations
        self._step = self._start_step + done

    def _look(self, logs: dict | None, write: bool) -> dict[str, float]:
        """Measure the model as it is, and write a record of it where asked to; gives the statistics of the model."""
        if self._weights is None:
            self._start()
        counts, records = {}, []
        write_here = write and self._file is not None
        for name, variable in self._weights.items():
            values = read(variable)
            counts[name] = own = count(values, self.near_zero, group_axis(variable))
            if write_here:
                records += self._histograms(name, values, own)
        self._warn_of_non_finite(counts)
        by_weight = penalties(self.model)
        penalty_of = {name: by_weight[id(variable)] for name, variable in named_weights(self.model).items() if id(variable) in by_weight}
        activity = self._data_loss.activity if self._data_loss is not None and logs is not None else 0.0
        model_statistics = {**shares(totals(self._weights, counts)), "penalty": sum(penalty_of.values()) + activity}
        counted = count_gates(self.model) if self.gates else ()
        if counted:
            model_statistics["open_gates"] = float(sum(one.open for one in counted))
            model_statistics["expected_open_gates"] = sum(one.expected_open for one in counted)
        losses = {name: float(logs[name]) for name in ("data_loss", "val_data_loss") if logs and name in logs}
        if write_here:
            if self._gradient is not None:
                records += self._gradients()
            for name, layer in self._gated.items():
                probabilities = ops.convert_to_numpy(ops.stop_gradient(layer.open_probability()))
                records.append(self._histogram(f"{name}/open_probability", probabilities))
            for one in counted:
                records.append(scalar_record(f"{one.name}/open_gates", one.open))
                records.append(scalar_record(f"{one.name}/expected_open_gates", one.expected_open))
            for name, own in counts.items():
                strength = getattr(self._weights[name].regularizer, "strength", None)
                own = {**shares(totals({name: self._weights[name]}, {name: own})), "penalty": penalty_of.get(name), "strength": strength}
                records += [scalar_record(f"{name}/{key}", value) for key, value in own.items() if value is not None]
            for layer, names in _layers(counts).items():
                chosen, theirs = ({name: every[name] for name in names} for every in (self._weights, counts))
                own = {**shares(totals(chosen, theirs)), "penalty": sum(penalty_of.get(name, 0.0) for name in names)}
                records += [scalar_record(f"{layer}/{key}", value) for key, value in own.items()]
            classes = {f"penalty/{name}": value for name, value in by_class(self.model, by_weight).items()}
            records += [scalar_record(f"model/{key}", value) for key, value in {**model_statistics, **losses, **classes}.items()]
            self._file.write(self._step, records)
        if write:
            self._written = self._step
        return model_statistics

    def _histograms(self, name: str, values: np.ndarray, own: Counts) -> list[Any]:
        records = [histogram_record(name, *histogram(values, own, self.bins))]
        if self.updates:
            if name in self._previous:
                records.append(self._histogram(f"{name}/update", values - self._previous[name]))
            self._previous[name] = np.array(values)
        return records

    def _gradients(self) -> list[Any]:
        names = {id(variable): name for name, variable in self._weights.items()}
        pairs = zip(self.model.trainable_variables, self._gradient(), strict=True)
        return [self._histogram(f"{names[id(v)]}/gradient", values) for v, values in pairs if id(v) in names]

    def _gated_layers(self) -> dict[str, Any]:
        found = {}
        for layer in self.model._flatten_layers():
            if callable(getattr(layer, "open_probability", None)):
                name = (layer.path or layer.name).removeprefix(f"{self.model.name}/")
                found[name if name not in found else f"{name}_{len(found)}"] = layer
        if not found:
            raise ValueError("Argument `gates` is True, but no layer of the model has gates, that is, a method `open_probability()`.")
        return found

    def _histogram(self, tag: str, values: np.ndarray) -> Any:
        own = count(values)
        return histogram_record(tag, *histogram(values, own, self.bins))

    def _warn_of_non_finite(self, counts: dict[str, Counts]) -> None:
        found = [f"{name} ({own.nan} NaN, {own.infinite} infinite)" for name, own in counts.items() if own.nan or own.infinite]
        if found and not self._warned:
            self._warned = True
            others = f" and {len(found) - 3} other weights" if len(found) > 3 else ""
            warnings.warn(
                f"WeightHistogram: weights are not finite at step {self._step}: {', '.join(found[:3])}{others}. "
                "Histograms hold the finite ones; `non_finite` counts the others.",
                stacklevel=2,
            )


def _layers(names: Iterable[str]) -> dict[str, list[str]]:
    """The weights of each layer that has several, by its path."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    return {layer: own for layer, own in layers.items() if layer and len(own) > 1}


def _frequency(freq: Any) -> tuple[int | None, int | None]:
    """Batches and epochs between two loggings; one of the two is `None`."""
    if isinstance(freq, str) and (match := re.fullmatch(r"(?:([1-9]\d*) )?epochs?", freq)):
        return None, int(match[1] or 1)
    if isinstance(freq, numbers.Integral) and not isinstance(freq, bool) and freq > 0:
        return int(freq), None
    raise ValueError(f'Argument `freq` must be "epoch", "N epochs" or a positive number of batches. {received(freq, "freq")}')
