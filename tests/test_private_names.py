"""What is not public in Keras: listed in one place, and missed with an error that says what to do."""

import ast
import pathlib
import subprocess
import sys

import keras
import pytest

from keras_reg import _keras
from keras_reg.optimizers import Proximal
from keras_reg.weights import layers_of

PACKAGE = pathlib.Path(_keras.__file__).parent
ELSEWHERE = {"_C", "_functorch", "_fields", "_getframe", "_repr_png_", *("_initargs", "_initializer", "_max_workers", "_mp_context")}
"""Of PyTorch, Python and IPython."""


def names_in(tree):
    """Private names that a module defines, and those that it takes from objects."""
    own, taken = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute):
            stored = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
            (own if stored and node.value.id in ("self", "made") else taken).add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            taken.update(argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant))
    return own, {name for name in taken if name.startswith("_") and not name.startswith("__")}


def test_every_name_is_listed():
    own, taken = zip(*(names_in(ast.parse(file.read_text())) for file in PACKAGE.rglob("*.py")), strict=True)
    tables = (_keras.OF_CLASSES, _keras.OF_INSTANCES, _keras.ELSEWHERE)
    listed = {name for table in tables for names in table.values() for name in names}
    needed = set().union(*taken) - set().union(*own) - ELSEWHERE - {"_narrow", "_narrows"}
    assert needed == listed - set().union(*own)


def test_without_a_method_nothing_is_imported():
    code = "import keras; del keras.layers.Layer._flatten_layers; import keras_reg"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: keras_reg needs `_flatten_layers` of the class Layer, which Keras {keras.__version__} has not" in done.stderr


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in _keras.OF_CLASSES.items() for name in names])
def test_methods(kind, name, monkeypatch):
    for base in kind.__mro__:
        if name in vars(base):
            monkeypatch.delattr(base, name)
    with pytest.raises(ImportError, match=f"keras_reg needs `{name}` of the class .* install one of these"):
        _keras.check_classes()


class Lacking:
    def __init__(self, names):
        vars(self).update(dict.fromkeys(names))


@pytest.mark.parametrize("kind", _keras.OF_INSTANCES)
def test_attributes(kind, monkeypatch):
    for name in _keras.OF_INSTANCES[kind]:
        _keras._seen.clear()
        with pytest.raises(RuntimeError, match=f"keras_reg needs `{name}` of an? {kind}, which Keras"):
            _keras.check(kind, Lacking(set(_keras.OF_INSTANCES[kind]) - {name}))


def test_where_they_are_needed(monkeypatch):
    _keras._seen.clear()
    layer, optimizer = keras.layers.Dense(2), keras.optimizers.SGD()
    del layer.__dict__["_inbound_nodes"], optimizer.__dict__["_trainable_variables_indices"]
    with pytest.raises(RuntimeError, match="`_inbound_nodes` of a layer"):
        list(layers_of(layer))
    with pytest.raises(RuntimeError, match="`_trainable_variables_indices` of an optimizer"):
        Proximal(optimizer)
