"""The example as a user runs it: what it prints, and what it refuses."""

import re

import pytest
from example_runs import check_refusal, printed_here


def test_from_one_task_to_the_other_and_out_of_the_package(monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "transfer_learning", "--epochs", "40", "--examples", "20")
    assert float(re.search(r"saved with a test accuracy of ([0-9.]+)", out)[1]) > 0.9
    assert re.search(r"hidden/kernel .* GroupLasso.* Dense.kernel_regularizer", out)
    plain, penalised = re.findall(r"^\| (?:none|Group.*) \| ([0-9.]+) \| (\d+)", out, re.MULTILINE)
    assert float(plain[0]) > 0.8
    assert float(penalised[0]) > 0.8
    assert int(penalised[1]) > 50
    assert float(re.search(r"outputs differ by at most (\S+)\.\n", out)[1]) < 1e-5


@pytest.mark.parametrize(("option", "value"), [("--strength", "0"), ("--examples", "0"), ("--seed", "-1")])
def test_arguments_that_cannot_be_used(monkeypatch, capsys, option, value):
    check_refusal(monkeypatch, capsys, "transfer_learning", option, value)
