"""Gates on the inputs and hidden units of LeNet-300-100 on MNIST: test error against multiplications, for both kinds of gate.

    KERAS_BACKEND=jax python benchmarks/mnist_gates.py --data mnist.npz --out mnist_gates.csv --seeds 0

Trained on all but the last 10,000 images of the training set. A run of a kind, a strength and a seed: gates before the three layers
(`insert_gates`, weights by `--cost`), `--epochs` with Adam along a cosine, `compact` with `inputs=True`, and `--refit` epochs of what is
left, without gates, with the inputs of every layer times `1 + noise * N(0, 1)`. `error` is that on the test set, `validation` that on the
10,000 images held out, by which strengths and recipes are chosen; `macs` counts each weight that is left once, without biases. A run is a
line of `--out`; what is there is not run again.
"""

import argparse
import csv
import math
import pathlib
import tempfile
import time

import keras
import numpy as np
from keras import layers

from keras_reg.layers import GaussianGate, HardConcreteGate
from keras_reg.models import compact, compaction_plan, insert_gates, sparsity
from keras_reg.regularizers import GaussianGatePenalty, HardConcreteL0

BATCH = 250
STEPS_AT_ONCE = 20
KINDS = {
    "hard-concrete": lambda s, per_sample: HardConcreteGate(initial_open=0.8, per_sample=per_sample, gate_regularizer=HardConcreteL0(s)),
    "gaussian": lambda s, per_sample: GaussianGate(initial_noise=0.1, per_sample=per_sample, gate_regularizer=GaussianGatePenalty(s)),
}
STRENGTHS = {"hard-concrete": (400.0,), "gaussian": (25.0,)}
"""The cost of one unit (or multiplication), in units of the loss of one training example: divided by the number of examples."""

SETTING = ("cost", "noise_of", "rate", "epochs", "refit", "refit_rate", "noise")
NUMBERS = ("macs", "non_zeros", "bytes", "error", "validation")
PUBLISHED = (
    ("Sparse VD", 67_296, 1.8, "remembered"),
    ("L0 hard concrete", 69_266, 1.4, "remembered"),
    ("SBP", 48_550, 1.6, "read"),
    ("L0 hard concrete, separate strengths", 26_642, 1.6, "read"),
    ("DeepHoyer", 16_490, 1.8, "remembered"),
    ("VIBNet", 9_560, 1.6, "read"),
)
"""Multiplications and test errors of others, and whether they were read in their sources."""
PENALTY = ((47_830, 1.53), (30_954, 1.59), (22_633, 1.67), (15_678, 1.78), (11_285, 2.05))
"""The same of a group L1/2 on units weighed by what they cost, with the same noise: means of three seeds, 60 + 30 epochs of SGD, of an
earlier sketch."""


def images(file):
    with np.load(file) as data:
        x, y, *test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, test[0] = (pixels.reshape(len(pixels), -1).astype("float32") / 255 for pixels in (x, test[0]))
    y, test[1] = y.astype("int32"), test[1].astype("int32")
    return (x[:-10_000], y[:-10_000]), (x[-10_000:], y[-10_000:]), tuple(test)


def train(model, data, rate, epochs):
    steps = math.ceil(len(data[0]) / BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=1 if keras.backend.backend() == "torch" else STEPS_AT_ONCE,
    )
    model.fit(*data, BATCH, epochs=epochs, verbose=0)


def error(model, data):
    return round(100 - 100 * model.evaluate(*data, batch_size=1000, verbose=0)[1], 2)


def with_noise(model, noise):
    """The same layers, with noise on what each reads."""
    rate = noise**2 / (1 + noise**2)
    noisy = [one for layer in model.layers for one in (layers.GaussianDropout(rate), layer)]
    return keras.Sequential([keras.Input(model.input_shape[1:]), *noisy])


def run(kind, strength, seed, data, args):
    fit, held_out, test = data
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(units, activation="relu") for units in (300, 100)]
    model = keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])
    gated = insert_gates(
        model, KINDS[kind](strength / len(fit[0]), args.noise_of == "sample"), cost=None if args.cost == "units" else args.cost
    )
    train(gated, fit, args.rate, args.epochs)
    found = {"gated": error(gated, held_out)}
    small, (kept,) = compact(gated, inputs=True)
    fit, held_out, test = ((x[:, kept], y) for x, y in (fit, held_out, test))
    if args.models:
        args.models.mkdir(exist_ok=True)
        small.save(args.models / f"{kind}-{strength}-{args.cost}-{args.noise_of}-{args.epochs}-{seed}.keras")
        np.save(args.models / f"{kind}-{strength}-{args.cost}-{args.noise_of}-{args.epochs}-{seed}.npy", kept)
    noisy = with_noise(small, args.noise)
    train(noisy, fit, args.refit_rate, args.refit)
    widths = [layer.kernel.shape[0] for layer in small.layers]
    return {
        **found,
        "validation": error(noisy, held_out),
        "error": error(noisy, test),
        "widths": "-".join(map(str, widths)),
        "macs": compaction_plan(small).total.macs[0],
        "non_zeros": (total := sparsity(small).total).parameters - total.zeros,
        "bytes": size_on_disk(small),
    }


def size_on_disk(model):
    """Of a `.keras` file without the optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.keras"
        plain = type(model).from_config(model.get_config())
        plain.set_weights(model.get_weights())
        plain.save(file)
        return file.stat().st_size


def points(rows):
    """The runs of one recipe and strength, all seeds together."""
    own = ("kind", "strength", *SETTING)
    found = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in own), []).append(row)
    return {key: {name: [float(row[name]) for row in group] for name in NUMBERS} | {"rows": group} for key, group in sorted(found.items())}


def table(rows):
    columns = (
        "gate, strength, cost, noise for each, epochs, seeds, pixels-hidden-hidden, MACs, non-zeros, bytes, test error, range, validation"
    )
    print("\n| " + columns.replace(", ", " | ") + " |\n" + "| --- " * 13 + "|")
    for (kind, strength, cost, noise_of, _, epochs, refit, *_), point in points(rows).items():
        widths = np.mean([[int(width) for width in row["widths"].split("-")] for row in point["rows"]], axis=0)
        macs, non_zeros, size, error, validation = (np.mean(point[name]) for name in NUMBERS)
        spread = f"{min(point['error']):.2f} to {max(point['error']):.2f}"
        print(f"| {kind} | {strength} | {cost} | {noise_of} | {epochs} + {refit} | {len(point['rows'])}", end=" | ")
        print("-".join(f"{width:.0f}" for width in widths), f"{macs:,.0f}", f"{non_zeros:,.0f}", f"{size:,.0f}", sep=" | ", end=" | ")
        print(f"{error:.2f} | {spread} | {validation:.2f} |")


def figure(rows, file):
    """Means over seeds with their ranges, beside what has been published."""
    import matplotlib.pyplot as plt

    axes = plt.figure(figsize=(7, 4.5)).add_subplot()
    for kind, color in zip(KINDS, ("C0", "C1"), strict=True):
        own = [point for (name, *_), point in points(rows).items() if name == kind]
        macs, error = ([np.mean(point[name]) for point in own] for name in ("macs", "error"))
        ends = [
            [m - min(p["error"]) for m, p in zip(error, own, strict=True)],
            [max(p["error"]) - m for m, p in zip(error, own, strict=True)],
        ]
        axes.errorbar(macs, error, ends, fmt="o", color=color, label=f"{kind}, mean and range", capsize=3)
    axes.plot(*zip(*PENALTY, strict=True), "C2.-", linewidth=1, label="group L1/2 under a prox, a sketch")
    for name, macs, error, source in PUBLISHED:
        axes.plot(macs, error, "k^" if source == "read" else "k*", markersize=5, fillstyle="none")
        axes.annotate(f"{name} ({source})", (macs, error), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.axvline(26_642, color="0.8", linestyle=":")
    axes.axhline(1.6, color="0.8", linestyle=":")
    axes.set(xscale="log", xlabel="multiplications of one image", ylabel="test error in %")
    axes.legend()
    axes.figure.savefig(file, bbox_inches="tight", dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="FILE.npz", help="laid out like Keras's mnist.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--strengths", type=float, nargs="+", help="in the place of those in STRENGTHS")
    parser.add_argument("--cost", choices=("parameters", "macs", "units"), default="units")
    parser.add_argument("--noise-of", choices=("sample", "batch"), default="batch")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--refit", type=int, default=50)
    parser.add_argument("--refit-rate", type=float, default=3e-3)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--out", type=pathlib.Path, default="mnist_gates.csv")
    parser.add_argument("--figure", type=pathlib.Path, help="a picture of all lines of --out")
    parser.add_argument("--models", type=pathlib.Path, help="a folder for what is left, before refitting")
    args = parser.parse_args()
    data = images(args.data)
    rows = list(csv.DictReader(args.out.open())) if args.out.exists() else []
    setting = {name: getattr(args, name) for name in SETTING}
    for seed in args.seeds:
        for kind in args.kinds:
            for strength in args.strengths or STRENGTHS[kind]:
                what = {name: str(value) for name, value in {"kind": kind, "strength": strength, "seed": seed, **setting}.items()}
                if any(what.items() <= row.items() for row in rows):
                    continue
                keras.backend.clear_session()
                start = time.process_time()
                found = run(kind, strength, seed, data, args)
                row = {name: str(value) for name, value in {**what, **found, "cpu_seconds": round(time.process_time() - start)}.items()}
                with args.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, row, lineterminator="\n")
                    if not rows:
                        writer.writeheader()
                    writer.writerow(row)
                rows.append(row)
                print(row, flush=True)
    table(rows)
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
