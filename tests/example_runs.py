"""The examples as a user runs them, and what they say of arguments that they cannot use."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def printed(name, *arguments):
    """By a new process."""
    done = subprocess.run([sys.executable, FOLDER / f"{name}.py", *arguments], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def printed_here(monkeypatch, capsys, name, *arguments):
    """In this process: another one would take longer to load Keras than most examples take."""
    assert ended_with(monkeypatch, name, *arguments) in (0, None)
    return capsys.readouterr().out


def check_refusal(monkeypatch, capsys, name, option, value):
    assert ended_with(monkeypatch, name, option, value) == 2
    said = capsys.readouterr().err
    assert option in said
    assert f"Received: {value}" in said


def ended_with(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return ended.value.code
