"""Hard labels against smoothed ones, on data whose labels are clean and on data where some are wrong.

Four runs of one network: label smoothing off and on, with the labels as they are and with a share of them replaced by other classes,
in training and in the test alike, as if a careless person had labelled both. One table compares accuracy, calibration, confidence and
how well confidence tells right from wrong; one picture shows the reliability diagrams. The data are scikit-learn's handwritten
digits, which need no download, or any file laid out like Keras's `mnist.npz`.
Exit status: 0 if the runs worked, 2 if the arguments cannot be used.

    python examples/label_smoothing.py
    python examples/label_smoothing.py --data mnist.npz --smoothing 0.2
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np
from keras import layers

# The data, read and checked as there.
from quickstart import load_npz, scaled
from sklearn.datasets import load_digits

from keras_reg.losses import LabelSmoothingCrossentropy
from keras_reg.metrics import ExpectedCalibrationError
from keras_reg.visualization import reliability_diagram

COLUMNS = ("accuracy", "confidence", "ECE, test labels", "ECE, true labels", "AUROC", "error at 80 %")


@dataclass
class Run:
    """What is known of one trained model: its predictions, the labels it was tested on and the true ones."""

    probabilities: np.ndarray
    labels: np.ndarray
    truth: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return np.argmax(self.probabilities, axis=-1) == self.truth

    @property
    def confidence(self) -> np.ndarray:
        return np.max(self.probabilities, axis=-1)

    def calibration_error(self, labels: np.ndarray) -> float:
        metric = ExpectedCalibrationError()
        metric.update_state(labels, self.probabilities)
        return float(keras.ops.convert_to_numpy(metric.result()))

    def ranking(self) -> float:
        """AUROC of confidence: how likely a right prediction is the surer of a right and a wrong one. 0.5 is chance."""
        right, wrong = np.sort(self.confidence[self.right]), self.confidence[~self.right]
        if not (len(right) and len(wrong)):
            return float("nan")
        below = (np.searchsorted(right, wrong, "left") + np.searchsorted(right, wrong, "right")) / 2
        return 1 - float(np.mean(below)) / len(right)

    def error_at(self, coverage: float) -> float:
        """Share of wrong predictions where the least sure are left to somebody else."""
        kept = np.argsort(-self.confidence, kind="stable")[: round(coverage * len(self.truth))]
        return float(np.mean(~self.right[kept]))

    def row(self) -> tuple[float, ...]:
        errors = self.calibration_error(self.labels), self.calibration_error(self.truth)
        return float(np.mean(self.right)), float(np.mean(self.confidence)), *errors, self.ranking(), self.error_at(0.8)


def digits() -> tuple[np.ndarray, ...]:
    """Every other of the 1,797 digits for training, the rest for the test."""
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype("float32"), y.astype("int32")
    return x[::2], y[::2], x[1::2], y[1::2]


def mislabelled(y: np.ndarray, classes: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Each label with probability `share` replaced by another class."""
    other = (y + rng.integers(1, classes, len(y))) % classes
    return np.where(rng.random(len(y)) < share, other, y).astype(y.dtype)


def train(data: tuple[np.ndarray, ...], smoothing: float, noise: float, epochs: int, seed: int) -> Run:
    x_train, y_train, x_test, truth = data
    classes = int(y_train.max()) + 1
    rng = np.random.default_rng(seed)
    y_train, y_test = (mislabelled(y, classes, noise, rng) for y in (y_train, truth))
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(256, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input(x_train.shape[1:]), *hidden, layers.Dense(classes)])
    rate = keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=epochs * -(-len(x_train) // 64))
    model.compile(keras.optimizers.Adam(rate), LabelSmoothingCrossentropy(smoothing, from_logits=True))
    model.fit(x_train, y_train, batch_size=64, epochs=epochs, verbose=0)
    probabilities = keras.ops.softmax(model.predict(x_test, verbose=0))
    return Run(keras.ops.convert_to_numpy(probabilities), y_test, truth)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help="a file laid out like Keras's mnist.npz; default: handwritten digits")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the smoothed runs; default: 0.1")
    parser.add_argument("--noise", type=float, default=0.2, help="share of wrong labels in the noisy runs; default: 0.2")
    parser.add_argument("--epochs", type=int, help="default: 60, and 8 on more than 10,000 images")
    parser.add_argument("--output", type=Path, default=Path("label_smoothing.png"), metavar="FILE", help="for the picture")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the batches and the wrong labels; default: 0")
    options = parser.parse_args(arguments)
    for name in ("smoothing", "noise"):
        if not 0 < getattr(options, name) < 1:
            parser.error(f"--{name} must be more than 0 and less than 1. Received: {getattr(options, name)}")
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed must be from 0 to {2**32 - 1}. Received: {options.seed}")
    try:
        data = scaled(load_npz(options.data)) if options.data else digits()
        options.output.open("ab").close()
    except (ValueError, OSError) as error:
        problem = f"--output {options.output}: expected a file. Received: {error.strerror}" if isinstance(error, OSError) else error
        print(f"label_smoothing.py: error: {problem}", file=sys.stderr)
        return 2

    started = time.perf_counter()
    epochs = options.epochs or (60 if len(data[0]) <= 10_000 else 8)
    print(f"{len(data[0]):,} images to train and {len(data[2]):,} to test, {epochs} epochs, on {keras.backend.backend()}\n")
    print(f"| labels | smoothing | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 2)}")
    runs = {}
    for noise in (0.0, options.noise):
        for smoothing in (0.0, options.smoothing):
            labels = f"{noise:.0%} wrong" if noise else "clean"
            run = runs[f"{labels}, smoothing {smoothing:g}"] = train(data, smoothing, noise, epochs, options.seed)
            print(f"| {labels} | {smoothing:g} | {' | '.join(f'{value:.3f}' for value in run.row())} |", flush=True)
    noisy = {name: run.probabilities for name, run in runs.items() if "wrong" in name}
    reliability_diagram(run.labels, noisy).savefig(options.output, dpi=90)  # both runs were tested on the same labels
    print(f"\nReliability on the noisy test labels: {options.output.resolve()}\n{time.perf_counter() - started:.0f} s in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
