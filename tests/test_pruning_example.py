"""The example as a user runs it: what it prints, and what it refuses."""

import re

import keras
import pytest
from example_runs import check_refusal, printed_here


def test_zeros_make_compressed_files_small(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "pruning")
    dense, pruned = re.findall(r"test accuracy ([0-9.]+)", out)
    assert float(pruned) > float(dense) - 0.03 > 0.87
    assert float(re.search(r"([0-9.]+)% of the kernels' weights are zero", out)[1]) >= 80
    sizes = {name: (int(a), int(b)) for name, a, b in re.findall(r"^\| (\S.*?) \| (\d+) kB \| (\d+) kB \|$", out, re.MULTILINE)}
    assert sizes[".keras"][0] == pytest.approx(sizes[".keras"][1], abs=2)
    assert sizes[".keras, compressed"][1] < 0.45 * sizes[".keras, compressed"][0]
    if keras.backend.backend() == "tensorflow":
        assert sizes["LiteRT, sparse"][1] < 0.45 * sizes["LiteRT"][1]


@pytest.mark.parametrize(("option", "value"), [("--sparsity", "1"), ("--epochs", "0")])
def test_arguments_that_cannot_be_used(monkeypatch, capsys, option, value):
    check_refusal(monkeypatch, capsys, "pruning", option, value)
