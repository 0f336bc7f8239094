"""Every penalty through every way that Keras saves: reloaded where `import keras_reg` is all it takes."""

import copy
import json
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from cases import CASES, IDS
from keras import layers

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is proximal, but no optimizer"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

X = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")


def model_with(penalty):
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, kernel_regularizer=penalty), layers.Dense(2)])


def facts(model):
    """What must survive: the config of the penalty, its value and the predictions."""
    return {
        "config": model.layers[0].kernel_regularizer.get_config(),
        "loss": float(keras.ops.convert_to_numpy(model.losses[0])),
        "predictions": model.predict(X, verbose=0).tolist(),
    }


def run(program, *arguments, backend=None):
    """The output of a program in a fresh process."""
    environment = {**os.environ, "KERAS_BACKEND": backend or keras.backend.backend()}
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


RELOAD = """
import json, sys
import keras, numpy as np
import keras_reg

folder, names = sys.argv[1], sys.argv[2].split(",")
x = np.load(f"{folder}/x.npy")
for name in names:
    loaded = [keras.models.load_model(f"{folder}/{name}.{kind}") for kind in ("keras", "h5")]
    rebuilt = keras.models.model_from_json(open(f"{folder}/{name}.json").read())
    rebuilt.load_weights(f"{folder}/{name}.weights.h5")
    facts = [
        {
            "config": m.layers[0].kernel_regularizer.get_config(),
            "loss": float(keras.ops.convert_to_numpy(m.losses[0])),
            "predictions": m.predict(x, verbose=0).tolist(),
        }
        for m in [*loaded, rebuilt]
    ]
    print("FACTS", json.dumps([name, facts]))
"""


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """The facts of every model of the table before saving, and after, from one fresh process."""
    folder = tmp_path_factory.mktemp("saved")
    np.save(folder / "x.npy", X)
    before = {}
    for case in CASES:
        model = model_with(case.make())
        # The string "mse" does not reload from HDF5 in Keras itself.
        model.compile("sgd", keras.losses.MeanSquaredError())
        before[case.name] = facts(model)
        model.save(folder / f"{case.name}.keras")
        model.save(folder / f"{case.name}.h5")
        (folder / f"{case.name}.json").write_text(model.to_json())
        model.save_weights(folder / f"{case.name}.weights.h5")
    output = run(RELOAD, str(folder), ",".join(IDS))
    after = dict(json.loads(line.split(" ", 1)[1]) for line in output.splitlines() if line.startswith("FACTS"))
    return before, after


@pytest.mark.parametrize("name", IDS)
def test_keras_h5_and_json_in_a_fresh_process(reloaded, name):
    before, after = reloaded
    for kind, facts_after in zip(("keras", "h5", "json"), after[name], strict=True):
        assert facts_after == before[name], kind


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_copies_and_configs(case):
    penalty = case.make()
    config = penalty.get_config()
    for again in (
        copy.copy(penalty),
        copy.deepcopy(penalty),
        pickle.loads(pickle.dumps(penalty)),
        type(penalty).from_config(pickle.loads(pickle.dumps(config))),
        keras.regularizers.get(keras.regularizers.serialize(penalty)),
        keras.regularizers.get(penalty),
    ):
        assert type(again) is type(penalty)
        assert again.get_config() == config
        np.testing.assert_array_equal(float(again(X)), float(penalty(X)))
    assert penalty.get_config() == config


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_clone_model(case):
    model = model_with(case.make())
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert clone.layers[0].kernel_regularizer is not model.layers[0].kernel_regularizer
    assert facts(clone) == facts(model)


EXPORT = """
import sys
import keras
import keras_reg

keras.models.load_model(sys.argv[1]).export(sys.argv[2], format="tf_saved_model", verbose=False)
"""

SERVE = """
import sys
sys.modules["keras_reg"] = None  # importing it would raise
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
np.save(sys.argv[3], model.serve(np.load(sys.argv[2])))
"""


@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter is deprecated:DeprecationWarning")
def test_saved_model_is_served_by_tensorflow_alone(tmp_path):
    x = inputs = keras.Input((4,))
    for case in CASES:
        x = layers.Dense(4, activation="tanh", kernel_regularizer=case.make())(x)
    model = keras.Model(inputs, x)
    paths = [str(tmp_path / name) for name in ("served", "x.npy", "y.npy")]
    if keras.backend.backend() == "torch":
        # Keras exports SavedModels from PyTorch for no model at all (torch.export refuses its dynamic shapes): TensorFlow does it.
        model.save(tmp_path / "model.keras")
        run(EXPORT, str(tmp_path / "model.keras"), paths[0], backend="tensorflow")
    else:
        model.export(paths[0], format="tf_saved_model", verbose=False)
    np.save(paths[1], X)
    run(SERVE, *paths)
    np.testing.assert_allclose(np.load(paths[2]), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
