"""What penalties cost deep networks of small layers, where the time goes with the number of operations: first step and later ones.

    KERAS_BACKEND=jax python benchmarks/depth.py
    python benchmarks/depth.py --backend all --layers 32 128 512

A network is so many residual `Dense(32)`, batch 64. "alone" is the bare optimizer, "again" a second model with it: how far its ratio is
from 1 is the noise. The first step is timed once for each model of every round, each in its turn; of the later ones every round gives
each model a turn, in random order. Reported are medians, and ratios to "alone" of the same round.
"""

import argparse
import os
import random
import subprocess
import sys
import time

import keras
import numpy as np
from keras import layers

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso

BACKENDS = ("tensorflow", "jax", "torch")
WIDTH, BATCH, STRENGTH = 32, 64, 1e-6
PENALTIES = {
    "alone": None,
    "again": None,
    "L1": lambda: L1(STRENGTH, proximal=True),
    "GroupLasso": lambda: GroupLasso(STRENGTH, axis=-1, proximal=True),
}
INNER = {"SGD": lambda: keras.optimizers.SGD(1e-4), "Adam": lambda: keras.optimizers.Adam(1e-6)}
LIMITS = {"first": 1.5, "later": 1.3}


def model_of(depth, penalty, inner):
    x = inputs = keras.Input((WIDTH,))
    for _ in range(depth):
        x = x + layers.Dense(WIDTH, activation="relu", kernel_regularizer=penalty and penalty())(x)
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile(Proximal(INNER[inner]()) if penalty else INNER[inner](), "mse")
    return model


def seconds(model, x, y, steps=1):
    start = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(x, y)  # gives the loss, and so waits for it
    return (time.perf_counter() - start) / steps


def measure(depth, inner, names, compilations, rounds, steps):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, WIDTH)).astype("float32")
    y = x[:, :1]
    first, later = {name: [] for name in names}, {name: [] for name in names}
    for _ in range(compilations):
        models = {}
        for name in random.sample(names, len(names)):
            models[name] = model_of(depth, PENALTIES[name], inner)
            first[name].append(seconds(models[name], x, y))
            print(f"\r\033[K{depth} layers, {inner}: {name}, first step {first[name][-1]:.1f} s", end="", file=sys.stderr, flush=True)
    for model in models.values():
        seconds(model, x, y)
    for _ in range(rounds):
        for name in random.sample(names, len(names)):
            later[name].append(1e3 * seconds(models[name], x, y, steps))
    print("\r\033[K", end="", file=sys.stderr, flush=True)
    for name in names:
        cells = [str(depth), inner, name]
        for kind, times, form in (("first", first, "{:.1f} s"), ("later", later, "{:.1f} ms")):
            ratio = np.median(np.divide(times[name], times["alone"]))
            verdict = "" if PENALTIES[name] is None else " reached" if ratio <= LIMITS[kind] else " missed"
            cells += [form.format(np.median(times[name])), f"{ratio:.2f}{verdict}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main():
    launcher = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launcher.add_argument("--backend", choices=(*BACKENDS, "all"), help="in a process of its own; default: that of KERAS_BACKEND")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[launcher], allow_abbrev=False
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--inner", nargs="+", choices=INNER, default=["Adam"])
    parser.add_argument("--penalties", nargs="+", choices=PENALTIES, default=list(PENALTIES), metavar="NAME", help=", ".join(PENALTIES))
    parser.add_argument("--compilations", type=int, default=1, help="how many times each model is compiled anew")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    args = parser.parse_args()
    if args.backend:
        _, rest = launcher.parse_known_args()
        for backend in BACKENDS if args.backend == "all" else [args.backend]:
            subprocess.run([sys.executable, __file__, *rest], env={**os.environ, "KERAS_BACKEND": backend}, check=True)
        return
    names = [name for name in PENALTIES if name == "alone" or name in args.penalties]
    seconds(model_of(2, None, args.inner[0]), np.zeros((BATCH, WIDTH), "float32"), np.zeros((BATCH, 1), "float32"))
    print(f"\n{keras.backend.backend()}, Keras {keras.__version__}; to reach: first {LIMITS['first']}, later {LIMITS['later']}\n")
    print("| layers | optimizer | penalty | first step | ratio | later steps | ratio |\n| --- | --- | --- | --- | --- | --- | --- |")
    for depth in args.layers:
        for inner in args.inner:
            measure(depth, inner, names, args.compilations, args.rounds, args.steps)


if __name__ == "__main__":
    main()
