"""Gates on the inputs and hidden units of LeNet-300-100 on MNIST: test error against multiplications, for both kinds of gate.

    KERAS_BACKEND=jax python benchmarks/mnist_gates.py --data mnist.npz --seeds 0

Trained on all but the last 10,000 images of the training set. A run of a kind, a strength and a seed: gates before the three layers
(`insert_gates`, weights by `--cost`), `--epochs` with Adam along a cosine, `compact` with `inputs=True`, and `--refit` epochs of what is
left, without gates. `error` is that on the test set, `validation` that on the 10,000 images held out, by which strengths are chosen; `macs`
counts each weight that is left once, without biases. One line for each run is added to `--out`; what is there is not run again.
"""

import argparse
import json
import math
import pathlib
import time

import keras
import numpy as np
from keras import layers

from keras_reg.layers import GaussianGate, HardConcreteGate
from keras_reg.models import compact, compaction_plan, insert_gates
from keras_reg.regularizers import GaussianGatePenalty, HardConcreteL0

BATCH = 128
KINDS = {
    "hard-concrete": lambda s: HardConcreteGate(initial_open=0.8, gate_regularizer=HardConcreteL0(s)),
    "gaussian": lambda s: GaussianGate(initial_noise=0.1, gate_regularizer=GaussianGatePenalty(s)),
}
STRENGTHS = {"hard-concrete": (0.1, 0.2, 0.4), "gaussian": (0.02, 0.05, 0.1)}
"""In units of one parameter (or multiplication) and one training example: divided by the number of examples."""


def images(file, count):
    with np.load(file) as data:
        x, y, *test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, test[0] = (pixels.reshape(len(pixels), -1).astype("float32") / 255 for pixels in (x, test[0]))
    train, held_out = slice(0, min(count, len(x) - 10_000)), slice(len(x) - 10_000, None)
    return (x[train], y[train].astype("int32")), (x[held_out], y[held_out].astype("int32")), (test[0], test[1].astype("int32"))


def train(model, data, rate, epochs):
    steps = math.ceil(len(data[0]) / BATCH)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * steps))
    model.compile(adam, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(*data, BATCH, epochs=epochs, verbose=0)


def run(kind, strength, seed, data, args):
    fit, held_out, test = data
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(units, activation="relu") for units in (300, 100)]
    model = keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])
    gated = insert_gates(model, KINDS[kind](strength / len(fit[0])), cost=args.cost)
    train(gated, fit, args.rate, args.epochs)
    before = 100 - 100 * gated.evaluate(*held_out, batch_size=1000, verbose=0)[1]
    small, (kept,) = compact(gated, inputs=True)
    fit, held_out, test = ((x[:, kept], y) for x, y in (fit, held_out, test))
    train(small, fit, args.rate / 2, args.refit)
    errors = [100 - 100 * small.evaluate(*some, batch_size=1000, verbose=0)[1] for some in (held_out, test)]
    widths = [layer.kernel.shape[0] for layer in small.layers]
    macs = compaction_plan(small).total.macs[0]
    return {"gated": before, "validation": errors[0], "error": errors[1], "widths": widths, "macs": macs}


def table(rows):
    print("\n| gate | strength | seeds | pixels-hidden-hidden | MACs | test error | range | validation |\n" + "| --- " * 8 + "|")
    for kind, strength in sorted({(row["kind"], row["strength"]) for row in rows}):
        own = [row for row in rows if (row["kind"], row["strength"]) == (kind, strength)]
        widths = "-".join(f"{width:.0f}" for width in np.mean([row["widths"] for row in own], axis=0))
        macs, error, validation = (np.mean([row[name] for row in own]) for name in ("macs", "error", "validation"))
        spread = f"{min(row['error'] for row in own):.2f} to {max(row['error'] for row in own):.2f}"
        print(f"| {kind} | {strength:g} | {len(own)} | {widths} | {macs:,.0f} | {error:.2f} | {spread} | {validation:.2f} |")


def figure(rows, file):
    import matplotlib.pyplot as plt

    axes = plt.figure(figsize=(6, 4)).add_subplot()
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        axes.plot([row["macs"] for row in own], [row["error"] for row in own], "o", label=kind)
    axes.set(xscale="log", xlabel="multiplications of one image", ylabel="test error in %")
    axes.legend()
    axes.figure.savefig(file, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="FILE.npz", help="laid out like Keras's mnist.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--strengths", type=float, nargs="+", help="in the place of those in STRENGTHS")
    parser.add_argument("--cost", choices=("parameters", "macs"), default="macs")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--refit", type=int, default=30)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--out", type=pathlib.Path, default="mnist_gates.jsonl")
    parser.add_argument("--figure", type=pathlib.Path, help="a picture of all points")
    args = parser.parse_args()
    data = images(args.data, args.images)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    setting = {name: getattr(args, name) for name in ("cost", "rate", "epochs", "refit", "images")}
    for seed in args.seeds:
        for kind in args.kinds:
            for strength in args.strengths or STRENGTHS[kind]:
                what = {"kind": kind, "strength": strength, "seed": seed, **setting}
                if any(what.items() <= row.items() for row in rows):
                    continue
                keras.backend.clear_session()
                start = time.time()
                row = {**what, **run(kind, strength, seed, data, args), "seconds": round(time.time() - start, 1)}
                rows.append(row)
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    rows = [row for row in rows if setting.items() <= row.items()]
    table(rows)
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
