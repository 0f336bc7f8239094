"""The example as a user runs it: what it prints, and what it refuses."""

import re

import pytest
from example_runs import check_refusal, printed_here


def test_a_fifth_of_the_multiplications(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "shrink", "--epochs", "6")
    before, after = re.search(r"test accuracy ([0-9.]+), of the smaller model ([0-9.]+)", out).groups()
    assert float(after) > float(before) - 0.03
    assert float(after) > 0.8
    assert re.search(r"MACs +45,600 +\d,\d{3} +(19|20)%", out)


@pytest.mark.parametrize(("option", "value"), [("--macs", "0"), ("--drop", "-1"), ("--epochs", "0"), ("--data", "nowhere.npz")])
def test_arguments_that_cannot_be_used(monkeypatch, capsys, option, value):
    check_refusal(monkeypatch, capsys, "shrink", option, value)
