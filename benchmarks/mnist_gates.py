"""Gates on the inputs and hidden units of LeNet-300-100 on MNIST: test error against multiplications, for both kinds of gate.

    KERAS_BACKEND=jax python benchmarks/mnist_gates.py --data mnist.npz --out mnist_gates.csv --seeds 0

Trained on all but the last 10,000 images of the training set. A run of a kind, a strength and a seed: gates before the three layers
(`insert_gates`, weights by `--cost`), `--epochs` with Adam along a cosine, `compact` with `inputs=True`, and `--refit` epochs of what is
left, without gates, with the inputs of every layer times `1 + noise * N(0, 1)`, and `added * N(0, 1)` on pixels.
`error` is that on the test set, `validation` that on the 10,000 images held out, by which strengths and recipes are chosen; `macs` counts
each weight that is left once, without biases, `non_zeros` biases too. A run is a line of `--out`; what is there is not run again.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from mnist import Runs, images, numbers, run
from mnist_structured import GATES, PUBLISHED, Structured

STRENGTHS = {"hard-concrete": (400.0,), "gaussian": (25.0,)}
"""The cost of one unit (or multiplication), in units of the loss of one training example: divided by the number of examples."""

SETTING = ("cost", "noise_of", "rate", "epochs", "refit", "refit_rate", "noise", "added")
NUMBERS = ("macs", "non_zeros", "bytes", "error", "validation")
PENALTY = ((47_830, 1.53), (30_954, 1.59), (22_633, 1.67), (15_678, 1.78), (11_285, 2.05))
"""The same of a group L1/2 on units weighed by what they cost, with the same noise: means of three seeds, 60 + 30 epochs of SGD, of an
earlier sketch."""


def recipe(kind, strength, args):
    """The steps of `mnist_structured.py`."""
    cost = {} if args.cost == "units" else {"cost": args.cost}
    noise_of = {"per_sample": True} if args.noise_of == "sample" else {}
    return [
        ["gates", {"kind": kind, "strength": strength, "epochs": args.epochs, "rate": args.rate, **cost, **noise_of}],
        ["train", {"epochs": args.refit, "rate": args.refit_rate, "noise": args.noise, "added": args.added}],
    ]


def points(runs):
    """The runs of one recipe and strength, all seeds together."""
    return sorted(runs.points("kind", "strength", *SETTING).items())


def table(runs):
    columns = "gate, strength, cost, noise for each, epochs, noise, seeds, pixels-hidden-hidden, MACs, non-zeros, bytes, test error, range"
    print("\n| " + columns.replace(", ", " | ") + " | validation |\n" + "| --- " * 14 + "|")
    for (kind, strength, cost, noise_of, _, epochs, refit, _, noise, added), rows in points(runs):
        widths = np.mean([[int(width) for width in row["widths"].split("-")] for row in rows], axis=0)
        macs, non_zeros, size, error, validation = (np.mean(numbers(rows, name)) for name in NUMBERS)
        spread = f"{min(numbers(rows, 'error')):.2f} to {max(numbers(rows, 'error')):.2f}"
        print(f"| {kind} | {strength} | {cost} | {noise_of} | {epochs} + {refit} | {noise} + {added} | {len(rows)}", end=" | ")
        print("-".join(f"{width:.0f}" for width in widths), f"{macs:,.0f}", f"{non_zeros:,.0f}", f"{size:,.0f}", sep=" | ", end=" | ")
        print(f"{error:.2f} | {spread} | {validation:.2f} |")


def figure(runs, file):
    """Means over seeds with their ranges, beside what has been published."""
    import matplotlib.pyplot as plt

    axes = plt.figure(figsize=(7, 4.5)).add_subplot()
    for kind, color in zip(GATES, ("C1", "C0"), strict=True):
        own = [rows for (name, *_), rows in points(runs) if name == kind]
        macs, error = ([np.mean(numbers(rows, name)) for rows in own] for name in ("macs", "error"))
        ends = [
            [m - min(numbers(rows, "error")) for m, rows in zip(error, own, strict=True)],
            [max(numbers(rows, "error")) - m for m, rows in zip(error, own, strict=True)],
        ]
        axes.errorbar(macs, error, ends, fmt="o", color=color, label=f"{kind}, mean and range", capsize=3)
    axes.plot(*zip(*PENALTY, strict=True), "C2.-", linewidth=1, label="group L1/2 under a prox, a sketch")
    for name, _, macs, _, error, source in PUBLISHED["lenet-300-100"]:
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
    parser.add_argument("--kinds", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--strengths", type=float, nargs="+", help="in the place of those in STRENGTHS")
    parser.add_argument("--cost", choices=("parameters", "macs", "units"), default="units")
    parser.add_argument("--noise-of", choices=("sample", "batch"), default="batch")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--refit", type=int, default=50)
    parser.add_argument("--refit-rate", type=float, default=3e-3)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--added", type=float, default=0.2)
    parser.add_argument("--out", type=pathlib.Path, default="mnist_gates.csv")
    parser.add_argument("--figure", type=pathlib.Path, help="a picture of all lines of --out")
    parser.add_argument("--cache", type=pathlib.Path, help="a folder for what each step has left, as in `mnist_structured.py`")
    args = parser.parse_args()
    data, runs = images(args.data), Runs(args.out)
    setting = {name: getattr(args, name) for name in SETTING}
    for seed in args.seeds:
        for kind in args.kinds:
            for strength in args.strengths or STRENGTHS[kind]:
                what = {"kind": kind, "strength": strength, "seed": seed, **setting}
                if runs.has(what):
                    continue
                keras.backend.clear_session()
                start = time.process_time()
                found = run(Structured, "lenet-300-100", recipe(kind, strength, args), seed, data, args.cache)
                found |= {"widths": found["left"], "non_zeros": found["non_zeros_with_biases"]}
                found = {name: found[name] for name in ("validation", "error", "widths", "macs", "non_zeros", "bytes")}
                runs.add({**what, **found, "cpu_seconds": round(time.process_time() - start)})
    table(runs)
    if args.figure:
        figure(runs, args.figure)


if __name__ == "__main__":
    main()
