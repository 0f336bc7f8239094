"""A layer that carries penalties around its config is an ordinary layer of its class."""

import abc
import copy
import gc
import inspect
import io
import pickle
import subprocess
import sys
import weakref
from typing import ClassVar

import architectures
import keras
import numpy as np
import pytest
from architectures import Block, OwnKernel, functional, subclassed
from keras import layers, ops

from keras_reg.models import attach, detach
from keras_reg.models.attachment import carrier
from keras_reg.regularizers import L1

X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Doubled(Block):
    """Uses `super()`, in a class with Keras's own config."""

    def call(self, x):
        return 2 * super().call(x)


class Plugins(metaclass=abc.ABCMeta):
    """A base that lists its subclasses, asks for an argument, and has a metaclass."""

    known: ClassVar = []

    def __init_subclass__(cls, *, kind, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.known.append((kind, cls))

    @abc.abstractmethod
    def compute_output_shape(self, shape): ...


@keras.saving.register_keras_serializable("tests")
class Plugin(Block, Plugins, kind="one"):
    pass


@keras.saving.register_keras_serializable("tests")
class NoConfig(layers.Layer):
    """Keras makes its config from the arguments of the constructor."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dense = units, layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


CLASSES = {"Block": Block, "super": Doubled, "metaclass": Plugin, "no get_config": NoConfig, "own kernel": OwnKernel}


def attached(kind):
    layer = kind(4) if kind is not OwnKernel else kind()
    layer(X)
    attach(layer, L1(0.1))
    assert type(layer) is not kind
    return layer


def losses_of(layer):
    return [float(ops.convert_to_numpy(loss)) for loss in layer.losses]


def outputs(layer):
    return np.array(ops.convert_to_numpy(layer(X)))


COPIES = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "old pickle": lambda layer: pickle.loads(pickle.dumps(layer, protocol=2)),
    "pickler in Python": lambda layer: pickle._loads(pickled_in_python(layer)),
}


def pickled_in_python(layer):
    file = io.BytesIO()
    pickle._Pickler(file).dump(layer)
    return file.getvalue()


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_what_the_user_knows(name):
    kind = CLASSES[name]
    layer, plain = attached(kind), kind(4) if kind is not OwnKernel else kind()
    assert isinstance(layer, kind)
    shown = type(layer)
    assert (shown.__name__, shown.__qualname__, shown.__module__, shown.__doc__) == (
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
        kind.__doc__,
    )
    assert inspect.getsource(shown) == inspect.getsource(kind)
    assert repr(layer) == repr(plain).replace(plain.name, layer.name).replace("built=False", "built=True")
    assert layer.get_config()["layer"]["config"].keys() == plain.get_config().keys()
    assert all(owner is not shown for _, owner in Plugins.known)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", CLASSES)
def test_copies(name, way):
    layer = attached(CLASSES[name])
    again = COPIES[way](layer)
    assert type(again) is type(layer)
    np.testing.assert_array_equal(outputs(again), outputs(layer))
    assert losses_of(again) == losses_of(layer)
    assert losses_of(layer)
    detach(again)
    assert type(again) is CLASSES[name]
    assert losses_of(layer)


def test_whole_models_are_copied_too():
    inside = functional((5, 4), lambda x: layers.Dense(2)(Block(4)(x)))
    for model in (subclassed(), inside):
        attach(model, L1(0.1))
        for copied in COPIES.values():
            np.testing.assert_allclose(losses_of(copied(model)), losses_of(model), rtol=1e-6)


IN_A_NEW_PROCESS = """
import pickle, sys
import architectures
layer = pickle.load(open(sys.argv[1], "rb"))
print(type(layer).__name__, isinstance(layer, architectures.Block), len(layer.losses))
"""


def test_a_pickle_is_read_where_nobody_has_imported_keras_reg(tmp_path):
    (tmp_path / "layer.pickle").write_bytes(pickle.dumps(attached(Block)))
    folder = str(inspect.getfile(architectures)).rsplit("/", 1)[0]
    program = f"import sys\nsys.path.insert(0, {folder!r})\n{IN_A_NEW_PROCESS}"
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "layer.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Block", "True", "2"], done.stderr[-2000:]


def test_a_layer_made_by_the_class_of_another_carries_nothing():
    layer = attached(Block)
    new = type(layer)(4)
    new(X)
    assert not new.losses
    again = layers.deserialize(layers.serialize(new))
    assert type(again) is Block


def test_a_call_looks_at_no_weights(monkeypatch):
    layer = attached(Block)
    monkeypatch.setattr(carrier, "settle", lambda layer: pytest.fail("settled already"))
    looked = []
    monkeypatch.setattr(layers.Layer, "weights", property(lambda self: looked.append(self) or []))
    layer(X)
    assert not looked


@pytest.mark.parametrize("plugin", [False, True])
def test_classes_that_are_made_anew_are_not_kept(plugin):
    """As when the cell of a notebook is run again and again."""
    registered = len(keras.saving.get_custom_objects())

    def attached_once():
        class Again(layers.Layer):
            def build(self, shape):
                self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3))

            def call(self, x):
                return ops.matmul(x, self.kernel)

        kind = abc.ABCMeta("Again", (Again,), {}) if plugin else Again
        layer = kind()
        layer(X)
        attach(layer, L1(0.1))
        detach(layer)
        attach(layer, L1(0.1))
        return weakref.ref(kind), weakref.ref(type(layer)), weakref.ref(layer)

    kept = [reference for _ in range(3) for reference in attached_once()]
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)
    assert len(keras.saving.get_custom_objects()) == registered


def test_layers_of_one_class_share_the_class_they_get():
    first, second = attached(Block), attached(Block)
    assert type(first) is type(second)
    others = {type(attached(Doubled)), Block, type(first)}
    assert len(others) == 3
