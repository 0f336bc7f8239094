"""The two metrics of `Proximal` with Adam: validation error against zeros, over strengths. What its default rests on.

    KERAS_BACKEND=jax python benchmarks/metrics.py --data mnist.npz

A 300-100 network on the first 20,000 images of the training set (all but the last 10,000 where there are fewer), judged on its last 10,000.
One seed: differences of a tenth of a percentage point are noise.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso

STRENGTHS = {"preconditioned": (1e-5, 3e-5, 1e-4, 3e-4), "euclidean": (1e-2, 3e-2, 1e-1, 3e-1)}
PENALTIES = {"L1": lambda s: L1(s, proximal=True), "GroupLasso": lambda s: GroupLasso(s / 3, axis=-2, proximal=True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="laid out like Keras's mnist.npz")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    with np.load(args.data) as data:
        x, y = (data["x_train"] / 255).astype("float32"), data["y_train"].astype("int32")
    count = min(20_000, len(x) - 10_000)
    x = x.reshape(len(x), -1)
    print("| metric | penalty | error | exact zeros | live inputs, neurons |\n| --- | --- | --- | --- | --- |")
    for metric, strengths in STRENGTHS.items():
        for name, make in PENALTIES.items():
            for penalty in map(make, strengths):
                keras.utils.set_random_seed(0)
                hidden = [layers.Dense(units, activation="relu", kernel_regularizer=penalty) for units in (300, 100)]
                model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, layers.Dense(10, kernel_regularizer=penalty)])
                rate = keras.optimizers.schedules.CosineDecay(1e-3, args.epochs * -(-count // 128))
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                model.compile(Proximal(keras.optimizers.Adam(rate), metric=metric), loss, metrics=["accuracy"])
                model.fit(x[:count], y[:count], batch_size=128, epochs=args.epochs, verbose=0)
                kernels = [w for w in model.get_weights() if w.ndim == 2]
                zeros = sum(np.sum(k == 0) for k in kernels) / sum(k.size for k in kernels)
                error = 1 - model.evaluate(x[-10_000:], y[-10_000:], verbose=0)[1]
                live = "-".join(str(np.sum(np.any(k != 0, axis=1))) for k in kernels)
                print(f"| {metric} | {name} {penalty.strength:.1e} | {error:.2%} | {zeros:.1%} | {live} |", flush=True)


if __name__ == "__main__":
    main()
