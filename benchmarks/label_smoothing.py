"""What label smoothing costs: loss and gradient by ours and by what it replaces, in one interleaved run.

    KERAS_BACKEND=jax python benchmarks/label_smoothing.py --shapes 512x50257
    python benchmarks/label_smoothing.py --backend all --json times.json
    python benchmarks/label_smoothing.py --backend all --memory

Labels are integers for all; the one-hot rival makes its targets inside the step, as a data pipeline would outside it. Every round
gives each loss a turn, in random order; a ratio compares it with the one-hot rival in the same round, and reported is the median.
TensorFlow runs as a graph, without and with XLA; JAX has XLA always; PyTorch runs eagerly. `--memory` reports instead what a step adds
to the memory of the process at its peak, in sizes of the logits: the gradient that it returns is 1 of them. (On Linux.)
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
from keras import ops

from keras_reg.losses import LabelSmoothingCrossentropy

BACKENDS = ("tensorflow", "jax", "torch")
SHAPES = {"256x10": (256, 10), "64x50257": (64, 50257), "512x50257": (512, 50257), "8x512x512x21": (8, 512, 512, 21)}
SMOOTHING = 0.1
OURS, ONE_HOT, SPARSE, LEAST = "ours", "one-hot, Keras", "sparse, Keras, no smoothing", "least: a class of Keras's that computes nothing"
TARGETS = {False: 0.55, True: 0.75}  # of the time of the one-hot rival, without and with XLA
MEMORY_TARGET = 1.25


def one_hot(y, z):
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)(ops.one_hot(y, z.shape[-1]), z)


def left_to_autodiff(y, z):
    log_p = ops.log_softmax(z)
    label = ops.take_along_axis(log_p, ops.expand_dims(y, -1), axis=-1)[..., 0]
    return -ops.mean((1 - SMOOTHING) * label + SMOOTHING * ops.mean(log_p, axis=-1))


def native_torch(y, z):
    import torch

    rows = z.reshape(-1, z.shape[-1])
    return torch.nn.functional.cross_entropy(rows, y.reshape(-1).long(), label_smoothing=SMOOTHING)


class Least(keras.losses.Loss):
    """What is left of the time for small logits, whatever the formula."""

    def call(self, y_true, y_pred):
        return y_pred[..., 0]


LOSSES = {
    OURS: LabelSmoothingCrossentropy(SMOOTHING, from_logits=True),
    ONE_HOT: one_hot,
    SPARSE: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    LEAST: Least(),
    "closed form, autodiff": left_to_autodiff,
    "PyTorch's own": native_torch,
}


def step_of(loss, xla):
    """`step(y, z)`: the loss and its gradient, once they are there."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False, jit_compile=xla)
        def step(y, z):
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = loss(y, z)
            return value, tape.gradient(value, z)

        return step
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(jax.value_and_grad(lambda z, y: loss(y, z)))
        return lambda y, z: jax.block_until_ready(compiled(z, y))
    import torch

    def step(y, z):
        z = z.detach().requires_grad_(True)
        value = loss(y, z)
        return value, torch.autograd.grad(value, z)[0]

    return step


def batch(shape):
    generator = np.random.default_rng(0)
    logits = ops.convert_to_tensor(generator.normal(size=shape).astype("float32"))
    return ops.convert_to_tensor(generator.integers(0, shape[-1], shape[:-1]).astype("int32")), logits


def measure_times(steps, y, z, rounds):
    """Milliseconds a step of every loss in every round."""
    times = {name: [] for name in steps}
    for step in steps.values():
        step(y, z)
    start = time.perf_counter()
    steps[OURS](y, z)
    turn = max(1, math.ceil(0.02 / (time.perf_counter() - start)))  # short steps several times
    gc.disable()
    for _ in range(rounds):
        for name in random.sample(list(steps), len(steps)):
            start = time.perf_counter()
            for _ in range(turn):
                steps[name](y, z)
            times[name].append(1e3 * (time.perf_counter() - start) / turn)
    gc.enable()
    return times


def memory_now(field):
    """`VmRSS`, the memory in use, or `VmHWM`, its peak; in bytes."""
    gc.collect()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure_memory(steps, y, z):
    """What the second step adds at its peak, in sizes of the logits."""
    used = {}
    for name, step in steps.items():
        step(y, z)
        before = memory_now("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use now
        result = step(y, z)
        used[name] = (memory_now("VmHWM") - before) / (4 * math.prod(z.shape))
        del result
    return used


def report_times(times, xla):
    print("| loss | ms | of the one-hot rival | of plain sparse | target |\n| --- | --- | --- | --- | --- |")
    for name, own in times.items():
        ratios = [float(np.median(np.divide(own, times[rival]))) for rival in (ONE_HOT, SPARSE)]
        reached = ratios[0] <= TARGETS[xla] and ratios[1] <= 1
        verdict = f"{TARGETS[xla]:.2f} and 1.00 {'reached' if reached else 'missed'}" if name == OURS else ""
        print(f"| {name} | {np.median(own):.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {verdict} |")


def report_memory(used):
    print("| loss | peak of a step, in logits | target |\n| --- | --- | --- |")
    for name, own in used.items():
        verdict = f"{MEMORY_TARGET:.2f} {'reached' if own <= MEMORY_TARGET else 'missed'}" if name == OURS else ""
        print(f"| {name} | {own:.2f} | {verdict} |")


def main():
    launcher = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launcher.add_argument("--backend", choices=(*BACKENDS, "all"), help="in a process of its own; default: that of KERAS_BACKEND")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[launcher], allow_abbrev=False
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append for each setting a line of JSON with all that was measured")
    args = parser.parse_args()

    if args.memory and sys.platform != "linux":
        parser.error("--memory reads /proc, which only Linux has.")
    # Every large array its own mapping, and no pool of TensorFlow's: what is freed leaves the process, so that what is in use shows.
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"} if args.memory else {}
    if args.backend or not exact.items() <= os.environ.items():
        _, rest = launcher.parse_known_args()
        for backend in BACKENDS if args.backend == "all" else [args.backend or keras.backend.backend()]:
            subprocess.run([sys.executable, __file__, *rest], env={**os.environ, **exact, "KERAS_BACKEND": backend}, check=True)
        return

    backend = keras.backend.backend()
    for xla in {"tensorflow": (False, True), "jax": (True,), "torch": (False,)}[backend]:
        for shape in args.shapes:
            y, z = batch(SHAPES[shape])
            steps = {name: step_of(loss, xla) for name, loss in LOSSES.items() if loss is not native_torch or backend == "torch"}
            print(f"\n{shape} on {backend}{', with XLA' if xla else ''}, Keras {keras.__version__}: loss and gradient\n")
            if args.memory:
                report_memory(result := measure_memory(steps, y, z))
            else:
                report_times(result := measure_times(steps, y, z, args.rounds), xla)
            if args.json:
                facts = {"shape": shape, "backend": backend, "xla": xla, "keras": keras.__version__}
                with args.json.open("a") as file:
                    file.write(json.dumps({**facts, "memory" if args.memory else "ms": result}) + "\n")


if __name__ == "__main__":
    main()
