"""A stripped model gives the same outputs, goes on training, and needs no keras_reg: not to load, and not to be served."""

import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from architectures import SMALL, Block, data, functional
from keras import layers, ops

import keras_reg
from keras_reg.models import attach, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, GroupLasso

# Of the models that Keras alone can load.
OF_KERAS = ("dense", "convolutions", "text")
BACKEND = keras.backend.backend()

PLAIN = """
import json, sys
sys.modules["keras_reg"] = None  # importing it would raise
import keras, numpy as np

for name in json.loads(sys.argv[2]):
    model = keras.models.load_model(f"{sys.argv[1]}/{name}.keras")
    x = np.load(f"{sys.argv[1]}/{name}.npy")
    np.save(f"{sys.argv[1]}/{name}.out.npy", model.predict(x, verbose=0))
    if name == "dense":
        model.fit(x, np.load(f"{sys.argv[1]}/{name}.out.npy"), verbose=0)
    if "keras_reg" in json.dumps(model.get_config()):
        raise SystemExit(f"{name}: keras_reg is in the config")
"""

EXPORT = """
import sys
sys.modules["keras_reg"] = None
import keras

model = keras.models.load_model(sys.argv[1])
model.export(sys.argv[2], format="tf_saved_model", verbose=False)
model.export(sys.argv[2] + ".onnx", format="onnx", verbose=False)
"""

SERVE = """
import sys
sys.modules["keras_reg"] = sys.modules["keras"] = None
import numpy as np

x = np.load(sys.argv[2])
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + ".onnx")
by_onnx = session.run(None, {session.get_inputs()[0].name: x})[0]
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
by_tensorflow = model.serve(x).numpy()
np.savez(sys.argv[3], by_tensorflow=by_tensorflow, by_onnx=by_onnx)
"""


def run(program, *arguments, backend=None):
    environment = {**os.environ, "KERAS_BACKEND": backend or keras.backend.backend()}
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def outputs(model, x):
    return np.array(ops.convert_to_numpy(model(x)))


def penalised(name):
    """A model that was built, given penalties, compiled and trained a step."""
    keras.utils.set_random_seed(0)
    model = SMALL[name]()
    attach(model, L1(0.01, proximal=True))
    model.compile(Proximal(keras.optimizers.SGD(0.01, momentum=0.9)), keras.losses.MeanSquaredError(), run_eagerly=BACKEND != "jax")
    x, y = data(model)
    if name in ("dense", "convolutions"):
        model.fit(x, y, verbose=0)
    return model, x, y


# On JAX each operation of each model is compiled for the comparison.
ON_JAX = ("dense", "text", "own layers", "subclassed")
COMPARED = ON_JAX if BACKEND == "jax" else tuple(name for name in SMALL if name != "MobileNetV3Small")


@pytest.mark.parametrize("name", COMPARED)
def test_the_same_outputs_and_no_trace(name):
    model, x, _ = penalised(name)
    config, weights = model.get_config(), model.get_weights()
    plain = strip(model)
    assert "keras_reg" not in json.dumps(keras.saving.serialize_keras_object(plain))
    assert not plain.losses
    np.testing.assert_allclose(outputs(plain, x), outputs(model, x), rtol=1e-5, atol=1e-6)
    assert isinstance(plain.optimizer, keras.optimizers.SGD)
    assert model.get_config() == config
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_loads_where_keras_reg_cannot_be_imported(tmp_path):
    expected = {}
    for name in OF_KERAS:
        model, x, _ = penalised(name)
        strip(model).save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", x)
        expected[name] = model.predict(x, verbose=0)
        assert b"keras_reg" not in zipfile.ZipFile(tmp_path / f"{name}.keras").read("config.json")
    run(PLAIN, tmp_path, json.dumps(OF_KERAS))
    for name in OF_KERAS:
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.out.npy"), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="what is exported by TensorFlow is tested there")
def test_exports_are_served_by_tensorflow_and_onnx_alone(tmp_path):
    model, x, _ = penalised("convolutions")
    strip(model).save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    run(EXPORT, tmp_path / "model.keras", tmp_path / "served", backend="tensorflow")
    run(SERVE, tmp_path / "served", tmp_path / "x.npy", tmp_path / "y.npz", backend="tensorflow")
    with np.load(tmp_path / "y.npz") as served:
        for name in ("by_tensorflow", "by_onnx"):
            np.testing.assert_allclose(served[name], model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: Proximal(keras.optimizers.SGD(0.05, momentum=0.9)),
        lambda: Proximal(keras.optimizers.Adam(0.05)),
        lambda: keras.optimizers.LossScaleOptimizer(Proximal(keras.optimizers.SGD(0.05, momentum=0.9)), initial_scale=8.0),
        lambda: keras.optimizers.Adam(0.05),
    ],
    ids=["SGD", "Adam", "LossScale", "no Proximal"],
)
def test_training_goes_on_with_the_state_of_the_inner_optimizer(wrap):
    """As it does without a penalty: one of strength 0, which leaves the same state."""
    keras.utils.set_random_seed(0)
    optimizer = wrap()
    kind = L1(0.0, proximal=True) if type(optimizer) is not keras.optimizers.Adam else L1(0.0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu", kernel_regularizer=kind), layers.Dense(2)])
    model.compile(optimizer, "mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 2)).astype("float32")
    model.fit(x, y, epochs=3, verbose=0)
    plain = strip(model)
    assert int(plain.optimizer.iterations) == 3
    for each in (model, plain):
        assert "mae" in each.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_belongs_to_keras_stays():
    def build(x):
        x = layers.Dense(4, kernel_regularizer="l2", activity_regularizer=L1(0.1), bias_regularizer=L2(0.1), name="first")(x)
        return Block(4, name="block")(x)

    model = functional((4,), build)
    plain = strip(model)
    first = plain.get_layer("first")
    assert isinstance(first.kernel_regularizer, keras.regularizers.L2)
    assert first.bias_regularizer is None
    assert first.activity_regularizer is None
    # On a block that has no place for it, keras_reg alone can keep even a regularizer of Keras.
    attach(model, keras.regularizers.L2(0.1), include="block")
    with pytest.warns(UserWarning, match=r"block/\S*kernel of \S+ lost Keras's regularizer"):
        plain = strip(model)
    assert type(plain.get_layer("block")) is Block


def test_a_loss_and_metrics_of_keras_reg_are_dropped_and_said():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=GroupLasso(0.1))])
    model.compile("sgd", keras_reg.losses.LabelSmoothingCrossentropy(0.1, from_logits=True))
    with pytest.warns(UserWarning, match="a loss of keras_reg, so that the stripped model is not compiled"):
        assert not strip(model).compiled
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy", keras_reg.metrics.ExpectedCalibrationError()])
    with pytest.warns(UserWarning, match="ExpectedCalibrationError .* was dropped"):
        plain = strip(model)
    assert plain.get_compile_config()["metrics"] == ["accuracy"]
    assert plain.get_compile_config()["loss"] == "categorical_crossentropy"


@keras.saving.register_keras_serializable("tests")
class OwnCompile(keras.Model):
    """As the tasks of KerasHub have it."""

    def compile(self, optimizer="auto", **kwargs):
        super().compile(optimizer=keras.optimizers.SGD(0.1) if optimizer == "auto" else optimizer, loss="mse", **kwargs)


@keras.saving.register_keras_serializable("tests")
class CompilesItself(OwnCompile):
    """When it is made, for something else than the user may want then."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.compile("auto")


@keras.saving.register_keras_serializable("tests")
class OwnCompileFromConfig(OwnCompile):
    """Written as Keras asks for; with an optimizer that is not the one of the config."""

    def compile_from_config(self, config):
        self.compile(keras.optimizers.Adam())


class OwnLoss(keras.losses.MeanSquaredError):
    """Not registered."""


def trained(kind, **arguments):
    model = functional((4,), lambda x: layers.Dense(2, kernel_regularizer=L1(0.1, proximal=True))(x), kind)
    model.compile(Proximal(keras.optimizers.SGD(0.05)), **arguments)
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 2)))
    return model


def test_what_cannot_be_compiled_anew_is_stripped_all_the_same():
    x = np.ones((2, 4), "float32")
    for kind, arguments, reason in (
        (OwnCompile, {}, r"its class has a `compile` of its own: call `OwnCompile\.compile`"),
        (CompilesItself, {}, r"its class has a `compile` of its own: call `CompilesItself\.compile`"),
        (keras.Model, {"loss": OwnLoss()}, "OwnLoss"),
    ):
        model = trained(kind, **arguments)
        with pytest.warns(UserWarning, match=rf"strip: the stripped model of '\w+' is not compiled \(.*{reason}") as caught:
            plain = strip(model)
        assert len([w for w in caught if "strip" in str(w.message)]) == 1
        assert not plain.compiled
        np.testing.assert_allclose(outputs(plain, x), outputs(model, x), rtol=1e-6)
        plain.compile(keras.optimizers.SGD(0.1))
    with pytest.warns(UserWarning, match="is compiled with another optimizer, which starts anew"):
        plain = strip(trained(OwnCompileFromConfig))
    assert isinstance(plain.optimizer, keras.optimizers.Adam)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_loss_that_is_a_function_of_the_users():
    model = trained(keras.Model, loss=lambda y, p: 3 * ops.mean(ops.square(y - p), axis=-1))
    plain = strip(model)
    x, y = np.ones((2, 4), "float32"), np.zeros((2, 2), "float32")
    np.testing.assert_allclose(plain.evaluate(x, y, verbose=0), 3 * np.mean(outputs(model, x) ** 2), rtol=1e-5)


class Steeper(L1):
    """A penalty of the user's: its module imports keras_reg."""


@keras.saving.register_keras_serializable("tests")
class AlwaysPenalised(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3), regularizer=L1(0.1))

    def call(self, x):
        return ops.matmul(x, self.kernel)


def test_penalties_of_the_user_go_too():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=Steeper(0.1))])
    assert strip(model).layers[0].kernel_regularizer is None


def test_what_cannot_be_stripped():
    model = functional((4,), lambda x: AlwaysPenalised(name="penalised")(x))
    with pytest.raises(ValueError, match=r"cannot be stripped: penalised/kernel would have keras_reg again"):
        strip(model)
    with pytest.raises(TypeError, match="Argument `model` must be a Keras model"):
        strip(layers.Dense(3))
    with pytest.raises(ValueError, match="must be built"):
        strip(keras.Sequential([layers.Dense(3)]))


def test_state_that_is_no_weight():
    """What a layer learnt from data beside its weights, and the seeds of its noise."""
    x = keras.Input((4,))
    normal, bins = layers.Normalization(), layers.Discretization(num_bins=3)
    for layer in (normal, bins):
        layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(40, 4)))
    y = layers.Dropout(0.5, seed=7)(normal(x)) + ops.cast(bins(x), "float32")
    model = keras.Model(x, layers.Dense(2, kernel_regularizer=L1(0.1))(y))
    model(np.ones((2, 4), "float32"), training=True)  # which moves the seed on
    plain = strip(model)
    z = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    for training in (False, True):
        np.testing.assert_allclose(*(ops.convert_to_numpy(m(z, training=training)) for m in (model, plain)), rtol=1e-6)
