"""Zeros by count against zeros by strength and plain pruning: a small convolutional network on Fashion-MNIST, test accuracy at equal size.

    python benchmarks/zeros_by_count.py --data fashion_mnist.npz

Every method trains as many epochs in all, with Adam, its learning rate falling along a cosine to 0. "ramp": `L0Constraint` along the
cubic ramp of Zhu and Gupta to two thirds of the training. "one shot": two thirds of the training without a penalty, then the smallest
magnitudes of each kernel are set to 0, then refitting with `keep_zeros`. "L1": `TargetSparsity`, a penalty steered to the same share.
"budget": `StructuralL0Constraint` along the same ramp, then `compact`. "StructuralGroupLasso": of several strengths the accuracy at the
budget is interpolated, as no strength says which budget it leads to. "narrow": a network whose layers are all narrower by one factor,
trained from the start.
"""

import argparse
import json
import math
import pathlib
import time

import keras
import numpy as np
from keras import layers

from keras_reg.callbacks import StrengthScheduler, TargetSparsity
from keras_reg.models import attach, compact, compaction_plan, sparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L0Constraint, StructuralGroupLasso, StructuralL0Constraint

SHARES, BUDGETS = (0.8, 0.9, 0.95), (0.5, 0.25, 0.1)
STRENGTHS = (3e-5, 1e-4, 3e-4, 1e-3)
BATCH, RATE = 128, 2e-3


def images(file):
    with np.load(file) as data:
        x, y, *test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, test[0] = (pixels[..., None].astype("float32") / 255 for pixels in (x, test[0]))
    return [x, y.astype("int32"), test[0], test[1].astype("int32")]


def network(share=1.0):
    widths = [max(1, round(width * share)) for width in (24, 48, 96)]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(widths[0], 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(widths[1], 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(widths[2], activation="relu"),
            layers.Dense(10),
        ]
    )


class Study:
    def __init__(self, data, epochs, seed):
        self.x, self.y, *self.test = data
        self.epochs, self.seed = epochs, seed
        self.steps = epochs * math.ceil(len(self.x) / BATCH)

    def train(self, model, wrap=None, epochs=None, callbacks=(), compiled=False):
        keras.utils.set_random_seed(self.seed)
        if not compiled:
            adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, self.steps))
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(wrap(adam) if wrap else adam, loss, metrics=["accuracy"])
        model.fit(self.x, self.y, BATCH, epochs=epochs or self.epochs, verbose=0, callbacks=list(callbacks))
        return model

    def made(self, share=1.0):
        keras.utils.set_random_seed(self.seed)
        return network(share)

    def ramp(self, start, end, **options):
        schedule = keras.optimizers.schedules.PolynomialDecay(start, 2 * self.steps // 3, end, power=3)
        return StrengthScheduler(schedule, freq="step", **options)

    def result(self, model):
        return {"accuracy": 100 * model.evaluate(*self.test, batch_size=1000, verbose=0)[1], "zeros": kernel_zeros(model)}

    def dense(self):
        return self.result(self.train(self.made()))

    def by_ramp(self, share, metric="auto", **options):
        model = self.made()
        attach(model, L0Constraint(0.0, every=10, **options))
        return self.result(self.train(model, lambda adam: Proximal(adam, metric=metric), callbacks=[self.ramp(0.0, share)]))

    def by_one_shot(self, share):
        model = self.train(self.made(), lambda adam: Proximal(adam, keep_zeros=True), epochs=2 * self.epochs // 3)
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                kernel, bias = layer.get_weights()
                kernel[np.abs(kernel) <= np.quantile(np.abs(kernel), share)] = 0
                layer.set_weights([kernel, bias])
        return self.result(self.train(model, epochs=self.epochs - 2 * self.epochs // 3, compiled=True))

    def by_l1(self, share):
        model = self.made()
        attach(model, L1(1e-5, proximal=True))
        return self.result(self.train(model, Proximal, callbacks=[TargetSparsity(share, 2 * self.epochs // 3)]))

    def smaller(self, model):
        macs = compaction_plan(model).total.macs
        return {**self.result(compact(model)), "macs": macs[1] / macs[0]}

    def by_budget(self, budget, metric="auto", **options):
        model = self.made()
        attach(model, StructuralL0Constraint(1.0, every=10, **options))
        return self.smaller(self.train(model, lambda adam: Proximal(adam, metric=metric), callbacks=[self.ramp(1.0, budget)]))

    def by_group_lasso(self, strength):
        model = self.made()
        attach(model, StructuralGroupLasso(strength, cost="macs"))
        return self.smaller(self.train(model, Proximal))

    def narrow(self, budget):
        whole = compaction_plan(self.made()).total.macs[0]
        shares = np.linspace(0.02, 1, 400)
        share = max(share for share in shares if compaction_plan(network(share)).total.macs[0] <= budget * whole)
        model = self.train(self.made(share))
        return {**self.result(model), "macs": compaction_plan(model).total.macs[0] / whole}


def kernel_zeros(model):
    weights = [w for w in sparsity(model).weights if w.name.endswith("kernel")]
    return sum(w.zeros for w in weights) / sum(w.parameters for w in weights)


METHODS = {
    "dense": (Study.dense, (None,)),
    "ramp": (Study.by_ramp, SHARES),
    "ramp, one pool": (lambda study, share: study.by_ramp(share, scope="model"), SHARES),
    "ramp by magnitude": (lambda study, share: study.by_ramp(share, metric="euclidean"), SHARES),
    "ramp by magnitude, one pool": (lambda study, share: study.by_ramp(share, metric="euclidean", scope="model"), SHARES),
    "ramp, no regrowth": (lambda study, share: study.by_ramp(share, regrow=False), SHARES),
    "one shot": (Study.by_one_shot, SHARES),
    "L1": (Study.by_l1, SHARES),
    "budget": (Study.by_budget, BUDGETS),
    "budget by magnitude": (lambda study, budget: study.by_budget(budget, metric="euclidean"), BUDGETS),
    "StructuralGroupLasso": (Study.by_group_lasso, STRENGTHS),
    "narrow": (Study.narrow, BUDGETS),
}


def interpolated(rows, budgets):
    """The accuracy of a method at budgets, between those that its strengths have led to."""
    rows = sorted(rows, key=lambda row: row["macs"])
    return np.interp(np.log(budgets), [math.log(row["macs"]) for row in rows], [row["accuracy"] for row in rows])


def draw(done, methods, file):
    """Mean accuracy and range over the seeds, against the share of zeros and of the multiplications."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, key, label in zip(axes, ("zeros", "macs"), ("share of zeros in the kernels", "share of the multiplications"), strict=True):
        dense = [row["accuracy"] for (name, *_), row in done.items() if name == "dense"]
        if dense:
            ax.axhline(np.mean(dense), color="0.6", linestyle="--", label="dense")
        for method in methods:
            points = []
            for value in METHODS[method][1]:
                rows = [row for (name, at, _), row in done.items() if (name, at) == (method, value) and ("macs" in row) == (key == "macs")]
                if rows and method != "dense":
                    accuracy = [row["accuracy"] for row in rows]
                    points.append((np.mean([row[key] for row in rows]), np.mean(accuracy), min(accuracy), max(accuracy)))
            if points:
                place, mean, low, high = np.transpose(sorted(points))
                ax.errorbar(place, mean, (mean - low, high - mean), marker="o", capsize=3, label=method)
        ax.set(xlabel=label, ylabel="test accuracy (%)")
        ax.legend(fontsize="small")
    axes[1].invert_xaxis()
    figure.savefig(file, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, help="Fashion-MNIST as keras.datasets stores it: x_train, y_train, x_test, y_test in one .npz"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--out", default="zeros_by_count.jsonl", help="one line for each run is added; those that are there are not run again"
    )
    parser.add_argument("--figure", help="a picture of the table")
    args = parser.parse_args()
    x, y, *test = images(args.data)
    data = [x[: args.images], y[: args.images], *test]
    done = {}
    if pathlib.Path(args.out).exists():
        for line in pathlib.Path(args.out).read_text().splitlines():
            row = json.loads(line)
            done[row["method"], row["at"], row["seed"]] = row
    for seed in args.seeds:
        for method in args.methods:
            run, values = METHODS[method]
            for value in values:
                if (method, value, seed) in done:
                    continue
                keras.backend.clear_session()
                start = time.time()
                study = Study(data, args.epochs, seed)
                row = {"method": method, "at": value, "seed": seed, **(run(study) if value is None else run(study, value))}
                row["seconds"] = round(time.time() - start, 1)
                done[method, value, seed] = row
                with open(args.out, "a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    print("\n| method | at | accuracy | range over seeds | zeros | MACs |\n| --- | --- | --- | --- | --- | --- |")
    for method in args.methods:
        for value in METHODS[method][1]:
            rows = [row for (name, at, _), row in done.items() if (name, at) == (method, value)]
            if rows:
                accuracy = [row["accuracy"] for row in rows]
                zeros, macs = (np.mean([row.get(key, math.nan) for row in rows]) for key in ("zeros", "macs"))
                spread = f"{min(accuracy):.2f} to {max(accuracy):.2f}"
                print(f"| {method} | {value} | {np.mean(accuracy):.2f} | {spread} | {zeros:.3f} | {macs:.3f} |")
    groups = [[row for (name, _, seed), row in done.items() if name == "StructuralGroupLasso" and seed == s] for s in args.seeds]
    groups = [rows for rows in groups if len(rows) == len(STRENGTHS)]
    if groups:
        means = np.mean([interpolated(rows, BUDGETS) for rows in groups], axis=0)
        print(f"\nStructuralGroupLasso at budgets {BUDGETS}: {', '.join(f'{mean:.2f}' for mean in means)}")
    if args.figure:
        draw(done, args.methods, args.figure)


if __name__ == "__main__":
    main()
