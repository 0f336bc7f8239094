"""What the programs on MNIST share: images, networks, training with noise, what is measured, runs by steps, tables and figures."""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import math
import pathlib
import tempfile
import time

import keras
import numpy as np
from keras import layers

from keras_reg.models import compact, compaction_plan, save_compressed, sparsity

BATCH = 250
STEPS_AT_ONCE = 20
HELD_OUT = 10_000
ROUNDS = 20


def images(file, flat=True):
    """Those to train on, the last 10,000 of the training set, by which all is chosen, and the test set."""
    with np.load(file) as data:
        x, y, *test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    shape = (-1,) if flat else (28, 28, 1)
    x, test[0] = (pixels.reshape(len(pixels), *shape).astype("float32") / 255 for pixels in (x, test[0]))
    y, test[1] = y.astype("int32"), test[1].astype("int32")
    return (x[:-HELD_OUT], y[:-HELD_OUT]), (x[-HELD_OUT:], y[-HELD_OUT:]), tuple(test)


def lenet_300_100():
    hidden = [layers.Dense(units, activation="relu") for units in (300, 100)]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])


def lenet_5():
    """Widths as in Caffe's example; 'valid' convolutions."""
    convolutions = [layer for filters in (20, 50) for layer in (layers.Conv2D(filters, 5, activation="relu"), layers.MaxPooling2D())]
    dense = [layers.Flatten(), layers.Dense(500, activation="relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *dense])


NETWORKS = {"lenet-300-100": lenet_300_100, "lenet-5": lenet_5}
WEIGHTS = {"lenet-300-100": 266_200, "lenet-5": 430_500}
"""Without biases."""


INNER = {"adam": keras.optimizers.Adam, "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9)}


def train(model, data, rate, epochs, wrap=None, callbacks=(), inner="adam"):
    """Along a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * math.ceil(len(data[0]) / BATCH))
    optimizer = INNER[inner](schedule)
    model.compile(
        wrap(optimizer) if wrap else optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=1 if keras.backend.backend() == "torch" else STEPS_AT_ONCE,
    )
    return model.fit(*data, BATCH, epochs=epochs, verbose=0, callbacks=list(callbacks))


def error(model, data):
    return round(100 - 100 * model.evaluate(*data, batch_size=1000, verbose=0)[1], 2)


def with_noise(model, noise, added=0.0):
    """The same layers, with noise on what each layer of weights reads, times `1 + noise * N(0, 1)`, and
    before that `added * N(0, 1)` on pixels."""
    rate = noise**2 / (1 + noise**2)
    noisy = [one for layer in model.layers for one in ([layers.GaussianDropout(rate)] if layer.weights else []) + [layer]]
    return keras.Sequential([keras.Input(model.input_shape[1:]), *[layers.GaussianNoise(added)] * bool(added), *noisy])


def size_on_disk(model, save=keras.Model.save):
    """Of a `.keras` file without the optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.keras"
        plain = type(model).from_config(model.get_config())
        plain.set_weights(model.get_weights())
        save(plain, file)
        return file.stat().st_size


def kernels(model):
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def architecture(model):
    """What each layer of weights reads: pixels, filters (as they come out of a `Flatten`) and neurons."""
    return "-".join(str(kernel.shape[-2]) for kernel in kernels(model)[len(model.input_shape) > 2 :])


def milliseconds(models, inputs):
    """To predict a batch, the least of several rounds by turns."""
    times = [[] for _ in models]
    for _ in range(ROUNDS + 1):
        for model, x, own in zip(models, inputs, times, strict=True):
            start = time.perf_counter()
            model.predict_on_batch(x)
            own.append(1000 * (time.perf_counter() - start))
    return [round(min(own[1:]), 2) for own in times]  # the first one compiles


def measured(model, data, whole, whole_data, compressed=False):
    """Of a model as it comes back from its file, beside the whole network.

    Args:
        data: Pairs of images and labels to choose by and to test on, with the pixels that the model reads.
        whole_data: Images of all pixels, for the time of the whole network.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.keras"
        (save_compressed if compressed else keras.Model.save)(model, file)
        loaded = keras.models.load_model(file, compile=False)
    loaded.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    before, after = milliseconds([whole, loaded], [whole_data[:1000], data[1][0][:1000]])
    return {
        "validation": error(loaded, data[0]),
        "error": error(loaded, data[1]),
        "left": architecture(loaded),
        "macs": compaction_plan(loaded).total.macs[0],
        "non_zeros": sum(int(np.count_nonzero(keras.ops.convert_to_numpy(kernel))) for kernel in kernels(loaded)),
        "non_zeros_with_biases": (total := sparsity(loaded).total).parameters - total.zeros,
        "bytes": size_on_disk(loaded, save_compressed if compressed else keras.Model.save),
        "ms_before": before,
        "ms_after": after,
    }


def versions():
    backend = keras.backend.backend()
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("keras-reg", "keras", backend))


class Runs:
    """The lines of a CSV file, one for each run that has ended."""

    def __init__(self, file):
        self.file = file
        self.rows = list(csv.DictReader(file.open())) if file.exists() else []

    def has(self, what):
        return any({name: str(value) for name, value in what.items()}.items() <= row.items() for row in self.rows)

    def add(self, row):
        row = {name: str(value) for name, value in row.items()}
        with self.file.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0] if self.rows else row, lineterminator="\n")
            if not self.rows:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)
        print(row, flush=True)

    def points(self, *names):
        """The rows of all seeds together, by what these columns have."""
        found = {}
        for row in self.rows:
            found.setdefault(tuple(row[name] for name in names), []).append(row)
        return found


class Study:
    """One run: the model that is left so far, and the pixels that it reads. Its methods are the steps of recipes.

    Class attributes:
        compressed: Whether files are deflated.
    """

    compressed = False

    def __init__(self, network, data):
        self.network = network
        self.model = NETWORKS[network]()
        self.flat = len(self.model.input_shape) == 2
        self.pixels = np.arange(784)
        self.data = data

    def read(self, data):
        return (data[0][:, self.pixels], data[1]) if self.flat else data

    def updates(self, epochs):
        return epochs * math.ceil(len(self.data[0]) / BATCH)

    def cut(self, model):
        """Leaves what `compact` does of it."""
        if not self.flat:
            self.model = compact(model)
            return
        self.model, (kept,) = compact(model, inputs=True)
        self.pixels = self.pixels[kept]

    def ramp(self, epochs, start, end):
        return keras.optimizers.schedules.PolynomialDecay(start, 2 * self.updates(epochs) // 3, end, power=3)

    def fit(self, model, rate, epochs, **options):
        return train(model, self.read(self.data), rate, epochs, **options)

    def train(self, epochs, rate, noise, added=0.0):
        self.fit(with_noise(self.model, noise, added), rate, epochs)


def run(kind, network, recipe, seed, data, cache):
    fit, *others = data
    keras.utils.set_random_seed(seed)
    study = kind(network, fit)
    whole = study.model
    for number, (step, setting) in enumerate(recipe):
        keras.utils.set_random_seed(seed + 1000 * number)
        name = hashlib.sha256(json.dumps([network, recipe[: number + 1], seed]).encode()).hexdigest()[:16]
        file = cache and cache / f"{name}.keras"
        if file and file.exists():
            study.model, study.pixels = keras.models.load_model(file, compile=False), np.load(file.with_suffix(".npy"))
            continue
        getattr(study, step)(**setting)
        if file:
            cache.mkdir(exist_ok=True)
            np.save(file.with_suffix(".npy"), study.pixels)
            study.model.save(file)
    return measured(study.model, [study.read(one) for one in others], whole, others[0][0], kind.compressed)


def main(doc, kind, recipes, published, size):
    """The program of a kind of study.

    Args:
        recipes: Lists of steps, by network and method.
        published: For each network what others have reached: name, what is left, MACs, non-zero weights, error and whether that was read in
            their sources.
        size: The column that errors are drawn against, and its name.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="FILE.npz", help="laid out like Keras's mnist.npz")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.csv", help="a line for each run that has ended")
    parser.add_argument("--rows", nargs="*", choices=recipes, default=list(recipes), help="with none nothing is run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cache", type=pathlib.Path, metavar="FOLDER", help="for what each step has left")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE.md", help="all lines of --out, beside what has been published")
    parser.add_argument("--figure", type=pathlib.Path, metavar="FILE.png", help="the same as a picture")
    args = parser.parse_args()
    runs = Runs(args.out)
    for seed in args.seeds:
        for row in args.rows:
            network, method = row.split("/")
            what = {"network": network, "method": method, "seed": seed, "recipe": json.dumps(recipes[row])}
            if runs.has(what):
                continue
            keras.backend.clear_session()
            start = time.process_time()
            found = run(kind, network, recipes[row], seed, images(args.data, flat=network == "lenet-300-100"), args.cache)
            runs.add({**what, **found, "cpu_seconds": round(time.process_time() - start), "versions": versions()})
    text = f"# {doc.splitlines()[0]}\n\n{CONVENTIONS}{table(runs, published)}"
    print(text)
    if args.table:
        args.table.write_text(text)
    if args.figure:
        figure(runs, published, *size, args.figure)


CONVENTIONS = """Numbers are means over seeds of the compacted model as it comes back from its file; errors in %, with their standard
deviation. "left" are the pixels, filters (as they come out of `Flatten`; of the last convolution 16 entries each) and neurons that layers
read. MACs count each weight that is left, zero or not, once for each place where it is used, without biases (dense: 266,200 and
2,293,000); non-zeros are weights without biases (266,200 and 430,500); bytes are those of the `.keras` file without the optimizer, of
single weights deflated; ms are those of 1,000 images, the dense network → what is left, each time in the same process. "validation" is
the error on the last 10,000 training images, by which all was chosen. Of others, "read" was read in a source, "remembered" was not. One
standard error at 1.6 % over 10,000 images is 0.125 points. Recipes, seeds and versions of each run are in the CSV file.
"""


def table(runs, published):
    columns = "method | left | MACs | non-zeros | bytes | ms | seeds | test error | range | validation | source"
    text = ""
    for network in NETWORKS:
        points = [(method, rows) for (own, method, _), rows in runs.points("network", "method", "recipe").items() if own == network]
        if not points:
            continue
        text += f"\n## {network}\n\n| {columns} |\n{'| --- ' * 11}|\n"
        for method, rows in sorted(points, key=lambda point: -np.mean(numbers(point[1], "non_zeros"))):
            lefts = np.mean([[int(width) for width in row["left"].split("-")] for row in rows], axis=0)
            sizes = [f"{np.mean(numbers(rows, name)):,.0f}" for name in ("macs", "non_zeros", "bytes")]
            times = " → ".join(f"{np.median(numbers(rows, name)):.2f}" for name in ("ms_before", "ms_after"))
            errors, validation = numbers(rows, "error"), np.mean(numbers(rows, "validation"))
            cells = [method, "-".join(f"{width:.0f}" for width in lefts), *sizes, times, str(len(rows)), spread(errors)]
            text += f"| {' | '.join(cells)} | {min(errors):.2f} to {max(errors):.2f} | {validation:.2f} | ours |\n"
        for name, left, macs, non_zeros, error_of, source in published[network]:
            sizes = ["" if size is None else f"{size:,}" for size in (macs, non_zeros)]
            text += f"| {name} | {left} | {' | '.join(sizes)} | | | | {error_of:.2f} | | | {source} |\n"
    return text


def figure(runs, published, column, label, file):
    """Means over seeds with their ranges, beside what has been published."""
    import matplotlib.pyplot as plt

    place = {"macs": 2, "non_zeros": 3}[column]
    drawn = [network for network in NETWORKS if any(row["network"] == network for row in runs.rows)]
    panels, every = plt.subplots(1, len(drawn), figsize=(7 * len(drawn), 4.5), squeeze=False, layout="constrained")
    for network, axes in zip(drawn, every[0], strict=True):
        for (own, method, _), rows in runs.points("network", "method", "recipe").items():
            if own == network:
                errors = numbers(rows, "error")
                mean = np.mean(errors)
                ends = [[mean - min(errors)], [max(errors) - mean]]
                axes.errorbar(np.mean(numbers(rows, column)), mean, ends, fmt="o", capsize=3, label=method)
        for row in published[network]:
            if row[place] is not None:
                axes.plot(row[place], row[4], "k^" if row[5] == "read" else "k*", markersize=5, fillstyle="none")
                style = {"fontsize": 7, "rotation": 40, "xytext": (3, 3), "textcoords": "offset points"}
                axes.annotate(f"{row[0]} ({row[5]})", (row[place], row[4]), **style)
        axes.set(xscale="log", xlabel=label, ylabel="test error in %", title=network)
        axes.margins(0.15, 0.2)
        axes.legend(fontsize="small")
    panels.savefig(file, dpi=150)


def numbers(rows, name):
    return [float(row[name]) for row in rows]


def spread(values):
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
