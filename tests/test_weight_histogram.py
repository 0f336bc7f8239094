"""What the callback writes and puts into `logs` is what happens to the weights, and training does not notice it."""

import csv
import os

import keras
import numpy as np
import pytest
from event_files import Events, check_histogram
from keras import layers, ops

from keras_reg.callbacks import WeightHistogram
from keras_reg.regularizers import L1, GroupLasso

random = np.random.default_rng(0)
X = random.normal(size=(40, 6)).astype("float32")
Y = (X @ random.normal(size=(6, 2))).astype("float32")


def build(optimizer="sgd", penalties=True, **compile_arguments):
    keras.utils.set_random_seed(0)
    first, last = (L1(0.02), GroupLasso(0.03, axis=-2)) if penalties else (None, None)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu", kernel_regularizer=first, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, kernel_regularizer=last, name="last"),
        ],
        name="net",
    )
    model.compile(optimizer, "mse", **compile_arguments)
    return model


def fit(model, *callbacks, **arguments):
    arguments = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, callbacks=list(callbacks), **arguments)


def values(variable):
    return np.array(ops.convert_to_numpy(variable))


def name_of(variable):
    """Without the name of the model."""
    return variable.path.split("/", 1)[1]


class Recorder(keras.callbacks.Callback):
    """What another callback sees after each batch and epoch."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append({name_of(variable): values(variable) for variable in self.model.weights})

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def test_every_step_is_the_weights_of_that_step(tmp_path):
    """Also on JAX, where the model holds no weights in mid-epoch unless asked."""
    model, recorder = build(), Recorder()
    before = {name_of(variable): values(variable) for variable in model.weights}
    fit(model, WeightHistogram(tmp_path, freq=1), recorder)
    events = Events(tmp_path / "weights")
    assert set(events.histograms) == {"first/kernel", "last/kernel"}
    seen = [before, *recorder.batches]
    for tag, steps in events.histograms.items():
        assert list(steps) == list(range(21))
        for step, rows in steps.items():
            check_histogram(rows, seen[step][tag])
            size = np.abs(seen[step][tag])
            scalars = {name: events.scalars[f"{tag}/{name}"][step] for name in ("l1_norm", "l2_norm", "near_zeros", "zeros")}
            np.testing.assert_allclose(
                list(scalars.values()), [size.sum(), np.linalg.norm(size), np.mean(size <= 1e-3), np.mean(size == 0)], rtol=1e-5
            )
    assert not np.array_equal(seen[3]["first/kernel"], seen[4]["first/kernel"])


def test_training_is_the_same_with_it(tmp_path):
    """To the last bit, with one compiled step, whatever is logged."""
    finals, histories = [], []
    for callbacks in ([], [WeightHistogram(tmp_path, freq=3, updates=True, gradients=(X, Y))]):
        model = build("adam", metrics=["mae"])
        histories.append(fit(model, *callbacks, validation_data=(X, Y)).history)
        finals.append(model.get_weights() + [values(variable) for variable in model.optimizer.variables])
    for plain, logged in zip(*finals, strict=True):
        np.testing.assert_array_equal(plain, logged)
    for name, numbers in histories[0].items():
        assert histories[1][name] == numbers, name


def test_the_training_step_is_compiled_once(tmp_path):
    traces = []

    class Counting(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            traces.append(1)
            return super().call(inputs, training=training, mask=mask)

    def run(*callbacks):
        model = Counting([keras.Input((6,)), layers.Dense(2, kernel_regularizer=L1(0.1))])
        model.compile("sgd", "mse")
        del traces[:]
        fit(model, *callbacks)
        return len(traces)

    assert run() == run(WeightHistogram(tmp_path, freq=1))


def test_all_weights_and_choices(tmp_path):
    model = build()
    kernels = {"first/kernel", "last/kernel"}
    paths = {name_of(variable) for variable in model.weights}
    last = {"last/kernel", "last/bias"}
    for index, (include, exclude, expected) in enumerate(
        [
            ("*", None, paths),
            (None, "first/*", {"last/kernel"}),
            (model.get_layer("last"), None, last),
            ([model.get_layer("last"), "*/gamma"], model.get_layer("last").bias, {"last/kernel", "norm/gamma"}),
            ("*", ["*/bias", "net/norm/*"], kernels),
        ]
    ):
        fit(model, WeightHistogram(tmp_path / str(index), include=include, exclude=exclude), epochs=1)
        assert set(Events(tmp_path / str(index) / "weights").histograms) == expected


def test_layers_with_several_weights(tmp_path):
    model = build()
    fit(model, WeightHistogram(tmp_path, include=["first/*", "last/kernel"]), epochs=1)
    scalars, last = Events(tmp_path / "weights").scalars, 10
    kernel, bias = (values(variable) for variable in model.get_layer("first").weights)
    found = {name: scalars[f"first/{name}"][last] for name in ("zeros", "near_zeros", "zero_groups", "l1_norm", "l2_norm", "penalty")}
    every = np.abs(np.concatenate([kernel.ravel(), bias]))
    penalty = 0.02 * np.abs(kernel).sum()
    right = [np.mean(every == 0), np.mean(every <= 1e-3), np.mean(np.all(kernel == 0, axis=0)), every.sum(), np.linalg.norm(every), penalty]
    np.testing.assert_allclose(list(found.values()), right, rtol=1e-5)
    assert "last/zeros" not in scalars  # the same as those of its one weight


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"include": "*/kernl"}, ValueError, r"`include` holds '\*/kernl', which no weight .* There are first/kernel, first/bias"),
        ({"exclude": "encoder/*"}, ValueError, "`exclude` holds 'encoder/"),
        ({"include": 3}, TypeError, "`include` must hold layer types, patterns .* Received: 3"),
        ({"exclude": "*"}, ValueError, "No weight is left .* has first/kernel"),
        ({"include": layers.Dense(1)}, ValueError, "`include` holds <Dense"),
    ],
)
def test_a_choice_that_means_nothing_is_an_error(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        fit(build(), WeightHistogram(tmp_path, **arguments), epochs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freq": "batch"}, "`freq` must be"),
        ({"freq": 0}, "`freq` must be"),
        ({"freq": True}, "`freq` must be"),
        ({"freq": "0 epochs"}, "`freq` must be"),
        ({"bins": 1}, "`bins` must be"),
        ({"bins": 2.5}, "`bins` must be"),
        ({"near_zero": -1}, "`near_zero` must be"),
        ({"gradients": X}, "`gradients` must be a batch"),
    ],
)
def test_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightHistogram(tmp_path, **arguments)


def test_epochs(tmp_path):
    fit(build(), WeightHistogram(tmp_path, freq="2 epochs", bins=10), epochs=5)
    events = Events(tmp_path / "weights")
    assert events.steps("first/kernel") == [0, 20, 40, 50]
    assert all(len(rows) <= 10 for rows in events.histograms["first/kernel"].values())


def test_steps_go_on(tmp_path):
    """Over several fits, through another compile, with several steps in one execution."""
    # Ten batches are executions of 3, 3, 3 and 1: the eighth is seen after the ninth. PyTorch has no such executions.
    together = keras.backend.backend() != "torch"
    model, callback = build(**({"steps_per_execution": 3} if together else {})), WeightHistogram(tmp_path, freq=8)
    expected = [0, 9 if together else 8, 10, 16, 20, 24, 30]
    for fits in (1, 2, 3):
        if fits == 3:
            model.compile("adam", "mse")
        fit(model, callback, epochs=1)
        assert Events(tmp_path / "weights").steps("first/kernel") == expected[: 1 + 2 * fits]


def test_a_resumed_run_takes_the_place_of_what_it_repeats(tmp_path):
    model = build()
    fit(model, WeightHistogram(tmp_path, freq=5), epochs=1)
    model.save(tmp_path / "at_10.keras")
    fit(model, WeightHistogram(tmp_path, freq=5), epochs=1)
    # The run broke off after step 20, and goes on from what was saved at 10.
    resumed = keras.models.load_model(tmp_path / "at_10.keras")
    fit(resumed, WeightHistogram(tmp_path, freq=4), epochs=1)
    events = Events(tmp_path / "weights")
    assert events.steps("first/kernel") == [0, 5, 10, 12, 16, 20]
    check_histogram(events.histograms["first/kernel"][20], resumed.get_layer("first").kernel)


def test_beside_backup_and_restore(tmp_path):
    """Which restores the weights after our `on_train_begin`."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(build(), WeightHistogram(tmp_path), keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt(), epochs=4)
    model = build()
    fit(model, WeightHistogram(tmp_path), keras.callbacks.BackupAndRestore(tmp_path / "backup"), epochs=4)
    events = Events(tmp_path / "weights")
    assert events.steps("first/kernel") == [0, 10, 20, 30, 40]
    check_histogram(events.histograms["first/kernel"][40], model.get_layer("first").kernel)


def test_logs(tmp_path):
    """The figures in `logs`, and the callbacks that live on them; `val_loss` is Keras's."""
    model, recorder = build(keras.optimizers.SGD(0.05)), Recorder()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_data_loss", mode="min", save_best_only=True)
    stop = keras.callbacks.EarlyStopping(monitor="near_zeros", mode="max", patience=1)
    table = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, WeightHistogram(tmp_path, freq=7), checkpoint, stop, table, recorder, validation_data=(X, Y), epochs=30).history
    logs = recorder.epochs[-1]
    kernels = np.concatenate([values(model.get_layer(name).kernel).ravel() for name in ("first", "last")])
    np.testing.assert_allclose(logs["l1_norm"], np.abs(kernels).sum(), rtol=1e-5)
    np.testing.assert_allclose(logs["l2_norm"], np.linalg.norm(kernels), rtol=1e-5)
    np.testing.assert_allclose(logs["near_zeros"], np.mean(np.abs(kernels) <= 1e-3), rtol=1e-6)
    penalty = sum(float(ops.convert_to_numpy(loss)) for loss in model.losses)
    np.testing.assert_allclose(logs["penalty"], penalty, rtol=1e-5)
    mse = np.mean((model.predict(X, verbose=0) - Y) ** 2)
    np.testing.assert_allclose(logs["val_data_loss"], mse, rtol=1e-4)
    np.testing.assert_allclose(logs["val_loss"], mse + penalty, rtol=1e-4)
    for name in ("zeros", "near_zeros", "zero_groups", "l1_norm", "l2_norm", "non_finite", "penalty", "data_loss", "val_data_loss"):
        assert len(history[name]) == len(recorder.epochs)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["penalty"]) for row in rows], history["penalty"])
    assert (tmp_path / "best.keras").exists()
    assert checkpoint.best == min(history["val_data_loss"])
    assert len(rows) < 30
    events = Events(tmp_path / "weights").scalars
    classes = [events[f"model/penalty/{name}"] for name in ("L1", "GroupLasso")]
    for step, total in events["model/penalty"].items():
        np.testing.assert_allclose(sum(steps[step] for steps in classes), total, rtol=1e-5)
    assert set(events["first/kernel/strength"].values()) == {np.float32(0.02).item()}
    np.testing.assert_allclose(events["first/kernel/penalty"][7], 0.02 * events["first/kernel/l1_norm"][7], rtol=1e-5)


def test_data_loss(tmp_path):
    """Off the mean loss of an epoch comes the mean penalty of that epoch."""
    model, recorder = build(keras.optimizers.SGD(0.005)), Recorder()

    class Exact(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.means, self.penalties = [], []

        def on_train_batch_begin(self, batch, logs=None):
            self.penalties.append(sum(float(ops.convert_to_numpy(loss)) for loss in self.model.losses))

        def on_epoch_end(self, epoch, logs=None):
            self.means.append(logs["loss"] - np.mean(self.penalties))
            self.penalties = []

    exact = Exact()
    fit(model, WeightHistogram(tmp_path, freq=1), recorder, exact, epochs=3)
    for logs, mean in zip(recorder.epochs, exact.means, strict=True):
        taken_off, expected = logs["loss"] - logs["data_loss"], logs["loss"] - mean
        # Half a step apart, as the penalty of a batch is that before its update; the last penalty is ten steps' change away.
        assert abs(taken_off - expected) < 0.4 * abs(logs["penalty"] - expected)


def test_exact_zeros_and_zero_groups(tmp_path):
    """Weights that stand still, so that what was set is found."""
    model, recorder = build(keras.optimizers.SGD(0.0)), Recorder()
    kernel = values(model.get_layer("last").kernel)
    kernel[1] = kernel[3] = kernel[0, 0] = 0
    model.get_layer("last").kernel.assign(kernel)
    fit(model, WeightHistogram(tmp_path, include="last/kernel"), recorder, epochs=1)
    assert recorder.epochs[0]["zeros"] == 0.5
    assert recorder.epochs[0]["zero_groups"] == 0.4
    np.testing.assert_allclose(recorder.epochs[0]["data_loss"], recorder.epochs[0]["loss"] - recorder.epochs[0]["penalty"], rtol=1e-5)
    # The penalty is that of the model, whatever is logged.
    assert recorder.epochs[0]["penalty"] > float(ops.convert_to_numpy(model.get_layer("last").kernel_regularizer(kernel)))


def test_updates(tmp_path):
    model, recorder = build(), Recorder()
    before = values(model.get_layer("first").kernel)
    fit(model, WeightHistogram(tmp_path, freq=5, updates=True), recorder, epochs=1)
    events = Events(tmp_path / "weights").histograms["first/kernel/update"]
    at = [before, *(batch["first/kernel"] for batch in recorder.batches)]
    assert list(events) == [5, 10]
    for step, rows in events.items():
        check_histogram(rows, at[step] - at[step - 5])


def test_gradients(tmp_path):
    """Of a linear model, against its formula; on the weights after the step, with the penalty, and with sample weights."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.1))])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    w = values(model.weights[0]).astype("float64")
    sample_weight = random.random(40)
    residual = X.astype("float64") @ w - Y
    for weight, batch in ((np.ones(40), (X, Y)), (sample_weight, (X, Y, sample_weight))):
        fit(model, WeightHistogram(tmp_path / str(len(batch)), gradients=batch), epochs=1)
        events = Events(tmp_path / str(len(batch)) / "weights").histograms
        gradient = X.T @ (residual * weight[:, None]) / 40 + 0.2 * w
        rows = events[f"{name_of(model.weights[0])}/gradient"][10]
        # Rounding may carry a value over an edge: the sums of the bins' places are compared, to a tenth of a bin.
        width = rows[0, 1] - rows[0, 0]
        edges = np.append(rows[:, 0], rows[-1, 1])
        np.testing.assert_allclose(rows[:, 2], np.histogram(gradient, edges)[0], atol=1)
        assert rows[0, 0] <= gradient.min() + width / 10
        assert rows[-1, 1] >= gradient.max() - width / 10
        assert rows[:, 2].sum() == 12


class Gates(layers.Layer):
    """Multiplies each feature by a gate that opens with a probability learnt."""

    def build(self, shape):
        self.logits = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.RandomNormal(stddev=2.0), name="logits")

    def open_probability(self):
        return ops.sigmoid(self.logits)

    def call(self, x):
        return x * self.open_probability()


def test_gates(tmp_path):
    inner = keras.Sequential([keras.Input((6,)), Gates(name="gates"), layers.Dense(4)], name="inner")
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(2)], name="net")
    model.compile("sgd", "mse")
    fit(model, WeightHistogram(tmp_path, gates=True), epochs=2)
    (tag,) = (tag for tag in Events(tmp_path / "weights").histograms if tag.endswith("open_probability"))
    assert tag == "inner/gates/open_probability"
    rows = Events(tmp_path / "weights").histograms[tag]
    assert sorted(rows) == [0, 10, 20]
    check_histogram(rows[20], 1 / (1 + np.exp(-values(inner.layers[0].logits).astype("float64"))))
    with pytest.raises(ValueError, match="open_probability"):
        fit(build(), WeightHistogram(tmp_path, gates=True))


def test_weights_that_are_not_finite(tmp_path):
    model = build(keras.optimizers.SGD(0.0))
    kernel = values(model.get_layer("first").kernel)
    kernel[0, :3] = np.nan, np.inf, -np.inf
    model.get_layer("first").kernel.assign(kernel)
    with pytest.warns(UserWarning, match=r"not finite at step 0: first/kernel \(1 NaN, 2 infinite\)") as warned:
        fit(model, WeightHistogram(tmp_path))
    assert len([warning for warning in warned if "not finite" in str(warning.message)]) == 1
    events = Events(tmp_path / "weights")
    check_histogram(events.histograms["first/kernel"][0], kernel[np.isfinite(kernel)])
    assert events.scalars["first/kernel/non_finite"][0] == events.scalars["model/non_finite"][0] == 3
    assert events.scalars["last/kernel/non_finite"][0] == 0
    assert events.steps("first/kernel") == [0, 10, 20]


def test_odd_models(tmp_path):
    """bfloat16, an embedding, a frozen layer, two layers of one name, and a model without an optimizer's counter."""

    class Odd(keras.Model):
        def __init__(self):
            super().__init__(name="odd")
            self.embed = layers.Embedding(7, 4, name="embed", embeddings_regularizer=L1(0.1), trainable=False)
            self.one = layers.Dense(4, name="same", dtype="bfloat16")
            self.two = layers.Dense(2, name="same")

        def call(self, inputs):
            return self.two(self.one(ops.mean(self.embed(inputs), axis=1)))

    model = Odd()
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="embed/embeddings: frozen"):
        model.fit(random.integers(0, 7, (8, 3)), np.zeros((8, 2)), callbacks=[WeightHistogram(tmp_path)], verbose=0)
    events = Events(tmp_path / "weights")
    assert len(events.histograms) == 3
    assert sorted(rows[max(rows)][:, 2].sum() for rows in events.histograms.values()) == [8, 16, 28]
    assert events.scalars["model/penalty"][1] == 0


def test_a_loop_of_ones_own(tmp_path):
    model = build()
    callbacks = keras.callbacks.CallbackList([WeightHistogram(tmp_path, freq=2)], model=model)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for batch in range(4):
        model.train_on_batch(X, Y)
        callbacks.on_train_batch_end(batch)
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()
    events = Events(tmp_path / "weights")
    assert events.steps("first/kernel") == [0, 2, 4]
    check_histogram(events.histograms["first/kernel"][4], model.get_layer("first").kernel)


def test_beside_keras_tensorboard(tmp_path):
    model = build()
    fit(model, keras.callbacks.TensorBoard(tmp_path, histogram_freq=1), WeightHistogram(tmp_path), validation_data=(X, Y))
    # Keras 3.12 gives weights of the same name in several layers one tag.
    runs = {name: Events(tmp_path / name, once=name != "train") for name in ("train", "validation", "weights")}
    assert set(os.listdir(tmp_path)) == set(runs)
    assert set(runs["train"].scalars) >= {"epoch_loss"}
    assert runs["weights"].steps("first/kernel") == [0, 10, 20]
