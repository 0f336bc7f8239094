"""The example as a user runs it: what it prints, and what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "transfer_learning.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=os.environ)


def test_from_one_task_to_the_other_and_out_of_the_package():
    done = run("--epochs", "40", "--examples", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(re.search(r"saved with a test accuracy of ([0-9.]+)", done.stdout)[1]) > 0.9
    assert re.search(r"hidden/kernel .* GroupLasso.* Dense.kernel_regularizer", done.stdout)
    plain, penalised = re.findall(r"^\| (?:none|Group.*) \| ([0-9.]+) \| (\d+)", done.stdout, re.MULTILINE)
    assert float(plain[0]) > 0.8
    assert float(penalised[0]) > 0.8
    assert int(penalised[1]) > 50
    assert float(re.search(r"outputs differ by at most (\S+)\.\n", done.stdout)[1]) < 1e-5


@pytest.mark.parametrize("arguments", [("--strength", "0"), ("--examples", "0"), ("--seed", "-1")])
def test_arguments_that_cannot_be_used(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert f"{arguments[0]}" in done.stderr
    assert f"Received: {arguments[1]}" in done.stderr
