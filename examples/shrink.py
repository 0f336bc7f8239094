"""A trained network made smaller in one call: to a budget of multiplications, or as far as its accuracy holds.

A small convolutional network learns to tell images, and `shrink` makes it smaller: with `--macs` to that share of its multiplications,
with `--drop` as far as the accuracy on images that it is not trained on falls by no more. The smaller model is saved and read again.
Without `--data` the images are scikit-learn's handwritten digits, and nothing is downloaded.
Exit status: 0 if all of it worked, 1 if the file gives other outputs, 2 if the arguments cannot be used.

    python examples/shrink.py
    python examples/shrink.py --drop 0.01
    python examples/shrink.py --data fashion_mnist.npz --macs 0.1 --epochs 10
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from keras_reg.models import shrink

BATCH = 64


def images(file: str | None) -> tuple[np.ndarray, ...]:
    """Images and labels for training, then for validation, then for the test."""
    if file is None:
        x, y = load_digits(return_X_y=True)
        x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
        return x[::2], y[::2], x[1::4], y[1::4], x[3::4], y[3::4]
    with np.load(file) as data:
        x, y, x_test, y_test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (pixels[..., None].astype("float32") / 255 for pixels in (x, x_test))
    return x[:-5000], y[:-5000], x[-5000:], y[-5000:], x_test, y_test


def network(shape: tuple[int, ...]) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(24, 3, activation="relu", name="conv_1"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3 if shape[0] > 8 else 2, activation="relu", name="conv_2"),
            layers.Flatten(),
            layers.Dense(96, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="output"),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="MNIST or Fashion-MNIST as keras.datasets stores it: x_train, y_train, x_test, y_test in one .npz")
    parser.add_argument("--macs", type=float, default=0.2, help="share of the multiplications, above 0 and up to 1 (default 0.2)")
    parser.add_argument("--drop", type=float, help="in place of --macs: how much accuracy may be lost, such as 0.01")
    parser.add_argument("--epochs", type=int, default=10, help="of every training, at least 1 (default 10)")
    args = parser.parse_args()
    if not 0 < args.macs <= 1:
        parser.error(f"argument --macs must be above 0 and up to 1. Received: {args.macs}")
    if args.drop is not None and args.drop < 0:
        parser.error(f"argument --drop must be at least 0. Received: {args.drop}")
    if args.epochs < 1:
        parser.error(f"argument --epochs must be at least 1. Received: {args.epochs}")
    if args.data is not None and not Path(args.data).is_file():
        parser.error(f"argument --data must be a file. Received: {args.data}")
    keras.utils.set_random_seed(0)
    x, y, x_validation, y_validation, *test = images(args.data)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, args.epochs * -(-len(x) // BATCH))
    model = network(x.shape[1:])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=args.epochs, verbose=0)

    goal = {"macs": args.macs} if args.drop is None else {"metric_drop": args.drop}
    options = {"validation_data": (x_validation, y_validation), "batch_size": BATCH, "epochs": args.epochs, "verbose": 0}
    small, report = shrink(model, x, y, **goal, **options)
    print(f"{report}\n")
    before, after = (one.evaluate(*test, verbose=0)[1] for one in (model, small))
    print(f"test accuracy {before:.3f}, of the smaller model {after:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        small.save(Path(folder) / "small.keras")
        loaded = keras.models.load_model(Path(folder) / "small.keras")
    difference = float(np.abs(loaded.predict(test[0], verbose=0) - small.predict(test[0], verbose=0)).max())
    print(f"saved and read again: outputs differ by at most {difference:.1e}")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
