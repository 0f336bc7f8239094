"""The example as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "polynomial.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=os.environ)


def test_strengths_too_low_too_high_and_chosen(tmp_path):
    done = run("--picture", str(tmp_path / "polynomial.png"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if re.match(r"\| (none|L)", line)]
    error = {row[0]: float(row[2]) for row in rows}
    zeros = {row[0]: int(row[3]) for row in rows}
    for name in ("L1", "L2"):
        assert error[f"{name}, chosen"] < 0.7 * min(error["none"], error[f"{name}, too high"])
    assert zeros["none"] == zeros["L2, chosen"] == 0
    assert 3 <= zeros["L1, chosen"] < 12 == zeros["L1, too high"]
    assert "Gaussian prior" in done.stdout
    assert (tmp_path / "polynomial.png").stat().st_size > 10_000


def test_a_degree_that_cannot_be_used():
    done = run("--degree", "2")
    assert done.returncode == 2
    assert "--degree" in done.stderr
    assert "Received: 2" in done.stderr
