"""Files are data: whatever a config has in the place of ours, nothing of it runs, neither on loading nor later."""

import contextlib
import copy
import json
import os
import warnings
import zipfile

import keras
import numpy as np
import pytest
from architectures import Block
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from keras.src.saving import serialization_lib
from keras.src.utils import python_utils

import keras_reg
from keras_reg.layers import GatedKernel, GaussianGate, HardConcreteGate
from keras_reg.models import attach, check, detach, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, Grouped, StructuralGroupLasso, StructuralL0Constraint

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
RAN = "KERAS_REG_TEST_RAN"


def as_saved(thing):
    return json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))


CODE = as_saved(layers.Lambda(lambda w: (__import__("os").environ.__setitem__("KERAS_REG_TEST_RAN", "1"), w)[1], name="code"))
LAYER = as_saved(layers.Dense(3))
CARRIER = {"module": "keras_reg", "class_name": "WithPenalties", "registered_name": "keras_reg>WithPenalties"}
HOSTILE = {
    "code": CODE,
    "bare code": CODE["config"]["function"],
    "code of activations": {"class_name": "__lambda__", "config": {"value": list(CODE["config"]["function"]["config"].values())}},
    "layer": LAYER,
    "layer of ours": {**CARRIER, "config": {"layer": LAYER, "keras_reg_penalties": []}},
    "code of ours": {**CARRIER, "config": {"layer": CODE, "keras_reg_penalties": []}},
    "layer of the user": as_saved(Block(3)),
    "mark": {"module": "keras_reg", "class_name": "Mark", "config": {"number": 1}, "registered_name": "keras_reg>Mark"},
    "unregistered": {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": "system"},
    "function": {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "relu"},
    "SavedModel": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/"}, "registered_name": None},
    "list": [CODE],
    "text": "code",
    "number": 10**400,
    "nothing": {},
}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """Neither is the code made a function, nor is safe mode switched off by anybody."""
    monkeypatch.delenv(RAN, raising=False)
    made, unsafe = [], []
    make, scope = python_utils.func_load, serialization_lib.SafeModeScope.__init__
    monkeypatch.setattr(python_utils, "func_load", lambda *a, **k: made.append(a) or make(*a, **k))
    monkeypatch.setattr(
        serialization_lib.SafeModeScope, "__init__", lambda self, safe_mode=True: unsafe.append(not safe_mode) or scope(self, safe_mode)
    )
    yield
    assert RAN not in os.environ
    assert not made
    assert not any(unsafe)


def altered(path, change):
    """A file with another config."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config)
    parts["config.json"] = json.dumps(config).encode()
    other = path.with_name(f"altered {path.name}")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return other


def nodes(config):
    """All dicts of a config."""
    if isinstance(config, dict):
        yield config
    for item in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from nodes(item)


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """A block with penalties around it, which its wrapper builds and calls itself."""
    path = tmp_path_factory.mktemp("files") / "model.keras"
    model = keras.Sequential([keras.Input((5, 4)), layers.TimeDistributed(Block(4, name="block"))])
    attach(model.layers[0].layer, L1(0.1))
    model.save(path)
    return path


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_in_the_place_of_a_penalty_around_a_layer(carried, name, built):
    def change(config):
        for node in list(nodes(config)):
            for row in node.get("keras_reg_penalties", ()):
                row["penalty"] = HOSTILE[name]
            if "keras_reg_penalties" in node.get("config", {}) and not built:
                node.pop("build_config", None)  # so that its penalties have to wait

    with pytest.raises((ValueError, TypeError)):
        keras.models.load_model(altered(carried, change))


ROWS = {
    "no list": {},
    "no row": [3],
    "empty": [{}],
    "index": [{"index": "0", "name": "kernel", "shape": [4, 8], "penalty": as_saved(L1(0.1))}],
    "negative": [{"index": -1, "name": "kernel", "shape": [4, 8], "penalty": as_saved(L1(0.1))}],
    "name": [{"index": 0, "name": CODE, "shape": [4, 8], "penalty": as_saved(L1(0.1))}],
    "shape": [{"index": 0, "name": "kernel", "shape": CODE, "penalty": as_saved(L1(0.1))}],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_none(name):
    with pytest.raises(ValueError, match=r"enalt.*Received"):
        layers.deserialize({**CARRIER, "config": {"layer": as_saved(Block(4)), "keras_reg_penalties": ROWS[name]}})


@pytest.mark.parametrize("inside", [{}, {"layer": LAYER}, {"keras_reg_penalties": []}, {"layer": 3, "keras_reg_penalties": []}])
def test_carriers_without_their_parts(inside):
    with pytest.raises(ValueError, match="Penalties around a layer must come with its config"):
        layers.deserialize({**CARRIER, "config": inside})


@pytest.mark.parametrize("name", HOSTILE)
def test_in_the_place_of_the_layer_around_which_they_are(name):
    config = {**CARRIER, "config": {"layer": HOSTILE[name], "keras_reg_penalties": []}}
    if name in ("layer", "layer of the user", "layer of ours"):  # in which there are no penalties either
        assert isinstance(layers.deserialize(config), (layers.Dense, Block))
    else:
        with pytest.raises((ValueError, TypeError)):
            layers.deserialize(config)


@pytest.mark.parametrize("name", ["layer of ours", "code of ours", "layer of the user", "mark", "code", "layer"])
@pytest.mark.parametrize("place", ["kernel_regularizer", "bias_regularizer"])
def test_in_the_place_of_a_regularizer(place, name):
    config = json.loads(json.dumps(keras.Sequential([keras.Input((4,)), layers.Dense(2)]).get_config()))
    config["layers"][1]["config"][place] = HOSTILE[name]
    with pytest.raises((ValueError, TypeError)):
        keras.Sequential.from_config(config)


RUN = [[0, 2, 1]]
OF_OURS = {
    "Grouped": lambda: Grouped(L1(0.1), axis=-2),
    "StructuralGroupLasso": lambda: StructuralGroupLasso(0.1, "macs", "a", -1, [0, 1, -1], [1.0, 2.0, 3.0]),
    "StructuralL0Constraint": lambda: StructuralL0Constraint(
        0.5,
        structure="a",
        groups=[0, 1],
        costs={"rest": 1, "terms": [[2, [[2, RUN]]]], "members": RUN, "families": RUN},
    ),
    "Proximal": lambda: Proximal("adam"),
    "MCP": lambda: keras_reg.regularizers.MCP(0.1),
    "GroupLasso": lambda: keras_reg.regularizers.GroupLasso(0.1, axis=(0, 1)),
    "LabelSmoothingCrossentropy": lambda: keras_reg.losses.LabelSmoothingCrossentropy(0.1),
    "OnlineLabelSmoothingCrossentropy": lambda: keras_reg.losses.OnlineLabelSmoothingCrossentropy(3),
    "HardConcreteL0": lambda: keras_reg.regularizers.HardConcreteL0(0.1, weights=[1.0, 2.0]),
    "GaussianGatePenalty": lambda: keras_reg.regularizers.GaussianGatePenalty(0.1),
    "HardConcreteGate": lambda: HardConcreteGate(axis=(1, 2), gate_regularizer=L1(0.1)),
    "GaussianGate": lambda: GaussianGate(seed=3),
    "ExpectedCalibrationError": lambda: keras_reg.metrics.ExpectedCalibrationError(),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", OF_OURS)
def test_in_the_place_of_an_argument_of_ours(kind, name):
    saved = as_saved(OF_OURS[kind]())
    for key in saved["config"].keys() - {"name", "dtype", "trainable", "reduction"}:  # which are handed on to Keras
        config = copy.deepcopy(saved)
        config["config"][key] = HOSTILE[name]
        try:
            made = keras.saving.deserialize_keras_object(config)
        except (ValueError, TypeError):
            continue
        assert (key, name) == ("structure", "text"), made


KEYS = ["class_name", "config", "module", "registered_name", "strength", "axis", "value"]
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 0.5])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["sgd", "relu", "float32", "../x", "__lambda__"]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", OF_OURS)
def test_anything_in_a_config(kind):
    saved = as_saved(OF_OURS[kind]())
    keys = sorted(saved["config"].keys() - {"name", "dtype", "trainable", "reduction"})

    @settings(max_examples=100)
    @given(st.dictionaries(st.sampled_from([*keys, "other"]), ANY, min_size=1, max_size=2))
    def change(changes):
        with warnings.catch_warnings(), contextlib.suppress(ValueError, TypeError):
            warnings.simplefilter("ignore")
            made = keras.saving.deserialize_keras_object({**saved, "config": {**copy.deepcopy(saved["config"]), **changes}})
            assert made.__class__.__name__ == kind

    change()


@pytest.mark.parametrize("name", HOSTILE)
def test_in_the_place_of_what_a_gated_kernel_is_made_of(name):
    saved = as_saved(GatedKernel(layers.Dense(3), HardConcreteGate(per_sample=False)))
    for key in ("layer", "gate"):
        config = copy.deepcopy(saved)
        config["config"][key] = HOSTILE[name]
        if (key, name) not in (("layer", "layer"), ("layer", "layer of ours")):  # which are a Dense layer
            with pytest.raises((ValueError, TypeError)):
                keras.saving.deserialize_keras_object(config)


def test_what_a_penalty_is_made_of_is_a_penalty():
    for name in ("layer of the user", "layer of ours", "code of ours"):
        with pytest.raises(ValueError, match="Argument `penalty` must be the config of a regularizer"):
            Grouped(HOSTILE[name])
    with pytest.raises(TypeError, match="Argument `inner_optimizer` must be a Keras optimizer"):
        Proximal(as_saved(Block(3)))
    with pytest.raises(ValueError, match="Lambda"):
        Proximal.from_config({"inner_optimizer": CODE})


@keras.saving.register_keras_serializable("tests")
class KeepsItsConfig(layers.Layer):
    """Holds on to what the file said, and hands it on without having looked at it."""

    def __init__(self, options=None, **kwargs):
        super().__init__(**kwargs)
        self.options = options

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3), regularizer=L1(0.1))

    def call(self, x):
        return ops.matmul(x, self.kernel)

    def get_config(self):
        return {**super().get_config(), "options": self.options}

    looks = False

    @classmethod
    def from_config(cls, config):
        if cls.looks:
            keras.saving.deserialize_keras_object(config["options"])
        return cls(**config)


def test_what_was_kept_from_a_file_is_not_trusted_later(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), KeepsItsConfig(name="keeps")])
    model.save(tmp_path / "model.keras")

    def change(config):
        for node in nodes(config):
            if node.get("class_name") == "KeepsItsConfig":
                node["config"]["options"] = CODE

    loaded = keras.models.load_model(altered(tmp_path / "model.keras", change))
    monkeypatch.setattr(KeepsItsConfig, "looks", True)
    with pytest.raises(ValueError, match="Keras cannot rebuild it"):
        attach(loaded, keras.regularizers.L2(0.1), replace=True)
    attach(loaded, keras.regularizers.L2(0.1), replace=True, lasting=False)
    check(loaded)
    detach(loaded, lasting=False)
    with pytest.raises(ValueError, match="cannot be stripped"):
        strip(loaded)


def own_activation(x):
    return ops.tanh(x)


def of_code(factor=2.0):
    """Code in every place that Keras has for it, made in this process."""
    inside = keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: factor * x), layers.Dense(3, activation=own_activation, name="named")]
    )
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.TimeDistributed(inside, name="inside"),
            layers.Dense(3, kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype), name="initializer"),
            layers.Lambda(lambda x, scale=0.5: scale * x, arguments={"scale": 0.25}),
        ]
    )


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_code_of_the_live_model_is_no_obstacle():
    model = of_code()
    x = ops.convert_to_numpy(model(X))
    table = attach(model, L1(0.1))
    assert [row.weight.split("/")[-2] for row in table.rows] == ["named", "initializer"]
    assert [row.kept for row in table.rows] == ["Dense.kernel_regularizer"] * 2
    check(model).raise_if_any()
    plain = strip(model)
    np.testing.assert_allclose(ops.convert_to_numpy(plain(X)), x, rtol=1e-6)
    assert not plain.losses
    detach(model)
    assert not model.losses


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_of_functions_that_look_alike_each_layer_has_its_own():
    """Their code is one, and what they close over is not."""

    def times(factor):
        return lambda x: factor * x

    model = keras.Sequential([keras.Input((5, 4)), *(layers.Lambda(times(factor)) for factor in (2.0, 3.0)), layers.Dense(2)])
    np.testing.assert_allclose(ops.convert_to_numpy(strip(model)(X)), ops.convert_to_numpy(model(X)), rtol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strings are tensors of TensorFlow alone")
def test_a_vocabulary_beside_the_model(tmp_path):
    (tmp_path / "words.txt").write_text("zero\none\ntwo\n")
    inputs = keras.Input((3,), dtype="string")
    lookup = layers.StringLookup(vocabulary=str(tmp_path / "words.txt"), name="lookup")
    model = keras.Model(inputs, layers.Embedding(5, 2)(lookup(inputs)))
    attach(model, L1(0.1))
    assert strip(model).get_layer("lookup").get_config() == lookup.get_config()


@pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch are layers there alone")
def test_a_module_of_pytorch():
    import torch

    model = keras.Sequential([keras.Input((4,)), layers.TorchModuleWrapper(torch.nn.Linear(4, 3), name="linear"), layers.Dense(2)])
    model(np.ones((2, 4), "float32"))
    assert len(attach(model, L1(0.1), weights="*", lasting=False).rows) == 4
    plain = strip(model)
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(plain(x)), ops.convert_to_numpy(model(x)), rtol=1e-6)
    assert plain.layers[0].module is not model.layers[0].module
