"""What penalties cost in memory: the most that training takes above the model, in bytes for each weight of one large `Dense` kernel.

    python benchmarks/memory.py --backend all

Each case runs in a process of its own, several times, as what is computed when differs between runs; reported are the median and the
range, and the ratio of the medians to the bare optimizer, Adam. CPU alone: it is the resident memory of the process that is watched.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
CASES = ("alone", "L1 of Keras", "L1", "GroupLasso")
STRENGTH, LIMIT = 1e-6, 1.3


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def model_of(size, case):
    import keras

    from keras_reg.optimizers import Proximal
    from keras_reg.regularizers import L1, GroupLasso

    penalty = {
        "alone": None,
        "L1 of Keras": keras.regularizers.L1(STRENGTH),
        "L1": L1(STRENGTH, proximal=True),
        "GroupLasso": GroupLasso(STRENGTH, axis=-1, proximal=True),
    }[case]
    model = keras.Sequential([keras.Input((size,)), keras.layers.Dense(size, use_bias=False, kernel_regularizer=penalty)])
    adam = keras.optimizers.Adam(1e-6)
    model.compile(Proximal(adam) if case in ("L1", "GroupLasso") else adam, "mse")
    return model


def measure(size, case):
    x = np.random.default_rng(0).normal(size=(4, size)).astype("float32")
    small = model_of(8, case)  # what the framework takes by itself
    small.train_on_batch(x[:, :8], x[:, :8])
    model = model_of(size, case)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = resident(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(4):
        model.train_on_batch(x, x)
    done.set()
    watcher.join()
    return (peak - before) / size**2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=(*BACKENDS, "all"), default=os.environ.get("KERAS_BACKEND", "tensorflow"))
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the kernel")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(measure(args.size, args.case))
        return
    print("| backend | penalty | bytes a weight | ratio |\n| --- | --- | --- | --- |")
    for backend in BACKENDS if args.backend == "all" else [args.backend]:
        found = {}
        for case in CASES:
            command = [sys.executable, __file__, "--backend", backend, "--size", str(args.size), "--case", case]
            environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
            runs = [subprocess.run(command, env=environment, check=True, capture_output=True, text=True) for _ in range(args.runs)]
            found[case] = sorted(float(run.stdout.split()[-1]) for run in runs)
            ratio = np.median(found[case]) / np.median(found["alone"])
            verdict = "" if case not in ("L1", "GroupLasso") else " reached" if ratio <= LIMIT else " missed"
            spread = f"{np.median(found[case]):.1f} ({found[case][0]:.1f} to {found[case][-1]:.1f})"
            print(f"| {backend} | {case} | {spread} | {ratio:.2f}{verdict} |", flush=True)


if __name__ == "__main__":
    main()
