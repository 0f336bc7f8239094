"""What penalties cost on embeddings of many rows, of which a step touches few.

    python benchmarks/wide.py
    python benchmarks/wide.py --rows 10000 10000000 --rounds 5

A model of one `Embedding` with 16 columns and a dense layer, batches of 256 examples with 8 rows each, on TensorFlow, whose gradients of
embeddings are sparse. Milliseconds of a step, medians of rounds in which the models take turns of a few steps, and ratios to the first
case, Keras's layer without a penalty.
"""

import argparse
import os
import random
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_reg.layers import Embedding
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso

COLUMNS, EXAMPLES, READ = 16, 256, 8
INNER = {"SGD": lambda: keras.optimizers.SGD(0.1), "Adagrad": lambda: keras.optimizers.Adagrad(0.1)}
CASES = {
    "Keras": (layers.Embedding, lambda inner: (None, inner)),
    "Keras, its L1": (layers.Embedding, lambda inner: (keras.regularizers.L1(1e-6), inner)),
    "Keras, L1": (layers.Embedding, lambda inner: (L1(1e-6, proximal=True), Proximal(inner))),
    "Keras, GroupLasso": (layers.Embedding, lambda inner: (GroupLasso(1e-6, axis=0, proximal=True), Proximal(inner, "euclidean"))),
    "bare": (Embedding, lambda inner: (None, inner)),
    "L1": (Embedding, lambda inner: (L1(1e-6, proximal=True), Proximal(inner))),
    "GroupLasso": (Embedding, lambda inner: (GroupLasso(1e-6, axis=0, proximal=True), Proximal(inner, "euclidean"))),
}
"""Those with "Keras" have its layer, the others `keras_reg.layers.Embedding`."""


def training(rows, layer, penalty, optimizer):
    """A function that trains for a turn."""
    table = layer(rows, COLUMNS, embeddings_regularizer=penalty)
    model = keras.Sequential([keras.Input((READ,), dtype="int32"), table, layers.Flatten(), layers.Dense(1)])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).integers(0, rows, (EXAMPLES, READ)).astype("int32")
    batches = iter(tf.data.Dataset.from_tensors((x, np.ones((EXAMPLES, 1), "float32"))).repeat())
    model.make_train_function()

    def turn():
        """The median of a few steps; the first one finds the caches as another model has left them."""
        times = []
        for _ in range(6):
            start = time.perf_counter()
            float(model.train_function(batches)["loss"])
            times.append(1e3 * (time.perf_counter() - start))
        return np.median(times[1:])

    turn()
    return turn


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    args = parser.parse_args()
    print("| optimizer | rows | " + " | ".join(args.cases) + " |\n" + "| --- " * (len(args.cases) + 2) + "|")
    for name, inner in INNER.items():
        for rows in args.rows:
            turns = {case: training(rows, CASES[case][0], *CASES[case][1](inner())) for case in args.cases}
            times = {case: [] for case in args.cases}
            for _ in range(args.rounds):
                for case in random.sample(args.cases, len(args.cases)):
                    times[case].append(turns[case]())
            medians = {case: np.median(own) for case, own in times.items()}
            first = medians[args.cases[0]]
            cells = [f"{time:.1f} ms ({time / first:.2f})" for time in medians.values()]
            print(f"| {name} | {rows:,} | " + " | ".join(cells) + " |", flush=True)
            del turns


if __name__ == "__main__":
    main()
