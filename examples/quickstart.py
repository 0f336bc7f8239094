"""Trains one network plain and with several penalties, and shows what each penalty does to the weights.

The runs are plain, L1, L2, a relaxation of L0 and group lasso, and L1 and group lasso once more through their prox, which lands
on exact zeros: the same network, the same initial weights, the same order of the batches. The data are scikit-learn's handwritten
digits, which need no download, or any file laid out like Keras's `mnist.npz`.

At the end the model of group lasso through its prox is cut down: `compact` takes out the units that its zeros disconnect.

Each model is saved, loaded again by a new Python process and must predict there exactly what it predicted here. One table
compares the runs, one the model before and after it is cut, one picture shows the histograms of their weights, and TensorBoard
logs show how they came about.
Exit status: 0 if every check held, 1 if one failed, 2 if the arguments cannot be used.

    python examples/quickstart.py
    python examples/quickstart.py --data mnist.npz --output mnist_output
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

# On a network this small the threads of PyTorch would mostly wait for one another. Read once, at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import quiet  # noqa: F401  isort: skip
import keras
import numpy as np
from keras import layers

from keras_reg.callbacks import WeightHistogram
from keras_reg.models import compact, compaction_plan
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L0, L1, L2, GroupLasso
from keras_reg.visualization import weight_histograms

# A group is a row of a kernel: all weights that leave one pixel or one hidden unit.
RUNS = {
    "plain": None,
    "L1": L1(3e-4),
    "L1-prox": L1(3e-4, proximal=True),
    "L2": L2(1e-3),
    "L0-laplace": L0(1e-4, relaxation="laplace"),
    "GroupLasso": GroupLasso(3e-4, axis=-2),
    "GroupLasso-prox": GroupLasso(3e-4, axis=-2, proximal=True),
}
PAIRS = {"L1": "L1-prox", "GroupLasso": "GroupLasso-prox"}  # the same penalty, by its gradient and by its prox
CUT = "GroupLasso-prox"  # the run whose model is cut down
COMPACTED = f"{CUT}-compacted"
HIDDEN = (128, 64)
BATCH_SIZE = 64
SMALL = 1e-3
EQUAL = 1e-5  # how far outputs may be apart, in units of the largest: sums of fewer terms are rounded differently
KEYS = ("x_train", "y_train", "x_test", "y_test")
LAYOUT = "an .npz file with images x_train, x_test of shape (count, height, width) and whole-number labels y_train, y_test"

# All that the new process runs: it knows keras and keras_reg, and nothing of this script.
RELOAD = """
import sys
import keras
import numpy as np
import keras_reg

inputs, outputs, *paths = sys.argv[1:]
x, found = np.load(inputs), {}
for index, path in enumerate(paths):
    model = keras.models.load_model(path)
    found[f"predictions {index}"] = keras.ops.convert_to_numpy(model(x))
    found[f"penalty {index}"] = keras.ops.convert_to_numpy(sum(model.losses))
np.savez(outputs, **found)
"""


@dataclass
class Run:
    """What is known of one trained model."""

    path: Path
    kernels: list[np.ndarray]
    accuracy: float
    penalty: float
    predictions: np.ndarray
    difference: float = math.nan  # the largest between the predictions here and in the new process
    penalty_reloaded: float = math.nan

    def weights_up_to(self, size: float) -> int:
        return sum(int(np.sum(np.abs(kernel) <= size)) for kernel in self.kernels)

    def groups_up_to(self, size: float) -> int:
        """How many groups have no weight larger than `size`."""
        return sum(int(np.sum(np.max(np.abs(kernel), axis=1) <= size)) for kernel in self.kernels)


@dataclass
class Cut:
    """A model before and after it is cut down; in pairs, what is known of the two."""

    run: Run
    widths: dict[str, tuple[int, int]]
    planned: int
    parameters: tuple[int, int]
    kilobytes: tuple[float, float]
    milliseconds: dict[int, tuple[float, float]]  # by the number of images in a batch
    difference: float
    largest: float  # of the outputs


class Progress(keras.callbacks.Callback):
    """One line a run: rewritten at each epoch on a terminal, printed four times elsewhere."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def on_train_begin(self, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        done, epochs = epoch + 1, self.params["epochs"]
        line = f"  {self.name:<15} epoch {done:>3}/{epochs}  loss {logs['loss']:.4f}  validation accuracy {logs['val_accuracy']:.4f}"
        line += f"  {time.perf_counter() - self.started:5.1f} s"
        if sys.stdout.isatty():
            print(f"\r{line}", end="\n" if done == epochs else "", flush=True)
        elif done == epochs or done % math.ceil(epochs / 4) == 0:
            print(line, flush=True)


def load_digits() -> dict[str, np.ndarray]:
    """The 1,797 digits of 8x8 pixels that come with scikit-learn; a fifth is kept for validation."""
    from sklearn import datasets, model_selection

    x, y = datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = model_selection.train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of a file laid out like `mnist.npz`; a `ValueError` says in one line what is wrong with another."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("a file that is no zip archive, as every .npz is")
            file.seek(0)
            found = np.load(file)
            if missing := [key for key in KEYS if key not in found]:
                raise ValueError(f"no {', '.join(missing)} among its arrays {found.files}")
            data = {key: np.asarray(found[key]) for key in KEYS}
        check_layout(data)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise ValueError(f"--data {path}: expected {LAYOUT}. Received: {reason}") from None
    return data


def check_layout(data: dict[str, np.ndarray]) -> None:
    """Raise a `ValueError` that says what came where images and labels do not belong together."""
    for part in ("train", "test"):
        x, y = data[f"x_{part}"], data[f"y_{part}"]
        if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "buif" or not np.all(np.isfinite(x)):
            raise ValueError(f"x_{part} of shape {x.shape} and type {x.dtype}, which must be non-empty, numeric and finite")
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or np.min(y) < 0:
            raise ValueError(f"y_{part} of shape {y.shape} and type {y.dtype}, which must hold {len(x)} labels from 0 on, one an image")
    if data["x_train"].shape[1:] != data["x_test"].shape[1:]:
        raise ValueError(f"images of shape {data['x_train'].shape[1:]} in x_train and {data['x_test'].shape[1:]} in x_test")
    if np.max(data["y_test"]) > np.max(data["y_train"]):
        raise ValueError(f"labels up to {np.max(data['y_test'])} in y_test and only up to {np.max(data['y_train'])} in y_train")


def scaled(data: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Images as rows of pixels between -1 and 1, labels as integers, in the order of `KEYS`."""
    x_train, x_test = (data[key].reshape(len(data[key]), -1).astype("float32") for key in ("x_train", "x_test"))
    largest = np.max(np.abs(x_train)) or 1.0
    return x_train / largest, data["y_train"].astype("int32"), x_test / largest, data["y_test"].astype("int32")


def default_epochs(images: int) -> int:
    """40, and fewer on many images, so that all runs together take about a minute."""
    return min(40, max(3, 60_000 // images))


def build(pixels: int, classes: int, penalty, steps: int) -> keras.Model:
    """The network of every run; the penalty acts on its kernels and never on the biases."""
    model = keras.Sequential([keras.Input((pixels,))], name="network")
    for index, units in enumerate(HIDDEN):
        model.add(layers.Dense(units, activation="relu", kernel_regularizer=penalty, name=f"hidden_{index + 1}"))
    model.add(layers.Dense(classes, kernel_regularizer=penalty, name="logits"))
    # A penalty's gradient makes weights hop around zero, in proportion to the learning rate: it has to fall for them to settle.
    rate = keras.optimizers.schedules.CosineDecay(0.2, decay_steps=steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    if penalty is not None and penalty.proximal:
        optimizer = Proximal(optimizer)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model


def train(name: str, data: tuple[np.ndarray, ...], epochs: int, seed: int, output: Path) -> Run:
    """Train one model, save it and take down what the table and the picture need."""
    x_train, y_train, x_test, y_test = data
    logs = output / "logs" / name
    for stale in logs.rglob("events.out.tfevents.*"):
        stale.unlink()
    every = math.ceil(epochs / 10)
    # Beside each other: Keras's for the losses and accuracies, ours for the weights.
    boards = [keras.callbacks.TensorBoard(logs, write_graph=False), WeightHistogram(logs, freq=f"{every} epochs")]
    keras.utils.set_random_seed(seed)
    model = build(x_train.shape[1], int(np.max(y_train)) + 1, RUNS[name], epochs * math.ceil(len(x_train) / BATCH_SIZE))
    fit = {"batch_size": BATCH_SIZE, "epochs": epochs, "verbose": 0, "validation_data": (x_test, y_test)}
    history = model.fit(x_train, y_train, callbacks=[*boards, Progress(name)], **fit)
    path = output / f"{name}.keras"
    model.save(path)
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    predictions, penalty = keras.ops.convert_to_numpy(model(x_test)), float(keras.ops.convert_to_numpy(sum(model.losses)))
    return Run(path, kernels, history.history["val_accuracy"][-1], penalty, predictions)


def cut_down(run: Run, x: np.ndarray) -> Cut:
    """Compact a saved model, save what is left beside it and measure both."""
    model = keras.models.load_model(run.path)
    plan, small = compaction_plan(model), compact(model)
    path = run.path.with_name(f"{COMPACTED}.keras")
    small.save(path)
    before, after = (keras.ops.convert_to_numpy(one(x)) for one in (model, small))
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in small.layers]
    accuracy, penalty = run.accuracy, float(keras.ops.convert_to_numpy(sum(small.losses)))
    return Cut(
        run=Run(path, kernels, accuracy, penalty, after),
        widths={layer.name: layer.width for layer in plan.layers},
        planned=plan.total.parameters[1],
        parameters=(model.count_params(), small.count_params()),
        kilobytes=tuple(one.stat().st_size / 1000 for one in (run.path, path)),
        milliseconds={len(batch): latency((model, small), batch) for batch in (x[:1], x[:1000])},
        difference=float(np.max(np.abs(after - before))),
        largest=float(np.max(np.abs(before))),
    )


def latency(models: tuple[keras.Model, ...], x: np.ndarray, rounds: int = 50) -> tuple[float, ...]:
    """Median milliseconds of a prediction on one batch, the models taking turns."""
    times = {id(model): [] for model in models}
    for model in models:
        model.predict_on_batch(x)  # compiles
    for _ in range(rounds):
        for model in models:
            started = time.perf_counter()
            model.predict_on_batch(x)
            times[id(model)].append(1000 * (time.perf_counter() - started))
    return tuple(float(np.median(times[id(model)])) for model in models)


def reload_all(runs: dict[str, Run], x: np.ndarray) -> None:
    """Load all models in one new process and take down how far its predictions are from those made here."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npy"), Path(folder, "outputs.npz")
        np.save(inputs, x)
        command = [sys.executable, "-c", RELOAD, inputs, outputs, *(run.path for run in runs.values())]
        environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(f"The new process could not load the models:\n{done.stderr}", file=sys.stderr)
            return
        with np.load(outputs) as found:
            for index, run in enumerate(runs.values()):
                run.difference = float(np.max(np.abs(found[f"predictions {index}"] - run.predictions)))
                run.penalty_reloaded = float(found[f"penalty {index}"])


def table(runs: dict[str, Run]) -> str:
    """One line for each run."""
    kernels = runs["plain"].kernels
    total = sum(kernel.size for kernel in kernels)
    lines = [
        f"{total:,} weights in {sum(map(len, kernels)):,} groups (the weights that leave one pixel or hidden unit); biases not counted.",
        "",
        "run             val. accuracy  penalty  weights < 1e-3  exact zeros  groups < 1e-3  zero groups  file size  reload difference",
    ]
    for name, run in runs.items():
        small = run.weights_up_to(SMALL)
        trained = f"{name:<15} {run.accuracy:>12.4f}  {run.penalty:>7.4f}"
        weights = f"{small:>7} {small / total:>6.1%}  {run.weights_up_to(0):>11}"
        groups = f"{run.groups_up_to(SMALL):>13}  {run.groups_up_to(0):>11}"
        lines.append(f"{trained}  {weights}  {groups}  {run.path.stat().st_size / 1000:>6.0f} kB  {run.difference:>17.3g}")
    return "\n".join(lines)


def cut_table(cut: Cut) -> str:
    """The model before and after, line by line."""
    widths = ", ".join(f"{name} from {before} to {after} units" for name, (before, after) in cut.widths.items() if before != after)
    lines = [f"{CUT} cut down by `compact`: {widths or 'no unit is without effect'}.", "", f"{'':<28}{'before':>10}{'after':>10}"]
    lines.append(f"{'parameters':<28}{cut.parameters[0]:>10,}{cut.parameters[1]:>10,}")
    lines.append(f"{'file size, kB':<28}{cut.kilobytes[0]:>10.0f}{cut.kilobytes[1]:>10.0f}")
    for images, (before, after) in cut.milliseconds.items():
        label = f"latency, {images:,} image{'s' if images > 1 else ''}, ms"
        lines.append(f"{label:<28}{before:>10.3f}{after:>10.3f}")
    lines.append(f"{'largest output difference':<28}{'':>10}{cut.difference:>10.2g}   (outputs up to {cut.largest:.3g})")
    return "\n".join(lines)


def draw(runs: dict[str, Run], path: Path) -> None:
    """Each penalised run's histogram over the plain one's, on the same bins and axes."""
    figure = weight_histograms({name: run.kernels for name, run in runs.items()}, near_zero=SMALL)
    for panel, (name, run) in zip(figure.axes, list(runs.items())[1:], strict=True):
        exact = run.weights_up_to(0) / sum(kernel.size for kernel in run.kernels)
        panel.set_title(f"{name}, strength {RUNS[name].strength:g}: {exact:.1%} exactly 0", fontsize="medium")
    figure.suptitle("Weights of all kernels after training, against those of the plain run")
    figure.savefig(path, dpi=110)


def check(runs: dict[str, Run], cut: Cut, logs: Path) -> bool:
    """Print every check and the runs that fail it; true if all hold."""
    models = {**runs, COMPACTED: cut.run}
    checks = {
        "predictions are finite": lambda name, run: np.all(np.isfinite(run.predictions)),
        "a new process predicts exactly the same": lambda name, run: run.difference == 0,
        "a new process finds the same penalty": lambda name, run: run.penalty_reloaded == run.penalty,
    }
    failed = {text: [name for name, run in models.items() if not holds(name, run)] for text, holds in checks.items()}
    failed["TensorBoard logs are there"] = [name for name in runs if not any((logs / name).rglob("events.out.tfevents.*"))]
    failed["a prox leaves no fewer exact zeros than the gradient of the same penalty"] = [
        prox for gradient, prox in PAIRS.items() if runs[prox].weights_up_to(0) < runs[gradient].weights_up_to(0)
    ]
    failed["the compacted model is as small as planned"] = [COMPACTED] * (cut.parameters[1] != cut.planned)
    failed["it predicts what the whole model does"] = [COMPACTED] * (not cut.difference <= EQUAL * cut.largest)
    for text, names in failed.items():
        print(f"  FAILED  {text}: not for {', '.join(names)}" if names else f"  ok      {text}")
    return not any(failed.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help="a file laid out like Keras's mnist.npz; default: handwritten digits")
    parser.add_argument("--epochs", type=int, help="epochs of each run; default: 40, fewer (at least 3) on more than 1,500 images")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), metavar="DIR", help="for the results; default: demo_output")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the order of the batches; default: 0")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed must be from 0 to {2**32 - 1}. Received: {options.seed}")
    started = time.perf_counter()
    try:
        data = scaled(load_npz(options.data) if options.data else load_digits())
        options.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        problem = f"--output {options.output}: expected a folder. Received: {error.strerror}" if isinstance(error, OSError) else error
        print(f"quickstart.py: error: {problem}", file=sys.stderr)
        return 2

    images = len(data[0])
    epochs = options.epochs or default_epochs(images)
    reduced = "" if options.epochs or epochs == 40 else f", not 40, as there are {images:,} images (--epochs sets another number)"
    print(f"Data: {options.data or 'handwritten digits'}, {images:,} images to train and {len(data[2]):,} to validate")
    print(f"Network: dense, {'-'.join(map(str, (data[0].shape[1], *HIDDEN, np.max(data[1]) + 1)))}, on {keras.backend.backend()}")
    print(f"Runs of {epochs} epochs{reduced}:")
    for name, penalty in RUNS.items():
        print(f"  {name:<15} {penalty or 'no penalty'}")
    print("\nTraining")
    runs = {name: train(name, data, epochs, options.seed, options.output) for name in RUNS}
    print(f"\nCutting {CUT} down, and loading every model in a new process ...", flush=True)
    cut = cut_down(runs[CUT], data[2])
    reload_all({**runs, COMPACTED: cut.run}, data[2])
    print(f"\n{table(runs)}\n")
    print("By its gradient a penalty makes weights small in great number; the steps hop over zero and hardly ever land on it.")
    print("Through its prox (the runs named -prox, trained with Proximal) the same penalty lands on zeros that are exactly 0.\n")
    print(f"{cut_table(cut)}\n\nChecks")
    held = check(runs, cut, options.output / "logs")
    draw(runs, options.output / "weights.png")
    where = options.output.resolve()
    print(f"\nModels       {where}: {', '.join(run.path.name for run in (*runs.values(), cut.run))}")
    print(f"Histograms   {where / 'weights.png'}")
    print(f"TensorBoard  tensorboard --logdir {where / 'logs'}")
    print(f"{time.perf_counter() - started:.0f} s in all. {'Every check held.' if held else 'A check FAILED.'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
