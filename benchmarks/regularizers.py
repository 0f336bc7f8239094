"""What a penalty costs: a training step without one, with Keras's L1 and L2, and with each of ours, in one interleaved run.

    KERAS_BACKEND=jax python benchmarks/regularizers.py --model mlp
    python benchmarks/regularizers.py --backend all --model all --json times.json
    python benchmarks/regularizers.py --backend torch --jit-compile
    python benchmarks/regularizers.py --backend all --memory

Every round gives each model a turn of a few steps, in random order. A ratio compares a turn with that of Keras's L1 in the same
round; reported are its median and quartiles over the rounds. "Keras L1 again" is a second model with the same penalty: how far its
ratio is from 1 is the noise. `--jit-compile` compiles the steps, for which PyTorch needs a C++ compiler; without it PyTorch writes an
array for every operation, of which L1 has the fewest. `--memory` reports instead what a step adds to the memory of the process, on
Linux.
"""

import argparse
import gc
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_reg.regularizers import L0, L1, L1L2, L2, MCP, SCAD, Grouped, GroupHoyerSquare, GroupLasso, HoyerSquare, Lq, SparseGroupLasso

BACKENDS = ("tensorflow", "jax", "torch")
BASELINE = "Keras L1"
TARGETS = {"entrywise": 1.05, "groups": 1.10}
# Weak enough that the weights stay as they start; the knees of MCP and SCAD, at 0.1, leave most of them on the curved part.
STRENGTH = 1e-5
KNEE = 0.1 / STRENGTH
PENALTIES = {
    "none": ("", lambda: None),
    BASELINE: ("", lambda: keras.regularizers.L1(STRENGTH)),
    f"{BASELINE} again": ("", lambda: keras.regularizers.L1(STRENGTH)),
    "Keras L2": ("", lambda: keras.regularizers.L2(STRENGTH)),
    "Keras L1L2": ("", lambda: keras.regularizers.L1L2(STRENGTH, STRENGTH)),
    "L1": ("entrywise", lambda: L1(STRENGTH)),
    "L2": ("entrywise", lambda: L2(STRENGTH)),
    "L1L2": ("entrywise", lambda: L1L2(STRENGTH, STRENGTH)),
    "L0 laplace": ("entrywise", lambda: L0(STRENGTH)),
    "L0 log": ("entrywise", lambda: L0(STRENGTH, relaxation="log")),
    "L0 geman_mcclure": ("entrywise", lambda: L0(STRENGTH, relaxation="geman_mcclure")),
    "MCP": ("entrywise", lambda: MCP(STRENGTH, gamma=KNEE)),
    "SCAD": ("entrywise", lambda: SCAD(STRENGTH, a=KNEE)),
    "Lq": ("entrywise", lambda: Lq(STRENGTH)),
    "HoyerSquare": ("entrywise", lambda: HoyerSquare(STRENGTH)),
    "GroupLasso axis=-1": ("groups", lambda: GroupLasso(STRENGTH, axis=-1)),
    "GroupLasso axis=-2": ("groups", lambda: GroupLasso(STRENGTH, axis=-2)),
    "SparseGroupLasso": ("groups", lambda: SparseGroupLasso(STRENGTH, STRENGTH)),
    "Grouped MCP": ("groups", lambda: Grouped(MCP(STRENGTH, gamma=KNEE))),
    "GroupHoyerSquare": ("groups", lambda: GroupHoyerSquare(STRENGTH)),
}


def mlp(penalty):
    hidden = [layers.Dense(1024, activation="relu", kernel_regularizer=penalty) for _ in range(3)]
    return keras.Sequential([keras.Input((1024,)), *hidden, layers.Dense(10, kernel_regularizer=penalty)])


def resnet50(penalty):
    def regularized(layer):
        if isinstance(layer, (layers.Conv2D, layers.Dense)):
            return type(layer).from_config({**layer.get_config(), "kernel_regularizer": penalty})
        return type(layer).from_config(layer.get_config())

    network = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    return keras.models.clone_model(network, clone_function=regularized)


MODELS = {"mlp": (mlp, (1024,), 256), "resnet50": (resnet50, (64, 64, 3), 16)}


class Turns:
    """A compiled model, ready to take training steps on one batch."""

    def __init__(self, build, penalty, x, y, jit_compile="auto"):
        self.model = build(penalty)
        # The plainest optimizer: any other makes the step longer and the share of the penalty smaller.
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.SGD(1e-4), loss, jit_compile=jit_compile)
        self.x, self.y = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)
        self.take(2)

    def take(self, steps):
        """Milliseconds per step; reading the loss makes each step wait for its end."""
        start = time.perf_counter()
        for _ in range(steps):
            self.model.train_on_batch(self.x, self.y)
        return 1e3 * (time.perf_counter() - start) / steps


def batch(shape, size):
    generator = np.random.default_rng(0)
    return generator.normal(size=(size, *shape)).astype("float32"), generator.integers(0, 10, size)


def progress(text):
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def measure_times(name, penalties, rounds, steps, batch_size, jit_compile):
    """Milliseconds per step of every penalty in every round."""
    build, shape, size = MODELS[name]
    x, y = batch(shape, batch_size or size)
    turns = {}
    for penalty in penalties:
        progress(f"{name}: building with {penalty}")
        turns[penalty] = Turns(build, PENALTIES[penalty][1](), x, y, jit_compile)
    times = {penalty: [] for penalty in penalties}
    gc.disable()
    for count in range(rounds):
        progress(f"{name}: round {count + 1} of {rounds}")
        for penalty in random.sample(list(turns), len(turns)):
            times[penalty].append(turns[penalty].take(steps))
        gc.collect()
    gc.enable()
    progress("")
    return times


def print_times(name, times):
    rounds = len(times[BASELINE])
    print(f"\n{name} on {keras.backend.backend()}, Keras {keras.__version__}: a training step, against {BASELINE} in {rounds} rounds\n")
    print("| penalty | ms per step | ratio | quartiles | target |\n| --- | --- | --- | --- | --- |")
    for penalty, own in times.items():
        low, median, high = np.quantile(np.divide(own, times[BASELINE]), [0.25, 0.5, 0.75])
        target = TARGETS.get(PENALTIES[penalty][0])
        verdict = "" if target is None else f"{target:.2f} {'reached' if median <= target else 'missed'}"
        print(f"| {penalty} | {np.median(own):.2f} | {median:.3f} | {low:.3f} to {high:.3f} | {verdict} |")


def memory_now(field):
    """`VmRSS`, the memory in use, or `VmHWM`, its peak; in bytes."""
    gc.collect()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure_memory(name, penalties, steps, batch_size):
    """What a model keeps and what a step adds to it at its peak, in copies of the penalised weights."""
    build, shape, size = MODELS[name]
    x, y = batch(shape, batch_size or size)
    alive, used = [Turns(build, None, x, y)], {}
    for penalty in penalties:
        progress(f"{name}: memory with {penalty}")
        before = memory_now("VmRSS")
        alive.append(Turns(build, PENALTIES[penalty][1](), x, y))
        with_model = memory_now("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now
        alive[-1].take(steps)
        peak = memory_now("VmHWM")
        model = alive[-1].model
        weights = 4 * sum(math.prod(v.shape) for v in model.trainable_variables if len(v.shape) > 1)
        numbers = sum(math.prod(v.shape) for v in model.variables + model.optimizer.variables)
        used[penalty] = {"numbers": numbers, "kept": (with_model - before) / weights, "step": (peak - with_model) / weights}
    progress("")
    return used


def print_memory(name, used):
    print(f"\n{name} on {keras.backend.backend()}, Keras {keras.__version__}: memory, in copies of the penalised weights\n")
    print(f"| penalty | numbers in variables | kept between steps | added by a step | over {BASELINE} |\n| --- | --- | --- | --- | --- |")
    for penalty, row in used.items():
        more = sum(row[part] - used[BASELINE][part] for part in ("kept", "step"))
        print(f"| {penalty} | {row['numbers']:,} | {row['kept']:.2f} | {row['step']:.2f} | {more:+.2f} |")


def main():
    launcher = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launcher.add_argument("--backend", choices=(*BACKENDS, "all"), help="in a process of its own; default: that of KERAS_BACKEND")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[launcher], allow_abbrev=False
    )
    parser.add_argument("--model", choices=(*MODELS, "all"), default="mlp")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn")
    parser.add_argument("--batch-size", type=int, help="default: 256 for the MLP, 16 for ResNet-50")
    parser.add_argument("--penalties", nargs="+", choices=PENALTIES, default=list(PENALTIES), metavar="NAME", help=", ".join(PENALTIES))
    parser.add_argument("--jit-compile", action="store_true", help="compile the steps (XLA on TensorFlow and JAX)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append for each model a line of JSON with all that was measured")
    args = parser.parse_args()

    if args.memory and sys.platform != "linux":
        parser.error("--memory reads /proc, which only Linux has.")
    # Every large array its own mapping, and no pool of TensorFlow's: what is freed leaves the process, so that what is in use shows.
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"} if args.memory else {}
    if args.backend or not exact.items() <= os.environ.items():
        _, rest = launcher.parse_known_args()
        for backend in BACKENDS if args.backend == "all" else [args.backend or keras.backend.backend()]:
            environment = {**os.environ, **exact, "KERAS_BACKEND": backend}
            subprocess.run([sys.executable, __file__, *rest], env=environment, check=True)
        return

    if args.jit_compile and keras.backend.backend() == "torch":
        import torch

        # One process holds a compiled step for every penalty.
        torch._dynamo.config.cache_size_limit = torch._dynamo.config.accumulated_cache_size_limit = 1024
    penalties = [p for p in PENALTIES if p == BASELINE or p in args.penalties]
    for name in MODELS if args.model == "all" else [args.model]:
        if args.memory:
            result = measure_memory(name, penalties, args.steps, args.batch_size)
            print_memory(name, result)
        else:
            result = measure_times(name, penalties, args.rounds, args.steps, args.batch_size, args.jit_compile or "auto")
            print_times(name, result)
        if args.json:
            versions = {"backend": keras.backend.backend(), "keras": keras.__version__}
            with args.json.open("a") as file:
                file.write(json.dumps({"model": name, **versions, "memory" if args.memory else "ms": result}) + "\n")


if __name__ == "__main__":
    main()
