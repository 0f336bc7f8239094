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
    for namespace in ("callbacks", "losses", "metrics", "models", "ops", "optimizers", "regularizers", "testing", "visualization"):
        for name, thing in vars(getattr(keras_reg, namespace)).items():
            if inspect.ismodule(thing) or name.startswith("_"):
                continue
            assert ">>>" in (inspect.getdoc(thing) or ""), f"{namespace}.{name} has no example"


def test_readme_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
