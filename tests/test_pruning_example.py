"""The example as a user runs it: what it prints, and what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "pruning.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=os.environ)


def test_zeros_make_compressed_files_small():
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    dense, pruned = re.findall(r"test accuracy ([0-9.]+)", done.stdout)
    assert float(pruned) > float(dense) - 0.03 > 0.87
    assert float(re.search(r"([0-9.]+)% of the kernels' weights are zero", done.stdout)[1]) >= 80
    sizes = {name: (int(a), int(b)) for name, a, b in re.findall(r"^\| (\S.*?) \| (\d+) kB \| (\d+) kB \|$", done.stdout, re.MULTILINE)}
    assert sizes[".keras"][0] == pytest.approx(sizes[".keras"][1], abs=2)
    assert sizes[".keras, compressed"][1] < 0.45 * sizes[".keras, compressed"][0]
    if keras.backend.backend() == "tensorflow":
        assert sizes["LiteRT, sparse"][1] < 0.45 * sizes["LiteRT"][1]


@pytest.mark.parametrize("arguments", [("--sparsity", "1"), ("--epochs", "0")])
def test_arguments_that_cannot_be_used(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert f"Received: {arguments[1]}" in done.stderr
