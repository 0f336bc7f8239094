"""Online label smoothing against a NumPy account of it: one batch, whole trainings, saved and continued, on two replicas."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.special import log_softmax, softmax

from keras_reg.callbacks import OnlineLabelSmoothing
from keras_reg.losses import LabelSmoothingCrossentropy, OnlineLabelSmoothingCrossentropy
from keras_reg.testing.autodiff import compiled, value_and_gradient

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 6)).astype("float32"), RNG.integers(0, 4, 48)


class Account:
    """The method in NumPy, example by example."""

    def __init__(self, classes, hard=0.5):
        self.table, self.sums, self.hard = np.full((classes, classes), 1 / classes), np.zeros((classes, classes)), hard

    def losses(self, y, logits, collect=True):
        losses = []
        for label, z in zip(y, logits, strict=True):
            p = softmax(z.astype("float64"))
            target = (1 - self.hard) * self.table[label]
            target[label] += self.hard
            losses.append(-np.sum(target * np.log(p)))
            if collect and np.argmax(p) == label:
                self.sums[label] += p
        return np.array(losses)

    def next_epoch(self):
        for k, row in enumerate(self.sums):
            if row.sum():
                self.table[k] = row / row.sum()
        self.sums[:] = 0


@pytest.mark.parametrize("hard", [0.0, 0.5, 1.0])
def test_losses_and_soft_labels_of_three_epochs(hard):
    loss, account = OnlineLabelSmoothingCrossentropy(4, hard, from_logits=True, reduction=None), Account(4, hard)
    for epoch in range(3):
        for _ in range(2):
            y, z = RNG.integers(0, 3, 9), RNG.normal(size=(9, 4)).astype("float32")  # class 3 never comes
            z[np.arange(9), y] += epoch
            np.testing.assert_allclose(ops.convert_to_numpy(loss(y, z)), account.losses(y, z), rtol=1e-5)
        loss.next_epoch()
        account.next_epoch()
        np.testing.assert_allclose(loss.soft_labels, account.table, rtol=1e-5)
    np.testing.assert_array_equal(loss.soft_labels[3], 0.25)
    assert not np.allclose(loss.soft_labels[0], 0.25)


def test_the_first_epoch_is_uniform_label_smoothing_with_its_gradient():
    z = RNG.normal(size=(5, 4)).astype("float32")
    online, uniform = OnlineLabelSmoothingCrossentropy(4, from_logits=True), LabelSmoothingCrossentropy(0.5, from_logits=True)
    value, gradient = value_and_gradient(lambda z: online(Y[:5], z), z)
    right, slope = value_and_gradient(lambda z: uniform(Y[:5], z), z)
    np.testing.assert_allclose(value, right, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)


def test_the_kinds_of_labels_agree():
    z = 2 * RNG.normal(size=(2, 4, 3, 5)).astype("float32")  # classes on axis 1
    y = RNG.integers(0, 4, (2, 3, 5))
    one_hot = np.moveaxis(np.eye(4, dtype="float32")[y], -1, 1)
    p = softmax(z, axis=1)
    found = []
    for labels, predictions, from_logits in ((y, z, True), (y[:, None], z, True), (one_hot, z, True), (y, p, False)):
        loss = OnlineLabelSmoothingCrossentropy(4, from_logits=from_logits, axis=1)
        values = [float(loss(labels, predictions))]
        loss.next_epoch()
        found.append(([*values, float(loss(labels, predictions))], loss.soft_labels))
    account = Account(4)
    rows = np.moveaxis(z, 1, -1).reshape(-1, 4)
    right = [account.losses(y.ravel(), rows).mean()]
    account.next_epoch()
    right.append(account.losses(y.ravel(), rows).mean())
    for values, table in found:
        np.testing.assert_allclose(values, right, rtol=1e-5)
        np.testing.assert_allclose(table, account.table, rtol=1e-5)


def test_a_mixed_target_mixes_the_soft_labels():
    loss = OnlineLabelSmoothingCrossentropy(3, from_logits=True)
    loss([0, 1, 2], 3 * np.eye(3, dtype="float32") + [[0, 1, 0]])
    loss.next_epoch()
    z, mix = RNG.normal(size=3).astype("float32"), np.array([0.7, 0.0, 0.3], "float32")
    target = 0.5 * mix + 0.5 * mix @ loss.soft_labels
    np.testing.assert_allclose(float(loss(mix[None], z[None])), -np.sum(target * log_softmax(z)), rtol=1e-5)


def test_ignored_and_masked_positions_teach_nothing():
    y, z = np.array([0, 255, 1, 3]), np.array([[2, 1, 0, 0], [np.nan] * 4, [0, 3, 1, 0], [0, 0, 0, 1]], "float32")
    loss, account = OnlineLabelSmoothingCrossentropy(4, from_logits=True, ignore_class=255), Account(4)
    value, gradient = value_and_gradient(lambda z: loss(y, z), z)
    keep = [0, 2, 3]
    np.testing.assert_allclose(value, account.losses(y[keep], z[keep]).mean(), rtol=1e-5)
    assert np.all(gradient[1] == 0)
    assert np.all(np.isfinite(gradient))
    account.next_epoch()
    loss.next_epoch()
    np.testing.assert_allclose(loss.soft_labels, account.table, rtol=1e-5)

    ids = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(5, 4, mask_zero=True), layers.Dense(3)])
    model.compile("sgd", OnlineLabelSmoothingCrossentropy(3, from_logits=True))
    account, labels, logits = Account(3), np.argmax(model.predict(ids, verbose=0), -1), model.predict(ids, verbose=0)  # all are right
    model.fit(ids, labels, verbose=0, callbacks=[OnlineLabelSmoothing()])
    account.losses(labels[ids != 0], logits[ids != 0])
    account.next_epoch()
    np.testing.assert_allclose(model.loss.soft_labels, account.table, rtol=1e-5)


def test_impossible_classes():
    z = np.array([[3.0, -np.inf, 0.0]], "float32")
    loss = OnlineLabelSmoothingCrossentropy(3, from_logits=True)
    loss([0, 2], np.array([[9.0, -np.inf, 0.0], [0.0, -np.inf, 9.0]], "float32"))
    loss.next_epoch()
    value, gradient = value_and_gradient(lambda z: loss([0], z), z)  # what has no mass may have no probability
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_a_label_out_of_range():
    loss = OnlineLabelSmoothingCrossentropy(3, from_logits=True, reduction=None)
    with pytest.raises(ValueError, match=r"`y_true` must hold whole numbers from 0 to 2.*Received: 3"):
        loss([0, 3], np.zeros((2, 3), "float32"))
    if keras.backend.backend() == "tensorflow":
        losses = compiled(lambda y: loss(y, np.zeros((2, 3), "float32")))(ops.convert_to_tensor([0, 3]))
        np.testing.assert_array_equal(np.isnan(ops.convert_to_numpy(losses)), [False, True])


def model_with(loss, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), loss, **options)
    return model


def by_hand(epochs):
    """The same training, with the targets made in NumPy for Keras's own loss."""
    model, account, history = model_with(keras.losses.CategoricalCrossentropy(from_logits=True)), Account(4), []
    for _ in range(epochs):
        values = []
        for start in range(0, 48, 16):
            x, y = X[start : start + 16], Y[start : start + 16]
            account.losses(y, ops.convert_to_numpy(model(x)))
            target = 0.5 * np.eye(4)[y] + 0.5 * account.table[y]
            model.reset_metrics()  # in older versions of Keras the value is the mean of all batches so far
            values.append(float(model.train_on_batch(x, target)))
        history.append(np.mean(values))
        account.next_epoch()
    return history, account.table


def test_fit_is_the_method_and_validation_teaches_nothing():
    right, table = by_hand(5)
    options = {"batch_size": 16, "epochs": 5, "shuffle": False, "verbose": 0}
    for more in ({}, {"validation_data": (X[::-1], Y)}):
        model = model_with(OnlineLabelSmoothingCrossentropy(4, from_logits=True), metrics=["accuracy"])
        model.evaluate(X, Y, verbose=0)  # before, the labels may be a constant of a compiled step
        history = model.fit(X, Y, callbacks=[OnlineLabelSmoothing()], **options, **more).history
        np.testing.assert_allclose(history["loss"], right, rtol=1e-4)
        np.testing.assert_allclose(model.loss.soft_labels, table, rtol=1e-3, atol=1e-6)
        assert set(history) == {"loss", "accuracy", *(["val_loss", "val_accuracy"] if more else [])}
        model.evaluate(X, Y, verbose=0)
        np.testing.assert_array_equal(ops.convert_to_numpy(model.loss.state.sums), 0)
        account = Account(4)
        account.table[:] = model.loss.soft_labels
        np.testing.assert_allclose(model.evaluate(X, Y, verbose=0)[0], account.losses(Y, model.predict(X, verbose=0)).mean(), rtol=1e-4)


def test_two_outputs_learn_apart():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, {"a": layers.Dense(4, name="a")(inputs), "b": layers.Dense(3, name="b")(inputs)})
    losses = {"a": OnlineLabelSmoothingCrossentropy(4, from_logits=True), "b": OnlineLabelSmoothingCrossentropy(3, from_logits=True)}
    model.compile("sgd", losses)
    model.fit(X, {"a": Y, "b": Y % 3}, epochs=2, verbose=0, callbacks=[OnlineLabelSmoothing()])
    assert all(loss.soft_labels.std() > 0.01 for loss in losses.values())


CONTINUE = """
import json, sys
import keras, numpy as np
import keras_reg

data = np.load(sys.argv[1])
model = keras.models.load_model(sys.argv[2])
table = model.loss.soft_labels.tolist()
value = model.evaluate(data["x"], data["y"], batch_size=16, verbose=0)
online = [keras_reg.callbacks.OnlineLabelSmoothing()]
history = model.fit(data["x"], data["y"], epochs=2, batch_size=16, shuffle=False, verbose=0, callbacks=online).history["loss"]
print("FACTS", json.dumps([model.loss.get_config(), table, value, *history]))
"""


def test_a_saved_model_continues_in_a_fresh_process(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    model = model_with(OnlineLabelSmoothingCrossentropy(4, 0.4, from_logits=True, ignore_class=-1, name="mine"))
    callbacks = [OnlineLabelSmoothing(), keras.callbacks.ModelCheckpoint(tmp_path / "m.keras")]
    model.fit(X, Y, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks)
    table = model.loss.soft_labels
    expected = [model.evaluate(X, Y, batch_size=16, verbose=0)]
    expected += model.fit(X, Y, epochs=2, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks[:1]).history["loss"]
    command = [sys.executable, "-W", "ignore", "-c", CONTINUE, str(tmp_path / "data.npz"), str(tmp_path / "m.keras")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": keras.backend.backend()})
    assert done.returncode == 0, done.stderr[-3000:]
    (config, restored, *history), *_ = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("FACTS")]
    assert config == json.loads(json.dumps(model.loss.get_config()))
    np.testing.assert_array_equal(np.array(restored, "float32"), table)
    np.testing.assert_allclose(history, expected, rtol=1e-5)


REPLICAS = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
import keras_reg

rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(0, 4, 32)
found = []
for scope in (tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope, tf.init_scope):
    keras.utils.set_random_seed(0)
    with scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        model.compile(keras.optimizers.SGD(0.5), keras_reg.losses.OnlineLabelSmoothingCrossentropy(4, from_logits=True))
    model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=[keras_reg.callbacks.OnlineLabelSmoothing()])
    found.append([model.loss.soft_labels, *model.get_weights()])
for one, other in zip(*found):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_learn_as_one():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", REPLICAS], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]


BAD = {
    "no classes": ({"num_classes": 0}, ValueError, "`num_classes` must be a whole number of at least 1.*0"),
    "classes": ({"num_classes": 2.5}, ValueError, "`num_classes` must be a whole number"),
    "hard": ({"hard": 1.5}, ValueError, "`hard` must be from 0 to 1.*1.5"),
    "hard name": ({"hard": "half"}, TypeError, "`hard` must be a number.*'half'"),
    "from_logits": ({"from_logits": 1}, TypeError, "`from_logits` must be True or False"),
    "ignored": ({"ignore_class": "void"}, TypeError, "`ignore_class` must be a whole number or None"),
    "axis": ({"axis": None}, TypeError, "`axis` must be a whole number"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD)
def test_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        OnlineLabelSmoothingCrossentropy(**{"num_classes": 3, **options})


def test_predictions_and_models_are_refused():
    loss = OnlineLabelSmoothingCrossentropy(3, ignore_class=1)
    with pytest.raises(ValueError, match=r"`y_pred` must have num_classes=3 classes on axis -1. Received: 4"):
        loss([0], np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match="`ignore_class` goes with integer labels"):
        loss(np.eye(3, dtype="float32"), np.ones((3, 3), "float32"))
    with pytest.raises(ValueError, match=r"expects a model compiled with .*OnlineLabelSmoothingCrossentropy. Received: loss='mse'"):
        model_with("mse").fit(X, np.eye(4)[Y], verbose=0, callbacks=[OnlineLabelSmoothing()])


class EpochEnds(keras.callbacks.Callback):
    """What a user would write in place of ours."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.loss.next_epoch()


@pytest.mark.parametrize("way", ["train_on_batch", "a callback of one's own", "after fit"])
def test_without_the_callback_too(way):
    """On JAX as well, where a trainer takes for constants what it does not know as state."""
    model = model_with(OnlineLabelSmoothingCrossentropy(4, from_logits=True))
    if way == "train_on_batch":
        model.train_on_batch(X, Y)
        model.train_on_batch(X, Y)
        model.loss.discard()
        before = softmax(model.predict(X, verbose=0), axis=-1)
        model.train_on_batch(X, Y)
        right = [before[(before.argmax(-1) == k) & (k == Y)] for k in range(4)]
        expected = np.stack([rows.mean(0) if len(rows) else np.full(4, 0.25) for rows in right])
        model.loss.next_epoch()
        np.testing.assert_allclose(model.loss.soft_labels, expected, rtol=1e-4)
    elif way == "after fit":
        model.fit(X, Y, epochs=2, verbose=0)
        model.loss.next_epoch()
    else:
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[EpochEnds()])
    assert not np.allclose(model.loss.soft_labels, 0.25, atol=0.01)


def test_an_ignored_class_gets_no_share():
    loss = OnlineLabelSmoothingCrossentropy(4, from_logits=True, ignore_class=1)
    np.testing.assert_allclose(loss.soft_labels, np.tile([1 / 3, 0, 1 / 3, 1 / 3], (4, 1)), rtol=1e-6)
    y, z = np.array([0, 1, 2, 3]), 3 * np.eye(4, dtype="float32")
    first = LabelSmoothingCrossentropy(0.5, from_logits=True, ignore_class=1)
    np.testing.assert_allclose(loss(y, z), first(y, z), rtol=1e-5)
    loss.next_epoch()
    p = softmax(z, axis=-1)
    for k in (0, 2, 3):
        np.testing.assert_allclose(loss.soft_labels[k], np.delete(p[k], 1).sum() ** -1 * p[k] * (np.arange(4) != 1), rtol=1e-5)
    with pytest.raises(ValueError, match="must leave a class"):
        OnlineLabelSmoothingCrossentropy(1, ignore_class=0)


PARALLEL = """
import keras, numpy as np
from keras_reg.callbacks import OnlineLabelSmoothing
from keras_reg.losses import OnlineLabelSmoothingCrossentropy

rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 4, 64)
tables = []
for devices in (1, 2):
    keras.utils.set_random_seed(0)
    if devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.5), OnlineLabelSmoothingCrossentropy(4, from_logits=True))
    model.fit(x, y, epochs=3, shuffle=False, verbose=0, validation_data=(x, y), callbacks=[OnlineLabelSmoothing()])
    tables.append(model.loss.soft_labels)
np.testing.assert_allclose(tables[0], tables[1], rtol=1e-4)
assert np.abs(tables[0] - 0.25).max() > 0.1
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="`DataParallel` is for JAX")
def test_data_parallel():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PARALLEL], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
