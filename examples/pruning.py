"""Pruning with Keras 3, as the tutorial of TensorFlow's pruning toolkit does it, which Keras 3 models cannot use.

A dense network learns to tell handwritten digits. Half of its weights are pruned at once and four fifths by the end, while it trains on;
then the package is stripped off, and the sizes of files show what zeros are worth where: nothing in a plain file, much in a compressed
one, and with LiteRT's sparse format (TensorFlow alone). Every file is read back, and has to give the same outputs.
Exit status: 0 if all of it worked, 1 if a file gives other outputs, 2 if the arguments cannot be used.

    python examples/pruning.py
    python examples/pruning.py --sparsity 0.9 --epochs 20
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from keras_reg.callbacks import StrengthScheduler
from keras_reg.models import attach, save_compressed, sparsity, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L0Constraint

BATCH = 32


def digits() -> tuple[np.ndarray, ...]:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return x[::2], y[::2], x[1::2], y[1::2]


def baseline(epochs: int) -> keras.Model:
    hidden = [layers.Dense(300, activation="relu"), layers.Dense(100, activation="relu")]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*digits()[:2], batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def prune(model: keras.Model, share: float, epochs: int) -> None:
    """Train on along a ramp from 50 % zeros."""
    x, y, *_ = digits()
    steps = epochs * -(-len(x) // BATCH)
    print(attach(model, L0Constraint(min(0.5, share), scope="model")), end="\n\n")
    model.compile(Proximal("adam"), "sparse_categorical_crossentropy", metrics=["accuracy"])
    ramp = keras.optimizers.schedules.PolynomialDecay(min(0.5, share), max(1, 2 * steps // 3), share, power=3)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[StrengthScheduler(ramp, freq=10)])


def for_use(model: keras.Model) -> keras.Model:
    """Without the package, and without an optimizer and its memory, which would be two thirds of a file."""
    plain = strip(model)
    copy = keras.Sequential.from_config(plain.get_config())
    copy.set_weights(plain.get_weights())
    return copy


def in_litert(model: keras.Model, path: Path, sparse: bool) -> np.ndarray:
    """Saves the model for LiteRT; its outputs there."""
    import tensorflow as tf

    model.export(path.parent / "exported", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path.parent / "exported"))
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
    path.write_bytes(converter.convert())
    warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")  # for a package of its own
    interpreter = tf.lite.Interpreter(model_path=str(path))
    test = digits()[2]
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], test.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], test)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def files(models: dict[str, keras.Model], folder: Path) -> float:
    """Prints the sizes of all files; the largest difference between outputs of a file and those of its model."""
    test, furthest = digits()[2], 0.0
    ways = {".keras": lambda model, path: model.save(path), ".keras, compressed": save_compressed}
    if keras.backend.backend() == "tensorflow":
        ways["LiteRT"] = lambda model, path: in_litert(model, path, sparse=False)
        ways["LiteRT, sparse"] = lambda model, path: in_litert(model, path, sparse=True)
    print("| file | " + " | ".join(models) + " |\n| --- |" + " --- |" * len(models))
    for number, (name, write) in enumerate(ways.items()):
        cells = []
        for column, model in enumerate(models.values()):
            path = folder / f"{number}{column}.{'tflite' if name.startswith('LiteRT') else 'keras'}"
            outputs = write(model, path)
            if outputs is None:
                outputs = keras.models.load_model(path).predict(test, verbose=0)
            furthest = max(furthest, float(np.abs(outputs - model.predict(test, verbose=0)).max()))
            cells.append(f"{path.stat().st_size / 1000:.0f} kB")
        print(f"| {name} | {' | '.join(cells)} |")
    return furthest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of zeros at the end, at least 0 and below 1 (default 0.8)")
    parser.add_argument("--epochs", type=int, default=12, help="of each of the two trainings, at least 1 (default 12)")
    args = parser.parse_args()
    if not 0 <= args.sparsity < 1:
        parser.error(f"argument --sparsity must be at least 0 and below 1. Received: {args.sparsity}")
    if args.epochs < 1:
        parser.error(f"argument --epochs must be at least 1. Received: {args.epochs}")
    keras.utils.set_random_seed(0)
    test = digits()[2:]
    model = baseline(args.epochs)
    print(f"dense: test accuracy {model.evaluate(*test, verbose=0)[1]:.3f}\n")
    dense = for_use(model)
    prune(model, args.sparsity, args.epochs)
    kernels = sparsity(model, include="*/kernel").total
    share = kernels.zeros / kernels.parameters
    print(f"pruned: test accuracy {model.evaluate(*test, verbose=0)[1]:.3f}, {share:.1%} of the kernels' weights are zero\n")
    with tempfile.TemporaryDirectory() as folder:
        difference = files({"dense": dense, "pruned": for_use(model)}, Path(folder))
    print(f"\nEvery file gives the outputs of its model; they differ by at most {difference:.1e}.")
    return 0 if difference < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
