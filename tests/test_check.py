"""Each silent mistake is planted and found, in the model that has it and in no other."""

import functools
import warnings

import keras
import numpy as np
import pytest
from architectures import SMALL, data, functional
from keras import layers, ops

from keras_reg.callbacks import StrengthScheduler, TargetSparsity, WeightHistogram
from keras_reg.losses import LabelSmoothingCrossentropy, OnlineLabelSmoothingCrossentropy, label_smoothing_crossentropy
from keras_reg.models import attach, check
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, GroupLasso

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")


def model_with(optimizer="sgd", **arguments):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(5, activation="relu", name="hidden", **arguments)
    model = keras.Sequential([keras.Input((4,)), hidden, layers.BatchNormalization(name="norm"), layers.Dense(2, name="output")])
    model.compile(optimizer, "mse")
    return model


def found(model, batch=None):
    return {finding.kind: finding.weights for finding in check(model, batch).findings}


def on_the_layer():
    model = model_with()
    model.get_layer("hidden").kernel_regularizer = L1(0.1)
    return model


def on_the_weight():
    model = model_with()
    model.get_layer("hidden").kernel.regularizer = L1(0.1)
    return model


def of_another_strength():
    model = model_with(kernel_regularizer=L1(0.1))
    model.get_layer("hidden").kernel_regularizer = L1(0.2)
    return model


def half_of_a_layer():
    """One of two arguments arrived."""
    model = functional((5, 4), lambda x: layers.LSTM(3, kernel_regularizer=L1(0.1), name="lstm")(x))
    model.get_layer("lstm").cell.recurrent_regularizer = L1(0.1)
    return model


def frozen():
    model = model_with(kernel_regularizer=L1(0.1))
    model.get_layer("hidden").trainable = False
    return model


def on_a_sublayer():
    model = functional((5, 4), lambda x: layers.MultiHeadAttention(2, 3, name="attention")(x, x))
    model.get_layer("attention").query_dense.kernel.regularizer = L1(0.1)
    return model


def built_with_adam():
    model = model_with("adam", kernel_regularizer=L1(0.1, proximal=True))
    with pytest.warns(UserWarning, match="no optimizer applies its prox"):
        model.fit(X, Y, verbose=0)
    return model


PLANTED = {
    "on the layer": (on_the_layer, {"inactive": ("hidden/kernel",)}),
    "on half of the layer": (half_of_a_layer, {"inactive": ("lstm/lstm_cell/recurrent_kernel",)}),
    "on the weight": (on_the_weight, {"lost": ("hidden/kernel",)}),
    "on the weight of a sublayer": (on_a_sublayer, {"lost": ("attention/query/kernel",)}),
    "another one on the layer": (of_another_strength, {"lost": ("hidden/kernel",)}),
    "frozen": (frozen, {"frozen": ("hidden/kernel",)}),
    "the string l1l2": (lambda: model_with(kernel_regularizer="l1l2"), {"no-op": ("hidden/kernel",)}),
    "strength 0": (lambda: model_with(kernel_regularizer=GroupLasso(0.0)), {"no-op": ("hidden/kernel",)}),
    "prox under SGD": (lambda: model_with(kernel_regularizer=L1(0.1, proximal=True)), {"unapplied": ("hidden/kernel",)}),
    "prox under Adam, trained": (built_with_adam, {"unapplied": ("hidden/kernel",)}),
    "bias": (lambda: model_with(bias_regularizer=L1(0.1)), {"bias": ("hidden/bias",)}),
    "L2 under Adam": (lambda: model_with("adam", kernel_regularizer=L2(0.1)), {"adam-l2": ("hidden/kernel",)}),
    "Keras's L2 under Nadam": (lambda: model_with("nadam", kernel_regularizer="l2"), {"adam-l2": ("hidden/kernel",)}),
    "L2 and decay": (
        lambda: model_with(keras.optimizers.AdamW(weight_decay=0.1), kernel_regularizer=L2(0.1)),
        {"decay-l2": ("hidden/kernel",)},
    ),
    "L2 and decay under LossScale": (
        lambda: model_with(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(weight_decay=0.1)), kernel_regularizer=L2(0.1)),
        {"decay-l2": ("hidden/kernel",)},
    ),
}


def scale_of_a_normalization():
    model = model_with()
    attach(model, L1(0.1), weights="gamma")
    return model


PLANTED["normalization"] = (scale_of_a_normalization, {"normalization": ("norm/gamma",)})
CLEAN = {
    "nothing": lambda: model_with("adam"),
    "L1 under Adam": lambda: model_with("adam", kernel_regularizer=L1(0.1)),
    "L2 under SGD": lambda: model_with(kernel_regularizer=L2(0.1)),
    "L2 by the prox, under Adam": lambda: model_with(Proximal("adam"), kernel_regularizer=L2(0.1, proximal=True)),
    "weight decay alone": lambda: model_with(keras.optimizers.AdamW(weight_decay=0.1), kernel_regularizer=L1(0.1)),
    "an activity": lambda: model_with(activity_regularizer=L1(0.1)),
    "not compiled": lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2, kernel_regularizer=L1(0.1, proximal=True))]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(name):
    make, expected = PLANTED[name]
    model = make()
    before = [np.array(ops.convert_to_numpy(v)) for v in model.weights]
    report = check(model)
    assert {finding.kind: finding.weights for finding in report.findings} == expected
    (kind,), (finding,) = expected, report.findings
    assert finding.remedy in str(report)
    assert expected[kind][0] in str(report)
    assert finding.message in str(report)
    assert expected[kind][0] in report._repr_html_()
    with pytest.raises(ValueError, match=expected[kind][0]):
        report.raise_if_any()
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(b))


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_meant_is_left_alone(name):
    report = check(CLEAN[name]())
    assert not report, report
    report.raise_if_any()
    assert "nothing found" in str(report)
    assert "nothing found" in report._repr_html_()


@pytest.mark.parametrize("name", ["dense", "text", "own layers", "subclassed", "functional subclass", "BERT-like"])
def test_models_without_penalties_are_clean(name):
    """With penalties they are as well: see test_attach.py."""
    check(SMALL[name]()).raise_if_any()


def test_what_was_found_is_mended_as_it_says():
    model = on_the_weight()
    attach(model, L1(0.1), include="hidden")
    check(model).raise_if_any()
    assert model.get_layer("hidden").kernel_regularizer is model.get_layer("hidden").kernel.regularizer
    model = on_the_layer()
    attach(model, L1(0.1), include="hidden")
    check(model).raise_if_any()
    assert len(model.losses) == 1


def test_strengths_that_an_optimizer_moves_are_no_mistake():
    model = model_with(Proximal("sgd"), kernel_regularizer=L1(0.1, proximal=True))
    model.fit(X, Y, verbose=0, callbacks=[StrengthScheduler(lambda epoch: 0.3)])
    assert model.optimizer.strengths != {}
    check(model).raise_if_any()
    model = model_with(kernel_regularizer=L1(0.1))
    model.fit(X, Y, verbose=0, callbacks=[StrengthScheduler(lambda epoch: 0.3)])
    check(model).raise_if_any()


@keras.saving.register_keras_serializable("tests")
class AddsItsPenaltyItself(layers.Dense):
    def call(self, x):
        self.add_loss(L1(0.1)(self.kernel))
        return super().call(x)


def test_a_penalty_that_is_there_twice():
    model = functional((4,), lambda x: AddsItsPenaltyItself(2, kernel_regularizer=L1(0.1), name="both")(x))
    model.compile("sgd", "mse")
    assert found(model, (X, 10 * Y)) == {"twice": ("both/kernel",)}
    model = functional((4,), lambda x: AddsItsPenaltyItself(2, name="once")(x))
    model.compile("sgd", "mse")
    check(model, (X, 10 * Y)).raise_if_any()


def test_penalties_larger_than_the_loss_and_nothing_changed():
    model = model_with(kernel_regularizer=L1(100.0))
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(X, Y, verbose=0)
    state = [np.array(ops.convert_to_numpy(v)) for v in [*model.variables, *model.metrics_variables, *model.optimizer.variables]]
    (finding,) = check(model, (X, Y, np.ones(8))).findings
    assert finding.kind == "large"
    expected = 100 * np.abs(model.get_weights()[0]).sum()
    data_loss = model.evaluate(X, Y, verbose=0)[0] - expected
    assert f"{expected:.3g}" in finding.message
    assert f"{data_loss:.3g}" in finding.message
    model.fit(X, Y, verbose=0)
    for a, b in zip(state[: len(model.variables)], model.variables, strict=False):
        assert a.shape == tuple(b.shape)
    model = model_with(kernel_regularizer=L1(1e-4))
    state = [np.array(ops.convert_to_numpy(v)) for v in [*model.variables, *model.metrics_variables]]
    check(model, (X, Y)).raise_if_any()
    for a, b in zip(state, [*model.variables, *model.metrics_variables], strict=True):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(b))


def test_a_model_that_keras_cannot_rebuild():
    """There only what the layers themselves tell is known."""

    class Own(keras.Model):
        def __init__(self, function):
            super().__init__()
            self.function, self.dense = function, layers.Dense(2, kernel_regularizer=L1(0.1), name="dense")

        def call(self, x):
            return self.function(self.dense(x))

    model = Own(ops.tanh)
    model(X)
    check(model).raise_if_any()
    model.dense.kernel.regularizer = None
    assert found(model) == {"inactive": ("dense/kernel",)}
    model.dense.kernel_regularizer, model.dense.kernel.regularizer = None, L1(0.1)
    assert found(model) == {"lost": ("dense/kernel",)}


@pytest.mark.parametrize(
    "callback",
    [lambda folder: WeightHistogram(folder), lambda folder: StrengthScheduler(lambda epoch: 0.1)],
    ids=["WeightHistogram", "StrengthScheduler"],
)
def test_callbacks_warn_once_of_what_does_nothing(tmp_path, callback):
    model = model_with(kernel_regularizer=L1(0.1))
    model.get_layer("output").kernel_regularizer = L1(0.1)
    with pytest.warns(UserWarning, match=r"not what they seem.*\noutput/kernel: on the layer, not on the weight.*`attach") as caught:
        model.fit(X, Y, verbose=0, callbacks=[callback(tmp_path)])
    assert len([warning for warning in caught if "not what they seem" in str(warning.message)]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The penalties")
        model.fit(X, Y, verbose=0, callbacks=[callback(tmp_path)])


def test_callbacks_are_silent_where_nothing_is_the_matter(tmp_path):
    """And of what only may not have been meant."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = model_with(Proximal("adam"), kernel_regularizer=L1(0.1, proximal=True), bias_regularizer="l2")
        model.fit(X, Y, verbose=0, callbacks=[WeightHistogram(tmp_path), TargetSparsity(0.5, 2)])
        model.fit(X, Y, verbose=0, callbacks=[StrengthScheduler(lambda epoch: 0.0)])
        model = SMALL["subclassed"]()
        attach(model, L1(1e-4))
        model.compile("sgd", "mse")
        x, y = data(model)
        model.fit(x, y, verbose=0, callbacks=[WeightHistogram(tmp_path)])
    assert not [str(warning.message) for warning in caught if "not what they seem" in str(warning.message)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "Argument `model` must be a Keras model"),
        ((model_with(), X), ValueError, r"Argument `batch` must be \(x, y\)"),
        ((keras.Sequential([keras.Input((4,)), layers.Dense(2)]), (X, Y)), ValueError, "Argument `batch` needs a compiled model"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        check(*arguments)


CE, SPARSE, BINARY = keras.losses.CategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy
FALSE, TRUE = "not-probabilities", "not-logits"


def classifier(*ending, kind="functional"):
    """A model that ends so, after a hidden layer."""
    hidden = layers.Dense(4, activation="relu")
    if kind == "sequential":
        return keras.Sequential([keras.Input((4,)), hidden, *ending])
    if kind == "unbuilt":
        return keras.Sequential([hidden, *ending])
    if kind == "subclassed":
        return Layered(hidden, *ending)
    return functional((4,), lambda x: through(hidden(x), ending))


def through(x, steps):
    for step in steps:
        x = step(x)
    return x


class Layered(keras.Model):
    def __init__(self, *steps):
        super().__init__()
        self.steps = list(steps)

    def call(self, x):
        return through(x, self.steps)


def last(activation=None):
    return layers.Dense(3, activation=activation, name="last")


def nested():
    return keras.Sequential([keras.Input((4,)), last("softmax")], name="inner")


class OwnDense(layers.Dense):
    """Who subclasses may do anything after the activation."""

    def call(self, x):
        return ops.softmax(super().call(x))


OUTPUTS = {
    "linear": ([last()], {False}),
    "softmax": ([last("softmax")], {True}),
    "sigmoid": ([last("sigmoid")], {True}),
    "log-softmax": ([last("log_softmax")], {False}),
    "its own layer": ([last(), layers.Softmax()], {True}),
    "an Activation": ([last(), layers.Activation("softmax")], {True}),
    "a linear Activation": ([last("softmax"), layers.Activation("linear")], {True}),
    "reshaped": ([last(), layers.Softmax(), layers.Reshape((3, 1)), layers.Reshape((3,))], {True}),
    "nested": ([nested()], {True}),
    "at every time": ([layers.Reshape((2, 2)), layers.TimeDistributed(last("softmax"))], {True}),
    "convolution": ([layers.Reshape((4, 1)), layers.Conv1D(3, 2, name="last")], {False}),
    "ops.softmax": ([last(), ops.softmax], {True}),
    "keras.activations.softmax": ([last(), keras.activations.softmax], {True}),
    "ops.reshape": ([last(), lambda x: ops.reshape(x, (-1, 3))], {False}),
    "a layer of the user's": ([OwnDense(3, name="last")], set()),
    "a function of the user's": ([layers.Dense(3, activation=lambda x: ops.softmax(x))], set()),
    "unknown arithmetic": ([last(), lambda x: x * 2], set()),
    "a sum": ([lambda x: last()(x) + layers.Dense(3)(x)], set()),
    "recurrent": ([layers.Reshape((2, 2)), layers.LSTM(3)], set()),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_crossentropy_and_the_end_of_a_model(name):
    ending, wrong = OUTPUTS[name]
    model = classifier(*ending)
    for from_logits in (False, True):
        model.compile("sgd", CE(from_logits=from_logits))
        (finding,) = check(model).findings or (None,)
        assert (finding is not None) == (from_logits in wrong)
        if finding is not None:
            assert finding.kind == (TRUE if from_logits else FALSE)
            assert finding.sure
            assert f"from_logits={from_logits}" in finding.message
            assert f"from_logits={not from_logits}" in finding.remedy
            assert finding.message in str(check(model))


LOSSES = {
    "the string": ("categorical_crossentropy", False),
    "the string of a class": ("CategoricalCrossentropy", False),
    "the string sparse": ("sparse_categorical_crossentropy", False),
    "the string crossentropy": ("crossentropy", False),
    "the function": (keras.losses.categorical_crossentropy, False),
    "a partial": (functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True), True),
    "sparse": (SPARSE(from_logits=True), True),
    "sparse from probabilities": (SPARSE(), False),
    "binary": (BINARY(from_logits=True), True),
    "the string binary": ("binary_crossentropy", False),
    "binary focal": (keras.losses.BinaryFocalCrossentropy(from_logits=True), True),
    "the string binary focal": ("binary_focal_crossentropy", False),
    "focal": (keras.losses.CategoricalFocalCrossentropy(from_logits=True), True),
    "ours": (LabelSmoothingCrossentropy(from_logits=True), True),
    "ours from probabilities": (LabelSmoothingCrossentropy(), False),
    "our function": (label_smoothing_crossentropy, False),
    "ours, online": (OnlineLabelSmoothingCrossentropy(3, from_logits=True), True),
    "none": ("mse", None),
    "own": (lambda y_true, y_pred: ops.mean(y_pred, axis=-1), None),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_crossentropy(name):
    loss, from_logits = LOSSES[name]
    softmax, linear = classifier(last("softmax")), classifier(last())
    for model in (softmax, linear):
        model.compile("sgd", loss)
    assert found(softmax).keys() == ({TRUE} if from_logits else set())
    assert found(linear).keys() == ({FALSE} if from_logits is False else set())


@pytest.mark.filterwarnings("ignore:.* received `from_logits=True`:UserWarning")  # Keras's own, on TensorFlow
@pytest.mark.parametrize("kind", ["functional", "sequential", "unbuilt", "subclassed"])
@pytest.mark.parametrize("with_batch", [False, True])
def test_kinds_of_models(kind, with_batch):
    """Of a subclassed model nobody knows before its outputs are there."""
    y = np.eye(3, dtype="float32")[np.arange(8) % 3]
    for activation, from_logits, expected in ((None, False, FALSE), ("softmax", True, TRUE), (None, True, None), ("softmax", False, None)):
        model = classifier(last(activation), kind=kind)
        model.compile("sgd", CE(from_logits=from_logits))
        report = check(model, (X, y) if with_batch else None)
        known = expected is not None and (kind != "subclassed" or with_batch)
        assert [finding.kind for finding in report.findings] == ([expected] if known else [])
        assert all(finding.sure for finding in report.findings)


@pytest.mark.filterwarnings("ignore:.* received `from_logits=True`:UserWarning")  # Keras's own, on TensorFlow
@pytest.mark.parametrize(
    ("function", "loss", "kind", "sure"),
    [
        (ops.softmax, CE(from_logits=True), TRUE, True),
        (ops.softmax, CE(), None, None),
        (ops.sigmoid, CE(), FALSE, False),  # which Keras scales to sum to 1
        (ops.softplus, CE(), FALSE, False),
        (lambda x: x - 5.0, CE(), FALSE, True),
        (lambda x: x - 5.0, CE(from_logits=True), None, None),
        (ops.sigmoid, BINARY(from_logits=True), TRUE, False),  # logits may lie there too
        (ops.sigmoid, BINARY(), None, None),
        (lambda x: 3 + ops.sigmoid(x), BINARY(), FALSE, True),
        (lambda x: x * np.nan, CE(), None, None),
    ],
)
def test_a_batch_tells_what_layers_do_not(function, loss, kind, sure):
    model = classifier(last(), function, kind="subclassed")
    model.compile("sgd", loss)
    findings = check(model, (X, np.eye(3, dtype="float32")[np.arange(8) % 3])).findings
    assert [(finding.kind, finding.sure) for finding in findings] == ([] if kind is None else [(kind, sure)])


@pytest.mark.filterwarnings("ignore:.* received `from_logits=True`:UserWarning")  # Keras's own, on TensorFlow
def test_each_of_several_outputs():
    inputs = keras.Input((4,))
    first, second = layers.Dense(3, name="a")(inputs), layers.Dense(1, activation="sigmoid", name="b")(inputs)
    y = {"a": np.zeros(8, "int32"), "b": np.ones((8, 1), "float32")}
    right, wrong = SPARSE(from_logits=True), SPARSE()
    both = {"the activation of the last layer, 'a', is linear", "the activation of the last layer, 'b', is sigmoid"}
    for outputs in ([first, second], {"a": first, "b": second}):
        model = keras.Model(inputs, outputs)
        for losses, expected in (
            ([wrong, "mse"] if isinstance(outputs, list) else {"a": wrong}, {FALSE}),
            ({"a": wrong, "b": BINARY(from_logits=True)}, {FALSE, TRUE}),
            ({"a": right, "b": "binary_crossentropy"}, set()),
            ({"b": BINARY(from_logits=True)} if isinstance(outputs, dict) else [None, BINARY(from_logits=True)], {TRUE}),
        ):
            model.compile("sgd", losses)
            for report in (check(model), check(model, (X, y if isinstance(outputs, dict) else list(y.values())))):
                assert {finding.kind for finding in report.findings} == expected
                assert all(any(text in finding.message for text in both) for finding in report.findings)


def test_a_proximal_penalty_on_activities_is_named():
    model = model_with(Proximal("sgd"), activity_regularizer=L1(0.1, proximal=True), kernel_regularizer=L1(0.1, proximal=True))
    (finding,) = check(model).findings
    assert (finding.kind, finding.weights, finding.sure) == ("activity", ("hidden",), True)
    assert "a prox is for weights" in finding.message


class Unregistered(L1):
    pass


def test_a_penalty_that_keras_does_not_know_is_found():
    """No saved model with it can be loaded."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")])
    with pytest.warns(UserWarning, match="Unregistered is not registered with Keras"):
        attach(model, Unregistered(0.1))
    assert [(finding.kind, finding.weights) for finding in check(model).findings] == [("unregistered", ("hidden/kernel",))]
    with pytest.raises(ValueError, match="Unregistered is not registered with Keras"):
        attach(model, [Unregistered(0.1), L2(0.1)], replace=True)
    with keras.saving.custom_object_scope({"Unregistered": Unregistered}):
        assert not check(model).findings


class OfItsOwn(layers.Layer):
    """A layer that makes one itself, which is rebuilt to look at it."""

    def __init__(self, **named):
        super().__init__(**named)
        self.dense = layers.Dense(3, kernel_regularizer=L1(0.1))

    def call(self, x):
        return self.dense(x)


def test_names_that_keras_counts_go_on_as_if_nothing_had_been_looked_at():
    model = keras.Sequential([keras.Input((4,)), OfItsOwn()])
    before = layers.Dense(1).name
    check(model)
    assert int(layers.Dense(1).name.split("_")[-1]) == int(before.split("_")[-1]) + 1
