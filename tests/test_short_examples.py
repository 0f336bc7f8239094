"""The short examples as a user runs them."""

import re

import keras
import pytest
from example_runs import check_refusal, printed, printed_here

ON_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="says nothing of backends: one is enough")


def test_a_loop_by_hand_ends_where_fit_does(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "custom_loop")
    assert "loss" in out
    assert out.count("45 of 50 weights are 0") == 2


@ON_TENSORFLOW
def test_a_penalty_of_ones_own_and_a_mistaken_one(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "custom_penalty")
    assert "Huber keeps the contract." in out
    assert "breaks the law" in out
    assert "Huber(strength=0.1" in out


@ON_TENSORFLOW
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # of Keras's export to ONNX
def test_exports_give_the_same_outputs(tmp_path, monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "export", "--folder", str(tmp_path))
    assert all(f"{name}: largest difference" in out for name in ("SavedModel", "LiteRT", "ONNX"))
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", "model.tflite", "model.onnx"}


@ON_TENSORFLOW
def test_columns_of_a_wide_table_that_never_help_are_dropped(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "wide_table", "--values", "30", "--rows", "10000")
    left = {name: int(weights.replace(",", "")) for name, weights in re.findall(r"^\| (\S.*?) \| 0\.\d+ \| ([\d,]+) ", out, re.M)}
    assert left["no penalty"] == left["L1 of Keras"] > 1500
    assert left["L1, Proximal"] < 0.5 * left["no penalty"]


@ON_TENSORFLOW
def test_an_lstm_with_fewer_units(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "lstm", "--epochs", "4", "--strength", "0.01", "--units", "16")
    units = [int(units) for units in re.findall(r"^\| [ag].*? \| (\d+) ", out, re.M)]
    assert units[0] == 16 > units[1] > 0


@ON_TENSORFLOW
def test_two_devices_give_the_weights_of_one():
    assert re.search(r"2 devices: zeros in the kernels \[[1-9]\d*, [1-9]", printed("distributed"))


@ON_TENSORFLOW
@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("custom_loop", "--steps", "0"),
        ("custom_penalty", "--strength", "-1"),
        ("lstm", "--units", "1"),
        ("wide_table", "--values", "2"),
    ],
)
def test_arguments_that_cannot_be_used(monkeypatch, capsys, name, option, value):
    check_refusal(monkeypatch, capsys, name, option, value)
