"""What a look at the weights costs: one logging of ResNet-50 by `WeightHistogram` and by Keras's TensorBoard callback, in one run.

    python benchmarks/weight_histogram.py
    KERAS_BACKEND=jax python benchmarks/weight_histogram.py --no-training

All work on the same model, turn about: our callback on every weight (25.6 million in 320 arrays) and on the kernels that it logs by default
(25.5 million in 54), and Keras's, which logs every weight and needs TensorFlow as the backend. Reported are medians and quartiles of the
times, those of reading the weights twice, the most that a logging adds to the memory of the process (Linux), and the share of the training
time that a logging every 100 steps takes.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_reg.callbacks import WeightHistogram
from keras_reg.weights import named_weights, read

TARGET_RATIO = 20
TARGET_MEGABYTES = 32
TARGET_SHARE = 0.02


def resnet50(penalty=None):
    def regularized(layer):
        if penalty is not None and isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            return type(layer).from_config({**layer.get_config(), "kernel_regularizer": penalty})
        return type(layer).from_config(layer.get_config())

    network = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classifier_activation=None)
    model = keras.models.clone_model(network, clone_function=regularized)
    model.compile(keras.optimizers.SGD(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Seconds:
    """Times of one way, in the order of the rounds."""

    def __init__(self):
        self.all = []

    def take(self, function):
        start = time.perf_counter()
        function()
        self.all.append(time.perf_counter() - start)

    def __str__(self):
        low, middle, high = statistics.quantiles(self.all, n=4)
        return f"{1e3 * middle:8.1f} ms  (quartiles {1e3 * low:.1f} to {1e3 * high:.1f})"

    @property
    def median(self):
        return statistics.median(self.all)


def resident():
    """Bytes of memory that the process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_while(function):
    """The most that the process grows while `function` runs, in megabytes, looked at every half millisecond."""
    before, most, done = resident(), 0, threading.Event()

    def watch():
        nonlocal most
        while not done.is_set():
            most = max(most, resident())
            time.sleep(5e-4)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return (max(most, resident()) - before) / 1e6


def ours(model, folder, **arguments):
    """One logging, ready to be called again."""
    callback = WeightHistogram(folder, **arguments)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    return lambda: callback._look(None, write=True)


def theirs(model, folder):
    callback = keras.callbacks.TensorBoard(folder, histogram_freq=1, write_graph=False)
    callback.set_model(model)
    callback.on_train_begin()
    epochs = iter(range(10**6))
    return lambda: callback._log_weights(next(epochs))


def logging_times(rounds, folder):
    model = resnet50()
    ways = {
        "every weight": ours(model, folder / "all", include="*"),
        "kernels (the default)": ours(model, folder / "kernels"),
        "reading the weights twice": lambda: [keras.ops.convert_to_numpy(v).sum() for _ in range(2) for v in model.weights],
        "the same, not copied": lambda: [read(v).sum() for _ in range(2) for v in named_weights(model).values()],
    }
    if keras.backend.backend() == "tensorflow":
        ways["keras TensorBoard"] = theirs(model, folder / "keras")
    seconds = {name: Seconds() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].take(way)
    return seconds


def memory(folder):
    """Of kernels and of all weights, without penalties and with an L1 on every kernel."""
    found = {}
    for name, penalty in (("no penalty", None), ("L1", "l1")):
        model = resnet50(penalty)
        for what, include in (("all weights", "*"), ("kernels", None)):
            look = ours(model, folder / name / what, include=include)
            look()
            found[f"{what}, {name}"] = max(peak_while(look) for _ in range(5))
    return found


def step_seconds(steps, batch_size):
    """The median time of a training step without any logging."""
    generator = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(generator.normal(size=(batch_size, 64, 64, 3)).astype("float32"))
    y = keras.ops.convert_to_tensor(generator.integers(0, 1000, batch_size))
    model = resnet50()
    model.train_on_batch(x, y)
    seconds = Seconds()
    for _ in range(steps):
        seconds.take(lambda: model.train_on_batch(x, y))
    return seconds


def verdict(holds):
    return "yes" if holds else "NO"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-training", action="store_true", help="leave out the training, which takes minutes")
    parser.add_argument("--steps", type=int, default=50, help="training steps to time")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    figures = {"backend": keras.backend.backend(), "keras": keras.__version__}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        seconds = logging_times(options.rounds, folder)
        print(f"ResNet-50 on {keras.backend.backend()}, one logging, {options.rounds} rounds")
        for name, times in seconds.items():
            print(f"  {name:<26}{times}")
        figures["seconds"] = {name: times.all for name, times in seconds.items()}
        mine = seconds["every weight"].median
        print(f"  of reading the weights twice: {mine / seconds['reading the weights twice'].median:.2f} times")
        if "keras TensorBoard" in seconds:
            ratio = seconds["keras TensorBoard"].median / mine
            print(
                f"  faster than Keras's callback: {ratio:.0f} times (at least {TARGET_RATIO}: {'yes' if ratio >= TARGET_RATIO else 'NO'})"
            )
        if Path("/proc/self/statm").exists():
            figures["megabytes"] = memory(folder)
            for name, most in figures["megabytes"].items():
                print(f"  memory, {name}: {most:.1f} MB more (below {TARGET_MEGABYTES}: {verdict(most < TARGET_MEGABYTES)})")
        if not options.no_training:
            step = step_seconds(options.steps, options.batch_size)
            figures["step"] = step.all
            share = seconds["kernels (the default)"].median / (100 * step.median)
            print(f"  a training step of {options.batch_size} images of 64x64{step}")
            print(f"  a logging every 100 steps takes {share:.2%} of that (below {TARGET_SHARE:.0%}: {verdict(share < TARGET_SHARE)})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
