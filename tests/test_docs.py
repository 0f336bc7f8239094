"""What is written is run: the docstrings' examples and the README's blocks of Python."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import pytest

import keras_reg

ROOT = pathlib.Path(__file__).parent.parent
OTHER_BACKENDS = {f"keras_reg.backend.{name}" for name in ("tensorflow", "jax", "torch")} - {f"keras_reg.backend.{keras.backend.backend()}"}
MODULES = sorted({module.name for module in pkgutil.walk_packages(keras_reg.__path__, "keras_reg.")} - OTHER_BACKENDS)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in doctest.DocTestFinder().find(module, name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_every_public_name_is_documented_with_an_example():
    for namespace in set(keras_reg.__all__) - {"__version__"}:
        for name, thing in vars(getattr(keras_reg, namespace)).items():
            if inspect.ismodule(thing) or name.startswith("_") or not thing.__module__.startswith("keras_reg"):
                continue
            assert ">>>" in (inspect.getdoc(thing) or ""), f"{namespace}.{name} has no example"


PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BACKENDS = {"tensorflow": "# TensorFlow\n", "jax": "# JAX\n", "torch": "# PyTorch\n"}
"""The first line of a block that is for one backend."""


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


# What the pages print is said of TensorFlow; on the other backends the code that they call has its own tests.
ON_ALL = ("README.md", "custom_loops.md")
RUN = [page for page in PAGES if blocks_of(page) and (page.name in ON_ALL or keras.backend.backend() == "tensorflow")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # KerasTuner's
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The blocks of a page are one program, as a reader would paste them.
    names = {"__name__": "__main__"}
    others = tuple(line for backend, line in BACKENDS.items() if backend != keras.backend.backend())
    for block in blocks_of(page):
        if not block.startswith(others):
            exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_pages_name_every_public_name():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for namespace in (getattr(keras_reg, name) for name in keras_reg.__all__ if name != "__version__"):
        assert dir(namespace) == sorted(namespace.__all__)
        for name in namespace.__all__:
            if getattr(namespace, name).__module__.startswith("keras_reg") and name != "l1_l2":
                assert re.search(rf"\b{name}\b", text), f"{namespace.__name__}.{name}"


def test_the_pages_name_every_penalty():
    text = (ROOT / "docs" / "penalties.md").read_text(encoding="utf-8")
    for name, thing in vars(keras_reg.regularizers).items():
        if inspect.isclass(thing) and issubclass(thing, keras_reg.regularizers.Penalty) and name[0].isupper() and name != "Penalty":
            assert f"`{name}(" in text, name
