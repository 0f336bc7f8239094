"""The demo as a user runs it: what it writes and prints, what it refuses, and that a failed check shows in its exit status."""

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from matplotlib import colors, image

from keras_reg.visualization.style import COLOURS

SCRIPT = Path(__file__).parents[1] / "examples" / "quickstart.py"
sys.path.append(str(SCRIPT.parent))  # as Python does for a script
NAMES = ["plain", "L1", "L1-prox", "L2", "L0-laplace", "GroupLasso", "GroupLasso-prox"]
COMPACTED = "GroupLasso-prox-compacted"
EPOCHS = 3
ROW = re.compile(r"^(\S+) +([\d.]+) +([\d.]+) +(\d+) +([\d.]+)% +(\d+) +(\d+) +(\d+) +(\d+) kB +(\S+)$", re.MULTILINE)
COLUMNS = ("accuracy", "penalty", "small", "small_percent", "zeros", "small_groups", "zero_groups", "kilobytes", "difference")


def rows_of(printed):
    return {name: dict(zip(COLUMNS, map(float, values), strict=True)) for name, *values in ROW.findall(printed)}


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["quickstart"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["quickstart"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the script on the digits: what it printed, and its output folder."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, SCRIPT, "--epochs", str(EPOCHS), "--output", "results"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder / "results"


def test_demo_says_where_everything_is(demo):
    printed, output = demo
    assert "1,437 images to train and 360 to validate" in printed
    assert "Every check held." in printed
    assert "FAILED" not in printed
    for place in (output, output / "weights.png", output / "logs"):
        assert place.exists()
        assert str(place.resolve()) in printed
    assert sorted(path.name for path in output.glob("*.keras")) == sorted(f"{name}.keras" for name in (*NAMES, COMPACTED))


def test_progress_is_plain_lines_where_there_is_no_terminal(demo):
    printed, _ = demo
    assert "\r" not in printed
    for name in NAMES:
        assert len(re.findall(rf"^  {name} +epoch +\d+/{EPOCHS}  loss ", printed, re.MULTILINE)) == EPOCHS


def test_progress_is_one_line_on_a_terminal(quickstart, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = quickstart.Progress("L1")
    progress.set_params({"epochs": 2})
    progress.on_train_begin()
    for epoch in range(2):
        progress.on_epoch_end(epoch, {"loss": 0.5, "val_accuracy": 0.75})
    first, second = capsys.readouterr().out.removeprefix("\r").split("\r")
    assert re.fullmatch(r"  L1 +epoch +1/2  loss 0.5000  validation accuracy 0.7500 +[\d.]+ s", first)
    assert re.fullmatch(r"  L1 +epoch +2/2  .* s\n", second)
    assert len(first) < 80


def test_table_agrees_with_the_saved_models(demo, quickstart):
    printed, output = demo
    rows = rows_of(printed)
    assert list(rows) == NAMES
    assert rows["L1-prox"]["zeros"] > rows["L1"]["zeros"] + 500
    _, _, x, y = quickstart.scaled(quickstart.load_digits())
    for name, row in rows.items():
        model = keras.models.load_model(output / f"{name}.keras")
        kernels = [np.abs(keras.ops.convert_to_numpy(layer.kernel)) for layer in model.layers]
        weights = np.concatenate([kernel.ravel() for kernel in kernels])
        groups = np.concatenate([np.max(kernel, axis=1) for kernel in kernels])
        assert (row["small"], row["zeros"]) == (np.sum(weights < 1e-3), np.sum(weights == 0))
        assert (row["small_groups"], row["zero_groups"]) == (np.sum(groups < 1e-3), np.sum(groups == 0))
        assert row["small_percent"] == pytest.approx(100 * row["small"] / weights.size, abs=0.051)
        assert row["kilobytes"] == pytest.approx((output / f"{name}.keras").stat().st_size / 1000, abs=0.51)
        assert row["penalty"] == pytest.approx(float(keras.ops.convert_to_numpy(sum(model.losses))), abs=5.1e-5)
        assert (row["penalty"] == 0) == (name == "plain")
        right = np.mean(np.argmax(model.predict(x, verbose=0), axis=1) == y)
        assert row["accuracy"] == pytest.approx(right, abs=5.1e-5)
        assert row["accuracy"] > 0.5
        assert row["difference"] == 0


def without_some_units(source, folder):
    """A model of the demo in which 28 of the first and 14 of the second hidden layer's units leave no trace."""
    model = keras.models.load_model(source)
    for index, dead in ((1, slice(0, 28)), (2, slice(50, 64))):
        kernel = np.array(keras.ops.convert_to_numpy(model.layers[index].kernel))
        kernel[dead] = 0
        model.layers[index].kernel.assign(kernel)
    model.save(folder / source.name)
    return folder / source.name


def stand_in(quickstart):
    """The models of the demo in place of training."""

    def trained(name, data, epochs, seed, output):
        path = output / f"{name}.keras"
        model = keras.models.load_model(path)
        kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]
        predictions = keras.ops.convert_to_numpy(model(data[2]))
        penalty = float(keras.ops.convert_to_numpy(sum(model.losses)))
        return quickstart.Run(path, kernels, 1.0, penalty, predictions)

    return trained


def test_table_of_the_compacted_model_agrees_with_the_saved_ones(demo, quickstart, tmp_path):
    path = without_some_units(demo[1] / "GroupLasso-prox.keras", tmp_path)
    data = quickstart.scaled(quickstart.load_digits())
    cut = quickstart.cut_down(stand_in(quickstart)("GroupLasso-prox", data, EPOCHS, 0, tmp_path), data[2])
    printed = quickstart.cut_table(cut)
    assert "hidden_1 from 128 to 100 units, hidden_2 from 64 to 50 units." in printed
    assert cut.run.path == tmp_path / f"{COMPACTED}.keras"
    before, after = keras.models.load_model(path), keras.models.load_model(cut.run.path)
    assert [layer.units for layer in after.layers] == [100, 50, 10]
    counts = [64 * a + a + a * b + b + b * 10 + 10 for a, b in ((128, 64), (100, 50))]
    assert re.search(r"^parameters +{:,} +{:,}$".format(*counts), printed, re.MULTILINE)
    sizes = [one.stat().st_size / 1000 for one in (path, cut.run.path)]
    assert re.search(r"^file size, kB +{:.0f} +{:.0f}$".format(*sizes), printed, re.MULTILINE)
    assert sizes[1] < 0.8 * sizes[0]
    outputs = [keras.ops.convert_to_numpy(model(data[2])) for model in (before, after)]
    largest = float(np.max(np.abs(outputs[0])))
    assert np.max(np.abs(outputs[1] - outputs[0])) == pytest.approx(cut.difference, abs=1e-6 * largest)
    assert cut.difference < 1e-5 * largest
    assert re.search(rf"^largest output difference +{re.escape(f'{cut.difference:.2g}')} +\(outputs up to {largest:.3g}\)$", printed, re.M)
    times = re.findall(r"^latency, (\d+) images?, ms +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert [images for images, *_ in times] == ["1", "360"]
    assert all(float(milliseconds) > 0 for _, *pair in times for milliseconds in pair)


def test_a_model_that_is_not_cut_down_right_fails_the_checks(demo, quickstart, tmp_path, monkeypatch, capsys):
    def compact(model):
        other = keras.models.clone_model(model)
        other.set_weights([weight + 0.001 for weight in model.get_weights()])
        return other

    monkeypatch.setattr(quickstart, "compact", compact)
    data = quickstart.scaled(quickstart.load_digits())
    runs = {name: stand_in(quickstart)(name, data, EPOCHS, 0, demo[1]) for name in NAMES}
    without_some_units(demo[1] / "GroupLasso-prox.keras", tmp_path)
    cut = quickstart.cut_down(stand_in(quickstart)("GroupLasso-prox", data, EPOCHS, 0, tmp_path), data[2])
    for run in (*runs.values(), cut.run):
        run.difference, run.penalty_reloaded = 0.0, run.penalty  # as if all had been loaded well
    assert not quickstart.check(runs, cut, demo[1] / "logs")
    failed = ["the compacted model is as small as planned", "it predicts what the whole model does"]
    assert re.findall(r"FAILED  (.*): not for (.*)", capsys.readouterr().out) == [(text, COMPACTED) for text in failed]


def test_picture_shows_every_run(demo):
    pixels = image.imread(demo[1] / "weights.png")[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 500
    for name, colour in zip(NAMES[1:], COLOURS[1:], strict=True):
        drawn = np.all(np.abs(pixels - colors.to_rgb(colour)) < 0.02, axis=-1)
        assert np.sum(drawn) > 100, name


def test_counts_of_small_and_zero_weights_and_rows(quickstart):
    kernels = [np.array([[0.0, 0.0], [0.0005, -0.0005], [0.0, -3.0]]), np.array([[0.0, 1e-3, 0.0]])]
    run = quickstart.Run(Path("any"), kernels, accuracy=1.0, penalty=0.0, predictions=np.zeros(1))
    assert (run.weights_up_to(0), run.weights_up_to(1e-3)) == (5, 8)
    assert (run.groups_up_to(0), run.groups_up_to(1e-3)) == (1, 3)


@pytest.mark.parametrize("name", NAMES)
def test_tensorboard_logs_are_readable(demo, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    printed, output = demo
    events = {part: EventAccumulator(str(output / "logs" / name / part)).Reload() for part in ("train", "validation", "weights")}
    histograms = [tag for tag in events["weights"].Tags()["tensors"] if tag.endswith("/kernel")]
    assert len(histograms) == 3
    assert all(len(events["weights"].Tensors(tag)) == EPOCHS + 1 for tag in histograms)  # the weights at the start too
    logged = tensor_util.make_ndarray(events["validation"].Tensors("epoch_accuracy")[-1].tensor_proto)
    assert float(logged) == pytest.approx(rows_of(printed)[name]["accuracy"], abs=5.1e-5)


def small_data(**changes):
    """A file's arrays: 8x6 pixels, three classes that differ in which third is bright."""
    rng = np.random.default_rng(0)
    data = {}
    for part, count in (("train", 90), ("test", 30)):
        y = np.arange(count, dtype="uint8") % 3
        x = rng.integers(0, 40, (count, 8, 6)) + 200 * (np.arange(6) // 2 == y[:, None, None])
        data |= {f"x_{part}": x.astype("uint8"), f"y_{part}": y}
    return {key: value for key, value in (data | changes).items() if value is not None}


def test_data_of_ones_own(quickstart, tmp_path, monkeypatch, capsys):
    starts = []

    def build(*arguments, **keywords):
        model = quickstart_build(*arguments, **keywords)
        starts.append(model.get_weights())
        return model

    quickstart_build = quickstart.build
    monkeypatch.setattr(quickstart, "build", build)
    np.savez(tmp_path / "own.npz", **small_data())
    logs = tmp_path / "new" / "results" / "logs" / "plain" / "train"
    logs.mkdir(parents=True)
    for name in ("events.out.tfevents.1.of.an.earlier.run", "notes.txt"):
        (logs / name).touch()
    assert quickstart.main(["--data", str(tmp_path / "own.npz"), "--epochs", "1", "--output", str(tmp_path / "new" / "results")]) == 0
    printed = capsys.readouterr().out
    assert "90 images to train and 30 to validate" in printed
    assert "48-128-64-3" in printed
    assert list(rows_of(printed)) == NAMES
    assert len(starts) == len(NAMES)
    for weights in starts[1:]:
        for first, other in zip(starts[0], weights, strict=True):
            np.testing.assert_array_equal(first, other)
    assert (logs / "notes.txt").exists()
    assert not list(logs.glob("*earlier*"))


def test_fewer_epochs_on_many_images(quickstart):
    assert [quickstart.default_epochs(images) for images in (1, 1437, 6000, 60_000, 10**7)] == [40, 40, 10, 3, 3]


BLANK = np.zeros((90, 8, 6), "uint8")
BAD = {
    "no labels": ({"y_train": None, "y_test": None}, r"no y_train, y_test among its arrays \['x_train', 'x_test'\]"),
    "flat": ({"x_train": BLANK[:, 0, 0]}, r"x_train of shape \(90,\)"),
    "text": ({"x_train": BLANK.astype(str)}, "x_train .* type <U"),
    "objects": ({"x_train": np.full(90, None)}, "Object arrays"),
    "not finite": ({"x_test": np.full((30, 8, 6), np.nan)}, "x_test .* finite"),
    "no images": ({"x_train": BLANK[:0], "y_train": np.zeros(0, int)}, r"x_train of shape \(0, 8, 6\)"),
    "too few labels": ({"y_train": np.zeros(89, int)}, r"y_train of shape \(89,\) .* 90 labels"),
    "one-hot labels": ({"y_test": np.eye(30, 3, dtype=int)}, r"y_test of shape \(30, 3\)"),
    "fractions": ({"y_test": np.zeros(30)}, "y_test .* type float64"),
    "negative": ({"y_train": np.full(90, -1)}, "y_train .* from 0 on"),
    "other images": ({"x_test": np.zeros((30, 7, 6))}, r"\(8, 6\) in x_train and \(7, 6\) in x_test"),
    "unknown class": ({"y_test": np.full(30, 3)}, "up to 3 in y_test and only up to 2"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=BAD)
def test_data_that_does_not_fit_is_refused_before_training(quickstart, tmp_path, capsys, changes, reason):
    np.savez(tmp_path / "bad.npz", **small_data(**changes))
    assert quickstart.main(["--data", str(tmp_path / "bad.npz"), "--output", str(tmp_path / "results")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(rf"^quickstart.py: error: --data \S+bad.npz: expected .*x_train.*\. Received: .*{reason}.*\n\Z", printed.err)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", [b"", b"not an archive", "cut"], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_archive_is_refused(quickstart, tmp_path, capsys, content):
    path = tmp_path / "bad.npz"
    np.savez(path, **small_data())
    path.write_bytes(path.read_bytes()[:-500] if content == "cut" else content)
    assert quickstart.main(["--data", str(path), "--output", str(tmp_path / "results")]) == 2
    assert re.search(r"bad.npz: expected .*\. Received: a file that is no zip archive.*\n\Z", capsys.readouterr().err)


def test_status_2_for_a_missing_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--data", "absent.npz"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    assert re.fullmatch(r".*--data absent.npz: expected an .npz file .* Received: No such file or directory\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused(quickstart, tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert quickstart.main(["--output", str(tmp_path / "taken")]) == 2
    assert re.search(r"--output \S+taken: expected a folder", capsys.readouterr().err)


@pytest.mark.parametrize(("option", "value"), [("--epochs", "0"), ("--epochs", "many"), ("--seed", "-1")])
def test_numbers_out_of_range_are_refused(quickstart, capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        quickstart.main([option, value])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err


def change_a_weight(path):
    model = keras.models.load_model(path)
    kernel = model.layers[-1].kernel
    kernel.assign(keras.ops.multiply(kernel, 1.0001))
    model.save(path)


def forget_the_penalty(path):
    model = keras.models.load_model(path)
    for layer in model.layers:
        layer.kernel_regularizer = None
    model.save(path)


def cut_the_file(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (
            {"L1": change_a_weight, "GroupLasso": forget_the_penalty},
            {"predicts exactly the same": "L1", "finds the same penalty": "L1, GroupLasso"},
        ),
        ({"L2": cut_the_file}, dict.fromkeys(["predicts exactly the same", "finds the same penalty"], ", ".join([*NAMES, COMPACTED]))),
    ],
    ids=["another model", "no model"],
)
def test_status_1_where_a_saved_model_is_not_the_trained_one(demo, quickstart, tmp_path, monkeypatch, capsys, damage, failed):
    """Files damaged after training have to be found out in the new process."""
    output = shutil.copytree(demo[1], tmp_path / "results")

    def trained(name, *arguments):
        run = stand_in(quickstart)(name, *arguments)
        if name in damage:
            damage[name](run.path)
        return run

    monkeypatch.setattr(quickstart, "train", trained)
    assert quickstart.main(["--output", str(output)]) == 1
    printed = capsys.readouterr()
    assert printed.out.rstrip().endswith("A check FAILED.")
    assert dict(re.findall(r"FAILED  a new process (.*): not for (.*)", printed.out)) == failed
    assert ("could not load the models" in printed.err) == ("L2" in damage)
