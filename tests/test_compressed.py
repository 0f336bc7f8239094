"""`save_compressed`: what plain Keras reads, in less room."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg.models import compressed, save_compressed, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1


def sparse_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((200,)), layers.Dense(100, kernel_regularizer=L1(0.1, proximal=True)), layers.Dense(1)])
    model.compile(Proximal("sgd"), "mse")
    kernel, bias, *rest = model.get_weights()
    kernel[np.random.default_rng(0).random(kernel.shape) < 0.9] = 0
    model.set_weights([kernel, bias, *rest])
    return model


def test_it_is_the_same_model_in_less_room(tmp_path):
    model = sparse_model()
    model.save(tmp_path / "plain.keras")
    save_compressed(model, tmp_path / "small.keras")
    assert os.path.getsize(tmp_path / "small.keras") < os.path.getsize(tmp_path / "plain.keras") / 4
    loaded, x = keras.models.load_model(tmp_path / "small.keras"), np.ones((2, 200), "float32")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.layers[0].kernel_regularizer.get_config() == L1(0.1, proximal=True).get_config()
    loaded.train_on_batch(x, np.zeros((2, 1)))
    with zipfile.ZipFile(tmp_path / "small.keras") as archive:
        assert archive.testzip() is None
        assert {part.compress_type for part in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    save_compressed(model, str(tmp_path / "small.keras"))  # over the old one


def test_plain_keras_reads_it(tmp_path):
    model, x = sparse_model(), np.ones((2, 200), "float32")
    save_compressed(strip(model), tmp_path / "small.keras")
    np.save(tmp_path / "expected.npy", ops.convert_to_numpy(model(x)))
    program = (
        "import sys; sys.modules['keras_reg'] = None; import keras, numpy as np; from keras import ops;"
        "y = ops.convert_to_numpy(keras.models.load_model('small.keras')(np.ones((2, 200), 'float32')));"
        "np.testing.assert_allclose(y, np.load('expected.npy'), rtol=1e-5)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_keras_would_take_for_an_attack_is_stored_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "FLOOR", 2**16)
    model = keras.Sequential([keras.Input((500,)), layers.Dense(1000, kernel_initializer="zeros")])
    save_compressed(model, tmp_path / "zeros.keras")
    with zipfile.ZipFile(tmp_path / "zeros.keras") as archive:
        assert archive.getinfo("model.weights.h5").compress_type == zipfile.ZIP_STORED
        assert archive.getinfo("config.json").compress_type == zipfile.ZIP_DEFLATED
    assert keras.models.load_model(tmp_path / "zeros.keras").count_params() == 501000


def test_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"must end in '.keras'. Received: path='model.h5'"):
        save_compressed(sparse_model(), "model.h5")
    with pytest.raises(TypeError, match="must be a Keras model"):
        save_compressed(layers.Dense(1), tmp_path / "a.keras")
