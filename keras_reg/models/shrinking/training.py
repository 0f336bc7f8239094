"""What the trainings of `shrink` have in common: data, callbacks, and a folder in which they are kept."""

import inspect
import json
import math
import os
import pathlib
import shutil
import time
from typing import Any

import keras

from keras_reg._validation import received
from keras_reg.models.fingerprint import fingerprint
from keras_reg.models.shrinking.ramp import accumulated

OPTIONS = ("class_weight", "sample_weight", "shuffle", "steps_per_epoch", "validation_steps", "validation_batch_size", "validation_freq")
CHOOSE_AN_EPOCH = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint)


class Training:
    """Trains models on the same data.

    Args:
        model: A compiled model, to try the data on.
        data: `x`, `y`, `validation_data` and `batch_size`, as for `fit`.
        epochs: Of each training.
        verbose: As for `fit`.
        callbacks: As for `fit`.
        options: Others of its arguments.

    Attributes:
        judged_on: Which data metrics are of.
        seconds_before: What a call that was interrupted has trained.
    """

    def __init__(self, model: Any, data: dict[str, Any], epochs: int, verbose: Any, callbacks: Any, options: dict[str, Any]):
        for name in set(options) - set(OPTIONS):
            raise TypeError(f"shrink hands {', '.join(OPTIONS)} to `fit`, and nothing else. Received: {name}={options[name]!r}")
        self.data, self.epochs, self.verbose, self.options = data, epochs, verbose, options
        self.callbacks = keras.tree.flatten(callbacks) if callbacks else []
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise TypeError(f"Argument `callbacks` must be a list of callbacks of Keras. {received(callback, 'callbacks')}")
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ValueError("Argument `callbacks` must be without BackupAndRestore, which is for one training: use `backup_dir=`")
        self.judged_on = "training data" if data["validation_data"] is None else "validation data"
        self.seconds_before = 0.0
        self._folder = None
        self._try(model)

    def _try(self, model: Any) -> None:
        """One batch of each through the loss, so that data that do not fit cost no training."""
        x = self.data["x"]
        if inspect.isgenerator(x) and not self.options.get("steps_per_epoch"):
            raise ValueError(
                "Argument `x` must not be a generator without `steps_per_epoch`: it can be read once, and has to be read often."
            )
        for judged in (False, True):
            x, y, weights, size, _ = self._judged() if judged else self._trained()
            if hasattr(x, "__next__"):
                continue  # what is taken out of it is gone
            try:
                model.evaluate(x, y, size, sample_weight=weights, steps=1, verbose=0)
            except Exception as error:  # of the backend, of whatever kind
                shapes = keras.tree.map_structure(lambda one: getattr(one, "shape", None), y)
                raise ValueError(
                    f"The loss cannot be computed on the {self.judged_on if judged else 'training data'}: the model gives outputs of shape "
                    f"{model.output_shape}. Received: y of shape {shapes}: {' '.join(str(error).split())[-300:]}"
                ) from error

    def _trained(self) -> tuple:
        options = self.options
        return self.data["x"], self.data["y"], options.get("sample_weight"), self.data["batch_size"], options.get("steps_per_epoch")

    def _judged(self) -> tuple:
        if (validation := self.data["validation_data"]) is None:
            return self._trained()
        validation = tuple(validation) if isinstance(validation, list) else validation
        size = self.options.get("validation_batch_size") or self.data["batch_size"]
        return (*keras.utils.unpack_x_y_sample_weight(validation), size, self.options.get("validation_steps"))

    def updates(self, model: Any) -> int | None:
        """How many there are in a training, if that is known."""
        steps = self.options.get("steps_per_epoch")
        x, size = self.data["x"], self.data["batch_size"] or 32
        if steps is None and hasattr(leaf := keras.tree.flatten(x)[0], "shape"):
            steps = math.ceil(leaf.shape[0] / size)
        if steps is None:
            try:
                steps = len(x)
            except TypeError:  # of a length that is not known, or without end
                return None
        return steps * self.epochs // accumulated(model)

    def fit(self, model: Any, name: str, ramp: Any = None) -> None:
        """Trains a model, or has it as it was when this training was over in a call before.

        Args:
            model: The model.
            name: Of the training.
            ramp: A callback that is there first.
        """
        callbacks = [c for c in self.callbacks if ramp is None or not isinstance(c, CHOOSE_AN_EPOCH)]
        callbacks = [*([] if ramp is None else [ramp]), *callbacks]
        arguments = {**self.data, **self.options, "epochs": self.epochs, "verbose": self.verbose}
        if self._folder is None:
            model.fit(callbacks=callbacks, **arguments)
            return
        if name in self._job["seconds"]:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self._folder / f"{name}.weights.h5")
            return
        begun = self._folder / name
        start = time.perf_counter()
        model.fit(
            callbacks=[*callbacks, keras.callbacks.BackupAndRestore(begun, double_checkpoint=True, delete_checkpoint=False)], **arguments
        )
        model.save_weights(self._folder / f"{name}.weights.h5")
        self._job["seconds"][name] = time.perf_counter() - start
        self._write()
        shutil.rmtree(begun)

    def metrics(self, model: Any) -> dict[str, float]:
        x, y, weights, size, steps = self._judged()
        found = model.evaluate(x, y, size, sample_weight=weights, steps=steps, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}

    def keep_in(self, folder: Any, model: Any, job: dict[str, Any]) -> None:
        """From now on trainings are kept there, and those of an interrupted call are found again.

        Args:
            folder: Where, or `None`.
            model: The model of before.
            job: What is asked for.
        """
        if folder is None:
            return
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        given = {
            "weights": fingerprint(*(weight.value for weight in model.weights)),
            "data": fingerprint(self.data, self.options.get("sample_weight")),
            "batch_size": self.data["batch_size"],
        }
        self._job = {"job": {**job, **given}, "seconds": {}}
        if (file := self._folder / "shrink.json").exists():
            kept = json.loads(file.read_text())
            if kept["job"] != self._job["job"]:
                other = [key for key in self._job["job"] if kept["job"].get(key) != self._job["job"][key]]
                raise ValueError(
                    f"Argument `backup_dir` must be a new folder, or have the work of the same call. Received: {str(folder)!r}, with "
                    f"that of a call with other {', '.join(other)}"
                )
            self._job = kept
            self.seconds_before = sum(kept["seconds"].values())
        self._write()

    def _write(self) -> None:
        new = self._folder / "shrink.json.new"
        new.write_text(json.dumps(self._job))
        os.replace(new, self._folder / "shrink.json")
