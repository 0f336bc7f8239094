"""The example as a user runs it."""

import re

from example_runs import check_refusal, printed_here


def test_strengths_too_low_too_high_and_chosen(tmp_path, monkeypatch, capsys):
    out = printed_here(monkeypatch, capsys, "polynomial", "--picture", str(tmp_path / "polynomial.png"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if re.match(r"\| (none|L)", line)]
    error = {row[0]: float(row[2]) for row in rows}
    zeros = {row[0]: int(row[3]) for row in rows}
    for name in ("L1", "L2"):
        assert error[f"{name}, chosen"] < 0.7 * min(error["none"], error[f"{name}, too high"])
    assert zeros["none"] == zeros["L2, chosen"] == 0
    assert 3 <= zeros["L1, chosen"] < 12 == zeros["L1, too high"]
    assert "Gaussian prior" in out
    assert (tmp_path / "polynomial.png").stat().st_size > 10_000


def test_a_degree_that_cannot_be_used(monkeypatch, capsys):
    check_refusal(monkeypatch, capsys, "polynomial", "--degree", "2")
