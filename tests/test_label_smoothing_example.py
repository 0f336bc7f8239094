"""The example as a user runs it: what it prints and draws, and what it refuses."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from sklearn.metrics import roc_auc_score

SCRIPT = Path(__file__).parents[1] / "examples" / "label_smoothing.py"


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("label_smoothing_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["label_smoothing_example"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))
    del sys.modules["label_smoothing_example"]


def test_prints_a_row_for_each_run_and_draws_them(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert example.main(["--epochs", "12", "--output", "picture.png"]) == 0
    printed = capsys.readouterr().out
    assert "899 images to train and 898 to test" in printed
    rows = re.findall(r"^\| (clean|20% wrong) \| (0|0\.1) \| (.*) \|$", printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [("clean", "0"), ("clean", "0.1"), ("20% wrong", "0"), ("20% wrong", "0.1")]
    values = np.array([[float(value) for value in row[2].split(" | ")] for row in rows])
    assert np.all((values >= 0) & (values <= 1))
    assert np.all(values[:, 0] > 0.7)  # accuracy
    assert np.all(values[::2, 1] > values[1::2, 1])  # confidence, which smoothing lowers
    np.testing.assert_array_equal(values[:2, 2], values[:2, 3])  # clean labels are the true ones
    assert image.imread(tmp_path / "picture.png").shape[0] > 300


def test_facts_of_a_run(example):
    rng = np.random.default_rng(0)
    probabilities, truth = rng.dirichlet(np.ones(4), 200).round(2).astype("float32"), rng.integers(0, 4, 200)  # rounded: ties
    run = example.Run(probabilities, truth, truth)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == truth
    np.testing.assert_allclose(run.ranking(), roc_auc_score(right, confidence), rtol=1e-6)
    order = np.argsort(-confidence, kind="stable")
    assert run.error_at(0.8) == pytest.approx(1 - right[order[:160]].mean())
    assert run.error_at(1.0) == pytest.approx(1 - right.mean())


def test_mislabelled_labels_are_others_in_the_share_asked_for(example):
    y = np.repeat(np.arange(5), 2000)
    noisy = example.mislabelled(y, 5, 0.3, np.random.default_rng(0))
    assert abs(np.mean(noisy != y) - 0.3) < 0.02
    assert set(noisy) == set(range(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--smoothing", "1"], "--smoothing must be more than 0 and less than 1. Received: 1.0"),
        (["--noise", "0"], "--noise must be more than 0"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seed", "-1"], "--seed must be from 0"),
    ],
)
def test_options_are_refused(example, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        example.main(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_used_are_refused(example, tmp_path, capsys):
    assert example.main(["--data", str(tmp_path / "absent.npz")]) == 2
    assert re.search(r"label_smoothing.py: error: --data \S+absent.npz: expected an .npz file", capsys.readouterr().err)
    assert example.main(["--output", str(tmp_path)]) == 2
    assert re.search(r"--output \S+: expected a file. Received: Is a directory", capsys.readouterr().err)
