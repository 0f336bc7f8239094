"""A path with warm starts against the same with cold ones: epochs until nothing changes, and time.

    python benchmarks/warm_starts.py

"lasso": 500 examples of 100 correlated features, one layer, full batches, from sparse to dense, each strength until the loss falls by less
than 1e-6 of the mean square for 3 epochs. "network": scikit-learn's digits, one hidden layer of 64 units under a group lasso on the pixels,
from dense to sparse, until the loss on held-out digits has not fallen for 3 epochs. What the losses come to is printed too.
"""

import argparse
import time

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso
from keras_reg.selection import regularization_path

COPIES = 10  # of the examples in an epoch of full batches


def lasso(warm, most):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 100)) @ (np.eye(100) + 0.1)
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32")
    y = (x[:, :10] @ generator.normal(size=10) + generator.normal(size=500)).astype("float32")
    model = keras.Sequential([keras.Input((100,)), layers.Dense(1, kernel_regularizer=L1(0.1, proximal=True))])
    rate = float(0.5 / np.linalg.eigvalsh(x.T @ x / len(x))[-1])
    inner = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    model.compile(Proximal(inner), "mse", steps_per_execution=1 if keras.backend.backend() == "torch" else COPIES)
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e-6 * float(np.mean(y**2)), patience=3)
    data = np.tile(x, (COPIES, 1)), np.tile(y, COPIES)
    return regularization_path(
        model, *data, 20, warm_start=warm, eps=1e-2, callbacks=[stop], epochs=most, batch_size=500, shuffle=False, verbose=0
    )


def network(warm, most):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(64, activation="relu", kernel_regularizer=GroupLasso(1e-3, axis=-2, proximal=True))
    model = keras.Sequential([keras.Input((64,)), hidden, layers.Dense(10)])
    model.compile(Proximal(keras.optimizers.Adam(2e-3)), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    held = x[1::2], y[1::2]
    strengths = np.geomspace(1e-4, 3e-2, 12).tolist()
    return regularization_path(
        model, x[::2], y[::2], strengths, validation_data=held, warm_start=warm, patience=3, epochs=min(most, 100), seed=0, verbose=0
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=500, help="at most so many for a strength; of the network at most 100")
    most = parser.parse_args().epochs
    print("| problem | starts | epochs | seconds | mean objective | best score |\n| --- | --- | --- | --- | --- | --- |")
    for problem in (lasso, network):
        for warm in (True, False):
            start = time.time()
            path = problem(warm, most)
            best = f"{path.best().scores['loss']:.4f}" if path[0].scores else "–"
            epochs, objective = sum(p.epochs for p in path), np.mean([p.objective for p in path])
            row = [problem.__name__, "warm" if warm else "cold", epochs, f"{time.time() - start:.1f}", f"{objective:.5f}", best]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
