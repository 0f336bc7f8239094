"""Every notebook runs from scratch in a fresh kernel, and shows what it showed when it was committed."""

import json
import os
import re
import sys
from pathlib import Path

import keras
import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

import keras_reg

# On every backend they run, and what they assert holds; the numbers that they show are those of TensorFlow.
SHOWN = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the outputs kept are those of TensorFlow")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SECONDS_PER_CELL = 300
LARGEST_FILE = 600_000  # bytes
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|var|usr|opt|mnt|private)/|[A-Z]:\\\\|ipykernel_\d")
WHO_RUNS = """
import json, sys, keras, keras_reg
print(json.dumps([sys.executable, keras.backend.backend(), keras_reg.__file__]))
"""


class RunningInterpreter(KernelSpecManager):
    """Whatever kernels are installed beside it, a notebook gets the interpreter that runs the tests."""

    def get_kernel_spec(self, kernel_name):
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], display_name=kernel_name, language="python"
        )


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def committed(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def executed(committed, tmp_path_factory):
    """A copy without outputs, run to the end; a cell that raises fails here, with its traceback."""
    fresh = nbformat.from_dict(json.loads(json.dumps(committed)))
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    fresh.cells.append(nbformat.v4.new_code_cell(WHO_RUNS))
    folder = str(tmp_path_factory.mktemp("notebook"))
    client = NotebookClient(
        fresh,
        timeout=SECONDS_PER_CELL,
        coalesce_streams=True,
        km=AsyncKernelManager(kernel_spec_manager=RunningInterpreter()),
        resources={"metadata": {"path": folder}},
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    # On arrays this small, threads that wait for each other on a busy machine cost far more than they save.
    environment |= {"KERAS_BACKEND": keras.backend.backend(), "OMP_NUM_THREADS": "1", "IPYTHONDIR": folder}
    client.execute(env=environment, cleanup_kc=True)
    who = json.loads(text(fresh.cells.pop()))
    assert who == [sys.executable, keras.backend.backend(), keras_reg.__file__]
    return fresh


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def kinds(cell):
    """What a cell shows, noise on stderr aside: a backend may log as it starts."""
    shown = [output for output in cell.outputs if not (output.output_type == "stream" and output.name == "stderr")]
    return [(output.output_type, sorted(output.get("data", {}))) for output in shown]


def agree(printed, expected):
    """Equal to 3 % or one and a half units of the last place printed: backends and machines round differently."""
    digits, _, exponent = expected.partition("e")
    last_place = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(float(printed) - float(expected)) <= max(0.03 * float(expected), 1.5 * last_place)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_runs_from_scratch_and_shows_the_same_kinds_of_output(committed, executed):
    for old, new in zip(code_cells(committed), code_cells(executed), strict=True):
        assert kinds(new) == kinds(old), f"The outputs kept are not those of this cell:\n{old.source}"


@SHOWN
def test_the_figures_printed_still_hold(committed, executed):
    compared = 0
    for old, new in zip(code_cells(committed), code_cells(executed), strict=True):
        assert NUMBER.sub("#", text(new)) == NUMBER.sub("#", text(old)), old.source
        for printed, expected in zip(NUMBER.findall(text(new)), NUMBER.findall(text(old)), strict=True):
            assert agree(printed, expected), f"printed {printed}, kept {expected}, in:\n{text(new)}"
            compared += 1
    assert compared > 0


def test_prints_no_warning(executed):
    for cell in code_cells(executed):
        assert "warning" not in text(cell).lower()
        assert "Warning: " not in str(cell.outputs), cell.outputs  # of Python, on stderr


def test_outputs_are_kept_in_order_and_clean(committed):
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"]
        shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        assert not PATH.search("".join(shown)), cell.source


def test_claims_are_checked_in_the_notebook(committed):
    assert sum(len(re.findall(r"^\s*(?:assert |np\.testing\.assert)", cell.source, re.M)) for cell in code_cells(committed)) >= 10


def test_carries_nothing_of_the_machine(committed, request):
    assert committed.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert committed.metadata.language_info == {"name": "python"}
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert not [cell.id for cell in committed.cells if cell.metadata]


def test_is_small():
    assert not [path.name for path in NOTEBOOKS if path.stat().st_size > LARGEST_FILE]
