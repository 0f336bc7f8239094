"""Files side by side: whatever a model compiled with a bare optimizer can do, one compiled with `Proximal` around it can."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_reg.callbacks import StrengthScheduler
from keras_reg.models import attach, detach
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "proximal": lambda: Proximal(keras.optimizers.Adam(0.01)),
    "proximal-momentum": lambda: Proximal(keras.optimizers.SGD(0.01, momentum=0.9)),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is proximal, but no optimizer"),
    pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:.*has nothing to apply"),
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method"),
]


# Where a step is not what is tested, it need not be compiled; JAX would compile each operation.
UNCOMPILED = BACKEND == "tensorflow"


def make(optimizer="proximal", fitted=True, penalty=None, eagerly=False):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_regularizer=penalty or L1(0.02, proximal=True), name="first"),
            layers.Dense(1, kernel_regularizer=L1(0.01, proximal=True), name="last"),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "mse", run_eagerly=eagerly)
    if fitted:
        fit(model)
    return model


def fit(model, epochs=1, **kwargs):
    return model.fit(X, Y, epochs=epochs, verbose=0, shuffle=False, **kwargs).history


def freeze(model):
    model.get_layer("first").trainable = False


def freeze_all(model):
    model.trainable = False


def thaw(model):
    model.get_layer("first").trainable = False
    model.predict(X, verbose=0)
    model.get_layer("first").trainable = True


def attached(model):
    detach(model, include="last")
    attach(model, GroupLasso(0.03, axis=-2, proximal=True), include="last")


def compiled_anew(model):
    model.compile(type(model.optimizer).from_config(model.optimizer.get_config()), "mse", run_eagerly=model.run_eagerly)


CHANGES = {
    "nothing": lambda model: None,
    "frozen": freeze,
    "all-frozen": freeze_all,
    "thawed": thaw,
    "attached": attached,
    "detached": lambda model: detach(model),
    "compiled-anew": compiled_anew,
    "quantized": lambda model: model.quantize("int8"),
}


def outcome(function):
    """Whether it works."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "works"


@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "compiled"])
@pytest.mark.parametrize("change", CHANGES)
def test_whole_models(change, fitted, tmp_path):
    """Saved and loaded, copied and pickled, after whatever has become of the model since."""
    for name in OPTIMIZERS:
        model = make(name, fitted, eagerly=UNCOMPILED and change not in ("nothing", "thawed"))
        if change in ("attached", "detached") and name == "adam":
            continue
        if change == "quantized" and not fitted:
            continue
        CHANGES[change](model)
        model.save(tmp_path / "m.keras")
        predictions = model.predict(X, verbose=0)
        copies = [keras.models.load_model(tmp_path / "m.keras"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for loaded in copies:
            np.testing.assert_allclose(loaded.predict(X, verbose=0), predictions, rtol=1e-5, atol=1e-6)
        if change in ("quantized", "all-frozen"):
            continue
        fit(copies[0])
        if fitted and change in ("nothing", "attached"):
            # Going on is going on: the optimizer has its state.
            fit(model)
            np.testing.assert_allclose(copies[0].get_weights()[0], model.get_weights()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "untrained"])
@pytest.mark.parametrize("target", ["unbuilt", "built", "fitted", "frozen"])
@pytest.mark.parametrize("saved_under", OPTIMIZERS)
def test_weights_alone(saved_under, target, trained, tmp_path):
    """From and into every optimizer, built or not: what does not fit is skipped with a warning, and nothing raises."""
    model = make(saved_under, trained, eagerly=UNCOMPILED)
    model.save_weights(tmp_path / "m.weights.h5")
    for name in OPTIMIZERS:
        other = make(name, fitted=target == "fitted", eagerly=UNCOMPILED and (trained, saved_under) != (True, "proximal"))
        if target == "built":
            other.optimizer.build(other.trainable_variables)
        if target == "frozen":
            freeze(other)
        other.load_weights(tmp_path / "m.weights.h5")
        np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])
        fit(other)
    other.load_weights(tmp_path / "m.weights.h5", skip_mismatch=True)


def test_weights_of_a_bare_optimizer_go_on_under_proximal(tmp_path):
    """Its state is that of the inner one."""
    for bare, wrapped in (("adam", "proximal"), ("momentum", "proximal-momentum")):
        inner = OPTIMIZERS["adam"]() if bare == "adam" else keras.optimizers.SGD(0.01, momentum=0.9)
        model = make()
        model.compile(inner, "mse")
        fit(model, 3)
        model.save_weights(tmp_path / "m.weights.h5")
        other = make(wrapped, fitted=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            other.load_weights(tmp_path / "m.weights.h5")
        state, loaded = inner.variables, other.optimizer.inner_optimizer.variables
        for a, b in zip(state, loaded, strict=False):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def moved(model, strengths=(0.5, 0.25)):
    for layer, strength in zip(model.layers, strengths, strict=True):
        model.optimizer.set_strength(strength, layer.kernel.path)
    return model


@pytest.mark.parametrize("into", ["unbuilt", "built"])
def test_strengths_go_to_their_weights(into, tmp_path):
    """By identity: also where another layer is frozen, names differ, or the optimizer is built only later."""
    moved(make()).save_weights(tmp_path / "m.weights.h5")
    for change, expected in ((lambda m: None, [0.5, 0.25]), (freeze, [0.25])):
        other = make(fitted=False)
        change(other)
        if into == "built":
            other.optimizer.build(other.trainable_variables)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            other.load_weights(tmp_path / "m.weights.h5")
            other.optimizer.build(other.trainable_variables)
        said = [str(w.message) for w in caught if "Not all saved strengths" in str(w.message)]
        assert len(said) == (change is freeze)
        assert all("first/kernel" in message for message in said)
        assert list(other.optimizer.strengths.values()) == expected


def test_a_strength_without_a_weight_and_a_weight_without_a_strength_are_said(tmp_path):
    model = make()
    moved(model)
    model.save_weights(tmp_path / "m.weights.h5")
    other = make()
    detach(other, include="last")
    with pytest.warns(UserWarning, match="no penalised variable here for .*last/kernel") as caught:
        other.load_weights(tmp_path / "m.weights.h5")
    assert len([w for w in caught if "strengths" in str(w.message)]) == 1
    assert list(other.optimizer.strengths.values()) == [0.5]
    # What was not moved is as configured, whatever has become of it since.
    detach(model, include="last")
    model.save_weights(tmp_path / "n.weights.h5")
    other = moved(make(), (0.7, 0.7))
    other.load_weights(tmp_path / "n.weights.h5")
    assert list(other.optimizer.strengths.values()) == [0.5, 0.01]


def shown(model):
    """The penalty of the first weight, wherever it shows."""
    values = [float(keras.ops.convert_to_numpy(model.losses[0])), model.layers[0].kernel_regularizer.strength]
    return [*values, model.layers[0].kernel.regularizer.get_config()["l1"]]


def test_a_moved_strength_is_in_every_file_and_copy(tmp_path):
    model = make()
    fit(model, callbacks=[StrengthScheduler(lambda epoch: 0.5)])
    expected = shown(model)
    assert expected[1:] == [0.5, 0.5]
    model.save(tmp_path / "m.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    from_json = keras.models.model_from_json(model.to_json())
    from_json.set_weights(model.get_weights())
    copies = [clone, from_json, copy.deepcopy(model), *(keras.models.load_model(tmp_path / "m.keras", compile=c) for c in (True, False))]
    for other in copies:
        np.testing.assert_allclose(shown(other), expected, rtol=1e-6)
    reference = model.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "m.keras").evaluate(X, Y, verbose=0), reference, rtol=1e-6)


def test_checkpoints_of_callbacks(tmp_path):
    """Best only, restored, backed up: in a second process, so to speak."""
    model = make(fitted=False)
    history = fit(
        model,
        3,
        validation_data=(X, Y),
        callbacks=[
            keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_best_only=True, save_weights_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
            keras.callbacks.EarlyStopping(restore_best_weights=True),
        ],
    )
    best = min(history["val_loss"])
    other = make(fitted=False)
    other.load_weights(tmp_path / "best.weights.h5")
    for one in (other, keras.models.load_model(tmp_path / "best.keras"), model):
        np.testing.assert_allclose(one.evaluate(X, Y, verbose=0), best, rtol=1e-5)


if BACKEND == "tensorflow":
    import tensorflow as tf

    @pytest.mark.parametrize("fitted", [True, False])
    def test_what_tensorflow_writes(fitted, tmp_path):
        model = make(fitted=fitted)
        if fitted:
            moved(model)
        predictions = model.predict(X, verbose=0)
        model.export(tmp_path / "export", verbose=False)
        exported = tf.saved_model.load(str(tmp_path / "export"))
        np.testing.assert_allclose(exported.serve(X), predictions, rtol=1e-5, atol=1e-6)
        tf.saved_model.save(model, str(tmp_path / "saved"))
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        path = checkpoint.save(str(tmp_path / "checkpoint"))
        other = make(fitted=fitted)
        tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
        np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])
        if fitted:
            assert list(other.optimizer.strengths.values()) == [0.5, 0.25]
