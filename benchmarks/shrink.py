"""`shrink` against narrower networks and one-shot pruning: a small convolutional and a small residual network on Fashion-MNIST.

    python benchmarks/shrink.py --data fashion_mnist.npz

A dense network is trained for `--epochs` epochs of Adam, its learning rate falling along a cosine to 0; "dense, trained on" has twice as
many epochs more. "budget": `shrink(macs=0.25)` from the dense network, in as many more. "one shot": of every layer of the dense network
the same share of units, those of the smallest norm over the weights that make them, is taken out so that a quarter of the
multiplications is left; then as many epochs more. "narrow": a network whose layers are all narrower by one factor, trained from the start
for as many epochs as these have had in all. "metric_drop": `shrink(metric_drop=0.005)` from the dense network, judged on the validation
images.

The last 5,000 training images are for validation, and no method is trained on them; accuracies are those on the test images, which
nothing is chosen by.
"""

import argparse
import json
import math
import pathlib
import time

import keras
import numpy as np
from keras import layers

from keras_reg.models import compact, compaction_plan, shrink, structural_groups

BUDGET, DROP, VALIDATION = 0.25, 0.005, 5000
BATCH, RATE = 128, 2e-3


def images(file, number):
    with np.load(file) as data:
        x, y, *test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, test[0] = (pixels[..., None].astype("float32") / 255 for pixels in (x, test[0]))
    y, test[1] = y.astype("int32"), test[1].astype("int32")
    return (x[: min(number, len(x) - VALIDATION)], y[: min(number, len(x) - VALIDATION)]), (x[-VALIDATION:], y[-VALIDATION:]), tuple(test)


def cnn(share=1.0):
    widths = [max(1, round(width * share)) for width in (24, 48, 96)]
    x = inputs = keras.Input((28, 28, 1))
    for width in widths[:2]:
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    x = layers.Dense(widths[2], activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def resnet(share=1.0):
    widths = [max(1, round(width * share)) for width in (16, 32, 64)]
    inputs = keras.Input((28, 28, 1))

    def normalized(x, width, size=3, strides=1):
        return layers.BatchNormalization()(layers.Conv2D(width, size, strides, padding="same", use_bias=False)(x))

    x = layers.ReLU()(normalized(inputs, widths[0]))
    for number, width in enumerate(widths):
        strides = 1 if number == 0 else 2
        branch = normalized(layers.ReLU()(normalized(x, width, strides=strides)), width)
        shortcut = x if strides == 1 else normalized(x, width, 1, strides)
        x = layers.ReLU()(layers.add([branch, shortcut]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


NETWORKS = {"cnn": cnn, "resnet": resnet}


class Study:
    def __init__(self, network, data, epochs, seed, folder):
        self.network, self.epochs, self.seed = NETWORKS[network], epochs, seed
        self.train, self.validation, self.test = data
        self.file = folder / f"{network}-{epochs}-{len(self.train[0])}-{seed}.keras"
        self.whole = compaction_plan(self.network()).total.macs[0]

    def compiled(self, model, epochs):
        rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * math.ceil(len(self.train[0]) / BATCH))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        return model

    def fitted(self, model, epochs):
        self.compiled(model, epochs).fit(*self.train, BATCH, epochs=epochs, verbose=0)
        return model

    def dense(self):
        """The network that all but the narrow one start from."""
        if not self.file.exists():
            keras.utils.set_random_seed(self.seed)
            self.fitted(self.network(), self.epochs).save(self.file)
        return keras.models.load_model(self.file)

    def result(self, model):
        accuracy = model.evaluate(*self.test, batch_size=1000, verbose=0)[1]
        return {"accuracy": 100 * accuracy, "macs": compaction_plan(model).total.macs[0] / self.whole}

    def by_budget(self):
        return self.result(shrink(self.dense(), *self.train, macs=BUDGET, epochs=self.epochs, batch_size=BATCH, verbose=0)[0])

    def by_drop(self):
        options = {"metric_drop": DROP, "validation_data": self.validation, "epochs": self.epochs, "batch_size": BATCH}
        small, report = shrink(self.dense(), *self.train, verbose=0, **options)
        return {**self.result(small), "validation": [100 * value for value in report.metrics["accuracy"]]}

    def by_one_shot(self):
        def pruned(share):
            model = self.dense()
            zero_smallest(model, share)
            return model

        def fits(share):
            return compaction_plan(pruned(share)).total.macs[1] <= BUDGET * self.whole

        share = next(share for share in np.linspace(0, 1, 101) if fits(share))
        return self.result(self.fitted(compact(pruned(share)), 2 * self.epochs))

    def narrow(self):
        def fits(share):
            return compaction_plan(self.network(share)).total.macs[0] <= BUDGET * self.whole

        share = next(share for share in np.linspace(1, 0, 201) if fits(share))
        keras.utils.set_random_seed(self.seed)
        return self.result(self.fitted(self.network(share), 3 * self.epochs))


def zero_smallest(model, share):
    """Of each layer's units, or of those that are added up, the share of smallest norm becomes zero; one stays."""
    families = {}
    for group in structural_groups(model):
        families.setdefault(tuple(part.variable.path for part in group.slices), []).append(group)
    for groups in families.values():
        for group in sorted(groups, key=lambda group: group.norm())[: min(len(groups) - 1, round(share * len(groups)))]:
            group.zero()


METHODS = {
    "dense": lambda study: study.result(study.dense()),
    "dense, trained on": lambda study: study.result(study.fitted(study.dense(), 2 * study.epochs)),
    "budget": Study.by_budget,
    "one shot": Study.by_one_shot,
    "narrow": Study.narrow,
    "metric_drop": Study.by_drop,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, help="Fashion-MNIST as keras.datasets stores it: x_train, y_train, x_test, y_test in one .npz"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=55000)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", default="shrink_runs", help="a folder; one line for each run is added, and what is there is not run again")
    args = parser.parse_args()
    folder = pathlib.Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"runs-{args.epochs}-{args.images}.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    data = images(args.data, args.images)
    for seed in args.seeds:
        for network in args.networks:
            for method in args.methods:
                if any((row["network"], row["method"], row["seed"]) == (network, method, seed) for row in rows):
                    continue
                keras.backend.clear_session()
                start = time.time()
                found = METHODS[method](Study(network, data, args.epochs, seed, folder))
                rows.append({"network": network, "method": method, "seed": seed, **found, "seconds": round(time.time() - start, 1)})
                with log.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    print("\n| network | method | accuracy | range over seeds | MACs | seeds |\n| --- | --- | --- | --- | --- | --- |")
    for network in args.networks:
        for method in args.methods:
            own = [row for row in rows if (row["network"], row["method"]) == (network, method)]
            if own:
                accuracy = [row["accuracy"] for row in own]
                spread = f"{min(accuracy):.2f} to {max(accuracy):.2f}"
                macs = np.mean([row["macs"] for row in own])
                print(f"| {network} | {method} | {np.mean(accuracy):.2f} | {spread} | {macs:.3f} | {len(own)} |")
        dense = {row["seed"]: row["accuracy"] for row in rows if (row["network"], row["method"]) == (network, "dense")}
        drops = [dense[row["seed"]] - row["accuracy"] for row in rows if (row["network"], row["method"]) == (network, "metric_drop")]
        if drops:
            print(f"\nmetric_drop={DROP}, {network}: {', '.join(f'{drop:.2f}' for drop in drops)} points lost on the test images")


if __name__ == "__main__":
    main()
