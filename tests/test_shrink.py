"""`shrink`: against its program by hand, in what users combine it with, after interruptions, and what it refuses."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_reg.callbacks import StrengthScheduler
from keras_reg.models import attach, check, compact, compaction_plan, detach, shrink, structural_groups
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import GroupLasso, StructuralL0Constraint

BACKEND = keras.backend.backend()
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(48, 6)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int32")
KEPT = pytest.mark.filterwarnings("ignore:'proximal.*has nothing to apply")


def made(optimizer="adam", penalty=None, metrics=("accuracy",), widths=(16, 8), **options):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(width, "relu", kernel_regularizer=penalty) for width in widths]
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2, "softmax")])
    optimizer = keras.optimizers.Adam(0.01) if optimizer == "adam" else optimizer
    options = {"run_eagerly": BACKEND == "tensorflow", **options}  # little is computed, and a lot would be compiled
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=list(metrics), **options)
    return model


def shrunk(model, x=X, y=Y, **options):
    keras.utils.set_random_seed(1)
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0, **options}
    if not {"parameters", "units", "metric_drop"} & set(options):
        options = {"macs": 0.5, **options}
    return shrink(model, x, y, **options)


def assert_equal(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Trained(keras.callbacks.Callback):
    """Which epochs are trained, and what else there is at their ends."""

    def __init__(self, stop=None):
        super().__init__()
        self.epochs, self.logs, self.begun, self.stop = [], [], 0, stop

    def on_train_begin(self, logs=None):
        self.begun += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((self.begun, epoch))
        self.logs.append(dict(logs))

    def on_epoch_begin(self, epoch, logs=None):
        if self.stop == (self.begun, epoch):
            raise KeyboardInterrupt


@KEPT
def test_by_hand_it_is_the_same():
    model = made(run_eagerly=False)
    before = [weight.copy() for weight in model.get_weights()]
    small, report = shrunk(model, X, Y, macs=0.4)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not model.optimizer.built
    assert not check(model)

    keras.utils.set_random_seed(1)
    ramped = compact(model)
    attach(ramped, StructuralL0Constraint(1.0))
    ramped.compile(Proximal(keras.optimizers.Adam(0.01)), "sparse_categorical_crossentropy")
    ramp = keras.optimizers.schedules.PolynomialDecay(1.0, 2 * 18 // 3, 0.4, power=3)
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    ramped.fit(X, Y, callbacks=[StrengthScheduler(ramp)], **options)
    detach(ramped)
    other = compact(ramped)
    other.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    other.fit(X, Y, **options)
    assert_equal(small, other)
    assert small.count_params() < model.count_params()

    assert type(small.optimizer).__name__ == "Adam"
    assert small.loss == "sparse_categorical_crossentropy"
    found = model.evaluate(X, Y, verbose=0, return_dict=True), small.evaluate(X, Y, verbose=0, return_dict=True)
    for name, pair in report.metrics.items():
        np.testing.assert_allclose(pair, [metrics[name] for metrics in found], rtol=1e-5)
    assert report.parameters == (model.count_params(), small.count_params())
    assert report.macs == (compaction_plan(model).total.macs[0], compaction_plan(small).total.macs[0])
    assert report.metrics_of == "training data"
    assert report.bytes[1] < report.bytes[0]
    assert min(report.milliseconds) > 0
    assert [row.width[1] for row in report.layers] == [layer.units for layer in small.layers]
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    text = str(report)
    assert f"{model.count_params():,}" in text
    assert "16 → " in text
    assert "accuracy" in text
    assert "<table>" in report._repr_html_()


@pytest.mark.parametrize("of", ["parameters", "units"])
def test_budgets_are_met(of):
    model = made()
    small, report = shrunk(model, epochs=1, **{of: 0.5})

    def number(one):
        return len(structural_groups(one)) if of == "units" else getattr(compaction_plan(one).total, of)[0]

    assert 0.4 < number(small) / number(model) <= 0.5
    assert report.budgets[0].left == number(small) / number(model)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def tensors(kind):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    return data if kind == "known" else data.filter(lambda x, y: True)


def loader():
    import torch

    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=8)


def endless():
    while True:
        for number in range(6):
            yield X[8 * number : 8 * number + 8], Y[8 * number : 8 * number + 8]


DATA = {
    "tf.data": lambda: {"x": tensors("known"), "validation_data": tensors("known")},
    "tf.data of unknown length": lambda: {"x": tensors("unknown")},
    "PyDataset": lambda: {"x": Batches(), "validation_data": Batches()},
    "DataLoader": lambda: {"x": loader(), "validation_data": loader()},
    "generator": lambda: {"x": endless(), "steps_per_epoch": 6, "validation_data": (X, Y)},
}


OF_THE_BACKEND = {
    "tensorflow": ["tf.data", "tf.data of unknown length"],
    "jax": ["PyDataset", "generator"],
    "torch": ["PyDataset", "DataLoader", "generator"],
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("kind", OF_THE_BACKEND[BACKEND])
def test_data_as_in_fit(kind):
    options = DATA[kind]()
    x = options.pop("x")
    small, report = shrunk(made(), x, None, batch_size=None, **options)
    assert report.macs[1] <= 0.5 * report.macs[0]
    if kind in (
        "tf.data",
        "PyDataset",
        "DataLoader",
    ):  # without a length the budget is lowered at epochs, and of a generator batches are read ahead
        for one, two in zip(small.get_weights(), _from_arrays(), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)


@functools.cache
def _from_arrays():
    return shrunk(made())[0].get_weights()


def test_callbacks_and_what_else_fit_takes(tmp_path, capsys):
    recorder, stopping = Trained(), keras.callbacks.EarlyStopping("val_loss", mode="max", restore_best_weights=True)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    small, report = shrunk(
        made(
            run_eagerly=False,
            steps_per_execution=1 if BACKEND == "torch" else 2,
            jit_compile=BACKEND == "jax",
            weighted_metrics=["accuracy"],
        ),
        macs=0.3,
        validation_data=(X, Y, np.ones(len(X))),
        class_weight={0: 1.0, 1: 3.0},
        callbacks=[recorder, stopping, checkpoint],
        verbose=2,
    )
    assert recorder.epochs == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    budgets = [logs["budget"] for logs in recorder.logs[:3]]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] == 0.3
    assert all(type(value) is float for logs in recorder.logs for value in logs.values())
    assert keras.models.load_model(tmp_path / "best.keras").count_params() == small.count_params()
    printed = capsys.readouterr().out
    assert "Epoch 3/3" in printed
    assert f"macs {report.budgets[0].left:.1%}: accuracy " in printed
    assert report.metrics_of == "validation data"
    assert report.monitor == "accuracy"


def test_a_schedule_and_gradients_that_are_added_up():
    model = made(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 18), gradient_accumulation_steps=2))
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    small, report = shrunk(model, epochs=2)
    assert report.macs[1] <= 0.5 * report.macs[0]
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert not small.optimizer._use_weight_decay(small.layers[0].bias)
    assert small.optimizer._use_weight_decay(small.layers[0].kernel)


def test_the_last_examples_are_held_out():
    """As `fit` does it; weights of examples go with them."""
    weights = np.arange(1.0, 49.0, dtype="float32")
    split, report = shrunk(made(), epochs=2, validation_split=0.25, sample_weight=weights)
    held = X[36:], Y[36:], weights[36:]
    by_hand, other = shrunk(made(), X[:36], Y[:36], epochs=2, validation_data=held, sample_weight=weights[:36])
    assert_equal(split, by_hand)
    assert report.metrics == other.metrics
    assert report.metrics_of == "validation data"


def test_in_half_precision():
    # After an evaluation on JAX Keras's own training cannot go on with averages.
    average = {} if BACKEND == "jax" else {"use_ema": True, "ema_momentum": 0.5}
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = made(keras.optimizers.SGD(0.05, **average))
        small, report = shrunk(model, epochs=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(small.optimizer).__name__ == "LossScaleOptimizer"
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert report.macs[1] <= 0.5 * report.macs[0]


def constrained():
    model = made()
    attach(model, StructuralL0Constraint(0.8))
    model.compile(Proximal("adam"), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X, Y, verbose=0)
    return model


WITH_PENALTIES = {
    "of Keras": lambda: made(penalty=keras.regularizers.L2(1e-3)),
    "by a prox": lambda: made(Proximal("sgd", keep_zeros=True), GroupLasso(1e-3, axis=-2, proximal=True)),
    "a budget": constrained,
}


@pytest.mark.parametrize("kind", WITH_PENALTIES)
def test_penalties_give_way_and_come_back(kind):
    model = WITH_PENALTIES[kind]()
    small, report = shrunk(model, epochs=1)
    assert report.macs[1] <= 0.5 * report.macs[0]
    assert type(small.optimizer) is type(model.optimizer)
    for old, new in zip(model.layers[:-1], small.layers[:-1], strict=True):
        kinds = [getattr(layer.kernel.regularizer, "__class__", None) for layer in (old, new)]
        assert kinds[0] is kinds[1]
        if kind != "a budget":
            configs = [layer.kernel.regularizer and layer.kernel.regularizer.get_config() for layer in (old, new)]
            assert configs[0] == configs[1]
    assert kind == "a budget" or not [finding for finding in check(small).findings if finding.sure]
    fitted = small.fit(X, Y, verbose=0)
    assert np.isfinite(fitted.history["loss"][-1])
    assert [layer.units for layer in compact(small).layers] == [layer.units for layer in small.layers] or kind in (
        "by a prox",
        "zeros kept",
    )


def test_as_far_as_the_metric_holds(tmp_path):
    """And an interrupted walk goes on where it was, without training a budget again."""
    model = made(metrics=["sparse_categorical_crossentropy", "accuracy"], widths=(4, 3))
    model.fit(X, Y, epochs=30, batch_size=8, verbose=0)
    options = {"metric_drop": 0.4, "monitor": "val_accuracy", "validation_data": (X, Y), "epochs": 2}
    straight = Trained()
    small, report = shrunk(model, callbacks=[straight], **options)
    assert [row.budget for row in report.budgets] == [0.7 ** (number + 1) for number in range(len(report.budgets))]
    assert len(report.budgets) > 1
    assert all(row.held for row in report.budgets[:-1])
    before, after = report.metrics["accuracy"]
    assert after >= before - 0.4
    assert after == pytest.approx([row.metric for row in report.budgets if row.held][-1])
    assert all(row.held == (row.metric >= before - 0.4) for row in report.budgets)
    assert after == pytest.approx(small.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"])
    assert "not held" in str(report) or report.budgets[-1].held

    interrupted = Trained(stop=(4, 1))
    with pytest.raises(KeyboardInterrupt):
        shrunk(model, callbacks=[interrupted], backup_dir=tmp_path, **options)
    resumed = Trained()
    other, again = shrunk(model, callbacks=[resumed], backup_dir=tmp_path, **options)
    assert len(interrupted.epochs) + len(resumed.epochs) == len(straight.epochs)
    assert resumed.epochs[0] == (1, 1)
    assert_equal(small, other)
    assert again.budgets == report.budgets
    finished = Trained()
    third, _ = shrunk(model, callbacks=[finished], backup_dir=tmp_path, **options)
    assert not finished.begun
    assert_equal(small, third)
    for one, two in zip(other.optimizer.variables, third.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two))
    with pytest.raises(ValueError, match=r"`backup_dir` must be a new folder.*other epochs"):
        shrunk(model, backup_dir=tmp_path, **{**options, "epochs": 3})
    with pytest.raises(ValueError, match="other data"):
        shrunk(model, -X, backup_dir=tmp_path, **options)
    model.layers[0].bias.assign(model.layers[0].bias + 1)
    with pytest.raises(ValueError, match=r"other .*weights"):
        shrunk(model, backup_dir=tmp_path, **options)


def test_where_no_budget_holds():
    model = made(metrics=(), widths=(4, 3))
    model.fit(X, Y, epochs=30, batch_size=8, verbose=0)
    model.optimizer.learning_rate = 1e3
    options = {"metric_drop": 0.0, "validation_data": (X, Y), "epochs": 1}
    with pytest.warns(UserWarning, match="no budget held loss within 0"):
        small, report = shrunk(model, **options)
    assert report.monitor == "loss"
    assert [row.held for row in report.budgets] == [False]
    assert_equal(small, model)


def test_killed_between_training_and_noting_it(tmp_path, monkeypatch):
    from keras_reg.models.shrinking.training import Training

    monkeypatch.setattr(Training, "_write", lambda self: (_ for _ in ()).throw(KeyboardInterrupt) if self._job["seconds"] else None)
    with pytest.raises(KeyboardInterrupt):
        shrunk(made(), backup_dir=tmp_path)
    monkeypatch.undo()
    recorder = Trained()
    small, _ = shrunk(made(), backup_dir=tmp_path, callbacks=[recorder])
    assert [epoch for _, epoch in recorder.epochs] == [0, 1, 2]
    for one, other in zip(small.get_weights(), _from_arrays(), strict=True):
        np.testing.assert_array_equal(one, other)


def fenced():
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(2, "softmax")(layers.LayerNormalization(name="fence")(layers.Dense(8)(x))))


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=BACKEND == "tensorflow")
    return model


class Own(keras.Model):
    def call(self, x):
        return x


def subclassed():
    model = compiled(Own())
    model(X)
    return model


REFUSED = {
    "no budget": ({"macs": None}, "Exactly one of .*Received: none"),
    "two budgets": ({"macs": 0.5, "units": 0.5}, "Exactly one of .*Received: macs, units"),
    "budget and drop": ({"macs": 0.5, "metric_drop": 0.1}, "Exactly one of .*Received: macs, metric_drop"),
    "more than all": ({"macs": 1.5}, "`macs` must be a share .*Received: macs=1.5"),
    "nothing": ({"macs": None, "parameters": 0}, "`parameters` must be greater than 0"),
    "below what can leave": ({"macs": 0.01}, "`macs` cannot be met: at least 0.0375 of the macs.*Received: macs with a budget of 0.01"),
    "drop without validation": ({"macs": None, "metric_drop": 0.1}, "`metric_drop` needs `validation_data`"),
    "negative drop": ({"macs": None, "metric_drop": -1, "validation_data": (X, Y)}, "`metric_drop` must be at least 0"),
    "no such metric": ({"monitor": "auc"}, "`monitor` must be one of .*'accuracy', 'loss'.*Received: monitor='auc'"),
    "epochs": ({"epochs": 0}, "`epochs` must be a whole number of at least 1"),
    "a single update": ({"epochs": 1, "batch_size": 48}, "`epochs` must make for two updates or more.*Received: epochs=1"),
    "other argument": ({"initial_epoch": 3}, "nothing else. Received: initial_epoch=3"),
    "labels of the wrong shape": ({"y": np.ones((48, 3))}, r"outputs of shape \(None, 2\). Received: y of shape \(48, 3\)"),
    "fewer labels": ({"y": Y[:40]}, r"Received: y of shape \(40,\)"),
    "inputs of the wrong shape": ({"x": X[:, :4]}, "cannot be computed on the training data"),
    "a generator": ({"x": endless(), "y": None}, "generator without `steps_per_epoch`"),
    "no callbacks": ({"callbacks": ["x"]}, "`callbacks` must be a list of callbacks"),
    "another backup": ({"callbacks": [keras.callbacks.BackupAndRestore("x")]}, "use `backup_dir=`"),
    "validation labels": ({"validation_data": (X, np.ones((48, 3)))}, r"on the validation data.*y of shape \(48, 3\)"),
    "split and validation data": ({"validation_split": 0.5, "validation_data": (X, Y)}, "exclude each other"),
    "a split of all": ({"validation_split": 1.0}, "`validation_split` must leave examples on both sides.*1.0"),
    "a split of a generator": ({"x": endless(), "y": None, "validation_split": 0.5}, "`validation_split` needs `x` and `y` as arrays"),
    "not compiled": ({"model": lambda: keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(2)])}, "must be compiled"),
    "subclassed": ({"model": subclassed}, "must be a Sequential or functional model"),
    "nothing can leave": ({"model": lambda: compiled(fenced())}, "No unit of the model can leave.* fence keeps 8 units"),
    "no model": ({"model": lambda: "x"}, "`model` must be a Keras model"),
    "several optimizers": (
        {"model": lambda: made(keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.Adam()))},
        "MultiOptimizer",
    ),
}
if not hasattr(keras.optimizers, "MultiOptimizer"):
    del REFUSED["several optimizers"]


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_before_any_training(kind):
    options, message = REFUSED[kind]
    options = {"macs": 0.5, "x": X, "y": Y, "epochs": 1, "verbose": 0, "batch_size": 8, "callbacks": [Trained()], **options}
    model = options.pop("model", made)()
    with pytest.raises((ValueError, TypeError), match=message):
        shrink(model, **options)
    assert not any(callback.begun for callback in options["callbacks"] if isinstance(callback, Trained))


def test_a_callback_that_stops_the_way_down():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.raises(RuntimeError, match=r"ended at a budget of 0.* before that of 0.5 was reached"):
        shrunk(made(), callbacks=[Stop()])


def test_a_transformer_of_keras_hub():
    from hub_backbones import backbones

    keras.utils.set_random_seed(0)
    backbone = backbones()["ViT"]()
    model = keras.Model(backbone.input, layers.Dense(2, "softmax")(layers.GlobalAveragePooling1D()(backbone.output)))
    compiled(model)
    images = RANDOM.normal(size=(4, 32, 32, 3)).astype("float32")
    small, report = shrunk(model, images, Y[:4], parameters=0.97, epochs=2, batch_size=4)
    assert report.parameters[1] <= 0.97 * report.parameters[0]
    assert report.blockers
    assert small.predict(images, verbose=0).shape == (4, 2)
