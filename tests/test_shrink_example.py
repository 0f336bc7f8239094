"""The example as a user runs it: what it prints, and what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "shrink.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=os.environ)


def test_a_fifth_of_the_multiplications():
    done = run("--epochs", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = re.search(r"test accuracy ([0-9.]+), of the smaller model ([0-9.]+)", done.stdout).groups()
    assert float(after) > float(before) - 0.03
    assert float(after) > 0.8
    assert re.search(r"MACs +45,600 +\d,\d{3} +(19|20)%", done.stdout)


@pytest.mark.parametrize("arguments", [("--macs", "0"), ("--drop", "-1"), ("--epochs", "0"), ("--data", "nowhere.npz")])
def test_arguments_that_cannot_be_used(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert f"Received: {arguments[1]}" in done.stderr
