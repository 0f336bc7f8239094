"""A model trained on one task, regularized for another, and handed over without the package.

A small network learns to tell the handwritten digits 0 to 4 and is saved. It is loaded as any model of somebody else's would be, gets a new
head for the digits 5 to 9, and penalties on what is there: whole inputs of its dense layers may go. It is trained on few examples,
with and without the penalties, checked, stripped, and loaded by a process in which keras_reg cannot be imported.
Exit status: 0 if all of it worked, 1 if the stripped model gives other outputs there, 2 if the arguments cannot be used.

    python examples/transfer_learning.py
    python examples/transfer_learning.py --strength 0.01 --examples 20
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from keras_reg.models import attach, check, sparsity, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import GroupLasso

PLAIN = """
import sys
sys.modules["keras_reg"] = None  # importing it would raise
import keras, numpy as np

model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


def digits(wanted: range) -> tuple[np.ndarray, ...]:
    """Images of the wanted digits, half for training and half for the test, labelled from 0."""
    x, y = load_digits(return_X_y=True)
    chosen = np.isin(y, wanted)
    x, y = (x[chosen] / 16).astype("float32").reshape(-1, 8, 8, 1), y[chosen] - wanted.start
    return x[::2], y[::2], x[1::2], y[1::2]


def pretrained(path: Path, epochs: int, seed: int) -> float:
    """Train and save the model of the first task; gives its accuracy."""
    keras.utils.set_random_seed(seed)
    x, y, x_test, y_test = digits(range(5))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(5, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    model.save(path)
    return model.evaluate(x_test, y_test, verbose=0)[1]


def adapted(path: Path, penalty: GroupLasso | None, examples: int, epochs: int, seed: int) -> tuple[keras.Model, float]:
    """The saved model with a new head, trained on few examples of the second task; and its accuracy."""
    keras.utils.set_random_seed(seed)
    base = keras.models.load_model(path)
    head = layers.Dense(5, activation="softmax", name="new_head")
    model = keras.Sequential([keras.Input((8, 8, 1)), *base.layers[:-1], head])
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=epochs * -(-examples * 5 // 32)))
    if penalty is not None:
        print(attach(model, penalty, exclude="conv"), end="\n\n")
        optimizer = Proximal(optimizer)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    check(model).raise_if_any()
    x, y, x_test, y_test = digits(range(5, 10))
    few = np.concatenate([np.flatnonzero(y == label)[:examples] for label in range(5)])
    model.fit(x[few], y[few], batch_size=32, epochs=epochs, verbose=0)
    return model, model.evaluate(x_test, y_test, verbose=0)[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=0.002, help="of the penalty on inputs of dense layers; default: 0.002")
    parser.add_argument("--examples", type=int, default=30, help="training images for each new digit; default: 30")
    parser.add_argument("--epochs", type=int, default=80, help="of the second task; default: 80")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the batches; default: 0")
    options = parser.parse_args(arguments)
    if options.strength <= 0:
        parser.error(f"--strength must be more than 0. Received: {options.strength}")
    if min(options.examples, options.epochs) < 1:
        parser.error(f"--examples and --epochs must be at least 1. Received: {options.examples}, {options.epochs}")
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed must be from 0 to {2**32 - 1}. Received: {options.seed}")

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        saved, stripped = Path(folder) / "digits_0_to_4.keras", Path(folder) / "digits_5_to_9.keras"
        accuracy = pretrained(saved, 30, options.seed)
        print(f"Digits 0 to 4, saved with a test accuracy of {accuracy:.3f}, on {keras.backend.backend()}.\n")
        print(f"Digits 5 to 9, {options.examples} training images of each, {options.epochs} epochs:\n")
        _, plain = adapted(saved, None, options.examples, options.epochs, options.seed)
        penalty = GroupLasso(options.strength, axis=-2, proximal=True)
        model, penalised = adapted(saved, penalty, options.examples, options.epochs, options.seed)
        print("| penalties | test accuracy | zero inputs of dense layers |\n| --- | --- | --- |")
        total = sparsity(model, include=["hidden/kernel", "new_head/kernel"]).weights
        groups = f"{sum(w.zero_groups for w in total)} of {sum(w.groups for w in total)}"
        print(f"| none | {plain:.3f} | 0 |\n| {penalty!r} | {penalised:.3f} | {groups} |\n")

        strip(model).save(stripped)
        x_test = digits(range(5, 10))[2]
        inputs, outputs = Path(folder) / "x.npy", Path(folder) / "y.npy"
        np.save(inputs, x_test)
        command = [sys.executable, "-W", "ignore", "-c", PLAIN, stripped, inputs, outputs]
        subprocess.run([str(part) for part in command], check=True, env={**os.environ, "KERAS_BACKEND": keras.backend.backend()})
        difference = float(np.max(np.abs(np.load(outputs) - model.predict(x_test, verbose=0))))
    print(f"Stripped, saved, and loaded without keras_reg: outputs differ by at most {difference:.1e}.")
    print(f"{time.perf_counter() - started:.0f} s in all.")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
