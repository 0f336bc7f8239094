"""What compaction gains: inference of masked models against the same models compacted, and the time that compaction takes.

    python benchmarks/compaction.py
    python benchmarks/compaction.py --backend all --model ResNet50 --batch-sizes 1 16 --json times.json

A share of all filters and neurons is set to zero, the same share of every layer, along the groups that `structural_groups` finds; that
is the masked model. Every round gives each model a turn of a few calls of `predict_on_batch` (which TensorFlow and JAX compile; PyTorch
runs eagerly), in random order; a ratio compares a masked model with its compacted one in the same round; reported are medians over the
rounds. "built" is the network with every width halved from the start, against the half masked one: what there is to gain. The difference
is the largest between the outputs of the two, on the inputs timed, in units of the largest output.

BatchNormalization's statistics and scales, and all biases, are random. Images are 224x224, except those of LeNet-300-100.
"""

import argparse
import gc
import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from keras_reg.models import compact, compaction_plan, structural_groups, zero_groups

logging.getLogger("tensorflow").setLevel("ERROR")  # which warns of compiling as many models as are timed
BACKENDS = ("tensorflow", "jax", "torch")
SHARES = (0.25, 0.5, 0.75)
TARGETS = {("ResNet50", 0.5, 1): 2.3, ("ResNet50", 0.5, 16): 3.0}
TARGET_SECONDS = 10
TARGET_DIFFERENCE = 1e-5
SECONDS_PER_TURN = 0.1


def lenet():
    hidden = [layers.Dense(300, activation="relu"), layers.Dense(100, activation="relu")]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)], name="lenet")


NETWORKS = {
    "ResNet50": lambda: keras.applications.ResNet50(weights=None, classifier_activation=None),
    "MobileNetV2": lambda: keras.applications.MobileNetV2(weights=None, classifier_activation=None),
    "LeNet-300-100": lenet,
}


def randomized(model, generator):
    """Scales and biases as after training: none of them one or zero."""
    normalized = any(variable.name == "gamma" for variable in model.weights)
    for variable in model.weights:
        values = generator.normal(size=variable.shape)
        if variable.name == "gamma":
            variable.assign(1 + values / 4)
        elif variable.name in ("beta", "bias"):
            variable.assign_add(values / 10)
        elif variable.name == "kernel" and not normalized:
            variable.assign(2 * variable)  # half of the units gone, the signal would fade on its way
    return model


def settled(model, x, generator):
    """Statistics of normalization about those of data: otherwise the outputs of a deep network hardly depend on its inputs."""
    normalizations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    model(x, training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
        mean, variance = map(keras.ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
        layer.moving_mean.assign(mean + np.sqrt(variance) * generator.normal(size=mean.shape) / 10)
        layer.moving_variance.assign(variance * np.exp(generator.normal(size=mean.shape) / 4))
    return model


def halved(model):
    """The same network, built with half of the filters and neurons in every layer but the last."""

    def half(layer):
        config = layer.get_config()
        for key in ("filters", "units"):
            if key in config and layer is not model.layers[-1]:
                config[key] //= 2
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=half)


def masked(model, share, generator):
    """Sets the share of the units of every layer to zero; layers whose units leave together count as one."""
    layers_of_groups = {}
    for group in structural_groups(model):
        producers = tuple((part.variable.path, part.axis) for part in group.slices if part.produces)
        layers_of_groups.setdefault(producers, []).append(group)
    for groups in layers_of_groups.values():
        chosen = generator.choice(len(groups), round(share * len(groups)), replace=False)
        zero_groups([groups[index] for index in chosen])
    return model


def masked_at_random(model, share, generator):
    """Sets each group to zero with this probability."""
    zero_groups([group for group in structural_groups(model) if generator.random() < share])
    return model


def difference(outputs, expected):
    """The largest difference of two arrays, in units of the largest value; the outputs have to depend on the inputs."""
    outputs, expected = np.asarray(outputs, "float64"), np.asarray(expected, "float64")
    largest = np.max(np.abs(expected))
    if not np.max(np.ptp(expected, axis=0)) > 1e-3 * largest:
        raise AssertionError("The outputs are the same for all inputs: that they are equal says nothing.")
    return np.max(np.abs(outputs - expected)) / largest


def inputs(model, size):
    """Coarse patterns and noise: images of noise alone are all the same to a network that averages over positions."""
    generator = np.random.default_rng(1)
    *lengths, channels = model.input_shape[1:]
    patterns = generator.normal(size=(size, *[4] * len(lengths), channels))
    for axis, length in enumerate(lengths, start=1):
        patterns = np.repeat(patterns, -(-length // 4), axis).take(range(length), axis)
    return (patterns + generator.normal(size=patterns.shape)).astype("float32")


def progress(text):
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def models_of(name):
    """Models to time by what they are, the share of MACs left, and the seconds of compaction."""
    models, macs, seconds = {}, {}, []
    for share in SHARES:
        progress(f"{name}: compacting with {share:.0%} zero")
        generator = np.random.default_rng(0)
        original = masked(randomized(NETWORKS[name](), generator), share, generator)
        settled(original, inputs(original, 4), generator)
        start = time.perf_counter()
        small = compact(original)
        seconds.append(time.perf_counter() - start)
        before, after = compaction_plan(original).total.macs
        macs[share] = before / after
        models["masked", share], models["compacted", share] = original, small
    models["built", 0.5] = halved(original)
    return models, macs, seconds


def turns(models, x, rounds):
    """Seconds per call of every model in every round."""
    calls = {}
    for key, model in models.items():
        model.predict_on_batch(x)  # compiles
        start = time.perf_counter()
        model.predict_on_batch(x)
        calls[key] = max(1, round(SECONDS_PER_TURN / (time.perf_counter() - start)))
    times = {key: [] for key in models}
    for _ in range(rounds):
        gc.collect()
        for key in random.sample(list(models), len(models)):
            start = time.perf_counter()
            for _ in range(calls[key]):
                models[key].predict_on_batch(x)
            times[key].append((time.perf_counter() - start) / calls[key])
    return times


def measure(name, batch_sizes, rounds):
    """Rows of the table, and the seconds of compaction."""
    models, macs, seconds = models_of(name)
    rows = []
    for size in batch_sizes:
        progress(f"{name}: batch of {size}")
        x = inputs(models["built", 0.5], size)
        # A batch of one has nothing to compare its outputs with.
        probe = x if size > 1 else np.concatenate([x, -x])
        times = turns(models, x, max(3, rounds // 3) if size > 16 else rounds)
        for (kind, share), own in times.items():
            if kind == "masked":
                continue
            ratios = np.divide(times["masked", share], own)
            row = {"model": name, "kind": kind, "share": share, "batch": size, "macs": macs[share]}
            row |= {"masked_ms": 1e3 * np.median(times["masked", share]), "ms": 1e3 * np.median(own)}
            row |= {"ratio": np.median(ratios), "low": np.quantile(ratios, 0.25), "high": np.quantile(ratios, 0.75)}
            if kind == "compacted":
                row["difference"] = float(
                    difference(models[kind, share].predict_on_batch(probe), models["masked", share].predict_on_batch(probe))
                )
                row["parameters"] = models["masked", share].count_params(), models[kind, share].count_params()
            rows.append(row)
    progress("")
    return rows, seconds


def verdict(holds):
    return "reached" if holds else "MISSED"


def show(name, rows, seconds):
    print(f"\n{name} on {keras.backend.backend()}, Keras {keras.__version__}: compaction took {np.median(seconds):.1f} s", end="")
    print(f" (below {TARGET_SECONDS}: {verdict(max(seconds) < TARGET_SECONDS)})\n")
    print("| zero | batch | MACs, times fewer | masked, ms | compacted, ms | times faster | quartiles | difference | target |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        target = TARGETS.get((name, row["share"], row["batch"])) if row["kind"] == "compacted" else None
        goal = f"{target} {verdict(row['ratio'] >= target)}" if target else ""
        label = f"{row['share']:.0%}" if row["kind"] == "compacted" else "half, built"
        equal = f"{row['difference']:.1e}" if "difference" in row else ""
        print(
            f"| {label} | {row['batch']} | {row['macs']:.2f} | {row['masked_ms']:.2f} | {row['ms']:.2f} | {row['ratio']:.2f} "
            f"| {row['low']:.2f} to {row['high']:.2f} | {equal} | {goal} |"
        )
    worst = max(row["difference"] for row in rows if "difference" in row)
    print(f"\nLargest difference: {worst:.1e} (below {TARGET_DIFFERENCE:g}: {verdict(worst < TARGET_DIFFERENCE)})")


def main():
    launcher = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launcher.add_argument("--backend", choices=(*BACKENDS, "all"), help="in a process of its own; default: that of KERAS_BACKEND")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[launcher], allow_abbrev=False
    )
    parser.add_argument("--model", choices=(*NETWORKS, "all"), default="all")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=15, help="a third as many of batches larger than 16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append for each model a line of JSON with all that was measured")
    args = parser.parse_args()

    if args.backend:
        _, rest = launcher.parse_known_args()
        for backend in BACKENDS if args.backend == "all" else [args.backend]:
            subprocess.run([sys.executable, __file__, *rest], env={**os.environ, "KERAS_BACKEND": backend}, check=True)
        return
    for name in NETWORKS if args.model == "all" else [args.model]:
        rows, seconds = measure(name, args.batch_sizes, args.rounds)
        show(name, rows, seconds)
        if args.json:
            versions = {"backend": keras.backend.backend(), "keras": keras.__version__}
            with args.json.open("a") as file:
                file.write(json.dumps({**versions, "compaction_seconds": seconds, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
