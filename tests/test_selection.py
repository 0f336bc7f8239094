"""Choosing strengths: paths against those of scikit-learn and skglm, what is kept of them, folds, and what is refused."""

import csv
import json

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.linear_model import LogisticRegression, enet_path, lasso_path
from sklearn.model_selection import KFold

from keras_reg.models import sparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L1L2, GroupLasso, L0Constraint, StructuralGroupLasso
from keras_reg.selection import regularization_path, strength_max

BACKEND = keras.backend.backend()
SAMPLES, FEATURES, COPIES = 120, 12, 20


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(SAMPLES, FEATURES)) + 0.3
    return x, x[:, :4] @ [3.0, -2.0, 1.0, 0.5] + 1.0 + 0.5 * generator.normal(size=SAMPLES)


X, Y = data()
LABELS = (Y.mean() < Y).astype("int32")
GRID = [2.0, 0.5, 0.1, 0.02]
CLASSES = np.digitize(Y, np.quantile(Y, [0.33, 0.67]))
STATED = {"epochs": 4, "batch_size": 40, "verbose": 0, "seed": 3, "validation_data": (X[:60], Y[:60])}


def linear(penalty, loss="mse", units=1, optimizer=None, metrics=()):
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(units, kernel_regularizer=penalty)])
    quick = {} if BACKEND == "torch" else {"steps_per_execution": COPIES}
    model.compile(Proximal(optimizer or keras.optimizers.SGD(0.1, momentum=0.5)), loss, metrics=list(metrics), **quick)
    return model


def small(optimizer="adam", **options):
    """Two layers, of which the first has a penalty."""
    hidden = layers.Dense(4, activation="relu", kernel_regularizer=GroupLasso(1e-3, axis=-2, proximal=True))
    model = keras.Sequential([keras.Input((FEATURES,)), hidden, layers.Dense(1)])
    model.compile(Proximal(optimizer), "mse", **options)
    return model


def converged(model, y, strengths, steps=400, **options):
    """A path of full-batch steps, many to an epoch."""
    copies = np.tile(X, (COPIES, 1)), np.concatenate([y] * COPIES)
    return regularization_path(
        model, *copies, strengths, epochs=steps // COPIES, batch_size=SAMPLES, shuffle=False, verbose=0, direction="auto", **options
    )


BINARY = keras.losses.BinaryCrossentropy(from_logits=True)
CENTRED = X - X.mean(axis=0)


def softmax_groups():
    share = np.eye(3)[CLASSES] - np.eye(3)[CLASSES].mean(axis=0)
    return max(np.linalg.norm(X.T @ share / SAMPLES, axis=1)) / np.sqrt(3)


LARGEST = {
    "lasso": (L1(0.1), "mse", Y, 1, 2 * max(abs(CENTRED.T @ (Y - Y.mean()))) / SAMPLES),
    "elastic net": (L1L2(0.3, 0.1), "mse", Y, 1, 2 * max(abs(CENTRED.T @ (Y - Y.mean()))) / SAMPLES / 0.75),
    "logistic": (L1(0.1), BINARY, LABELS, 1, max(abs(X.T @ (LABELS - LABELS.mean()))) / SAMPLES),
    "groups": (GroupLasso(0.1, axis=-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), CLASSES, 3, softmax_groups()),
}


@pytest.mark.parametrize("name", LARGEST)
def test_strength_max(name):
    penalty, loss, y, units, expected = LARGEST[name]
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(units, kernel_regularizer=penalty, name="only")])
    model.compile("sgd", loss)
    before = model.get_weights()
    found = strength_max(model, X, y, batch_size=50)
    assert float(found) == found.strength == pytest.approx(expected, rel=1e-6)
    assert list(found.weights.values()) == [found.strength]
    assert model.layers[0].kernel_regularizer.get_config() == penalty.get_config()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_strength_max_with_weights_of_examples_and_classes():
    weights = np.linspace(0.5, 2, SAMPLES)
    both = weights * np.where(LABELS == 1, 3.0, 1.0)
    mean = both @ LABELS / both.sum()
    expected = max(abs(X.T @ (both * (LABELS - mean)))) / SAMPLES
    found = strength_max(linear(L1(0.1, proximal=True), BINARY), X, LABELS, sample_weight=weights, class_weight={1: 3.0})
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_strength_max_of_several_layers():
    """The layer that comes first is looked at with the other as it is, and both by one number."""
    penalties = L1(0.2, proximal=True), L1(0.1, proximal=True)
    model = keras.Sequential(
        [keras.Input((FEATURES,)), *(layers.Dense(n, kernel_regularizer=p) for n, p in zip((4, 1), penalties, strict=True))]
    )
    model.compile(Proximal("sgd"), "mse")
    found = strength_max(model, X, Y)
    second = model.get_weights()[2]
    assert found.weights[model.layers[0].kernel.path] == pytest.approx(2 * np.max(abs(X.T @ (Y[:, None]) @ second.T)) / SAMPLES, rel=1e-5)
    assert found.strength == pytest.approx(max(w / r for w, r in zip(found.weights.values(), (1.0, 0.5), strict=True)))


def test_lasso_path():
    path = converged(linear(L1(0.1, proximal=True)), Y, 5, eps=0.03)
    _, expected, _ = lasso_path(CENTRED, Y - Y.mean(), alphas=[p.strength / 2 for p in path], tol=1e-12)
    assert path[0].nonzero == 0
    assert [p.strength for p in path] == sorted((p.strength for p in path), reverse=True)
    np.testing.assert_allclose(path[0].strength, 2 * max(abs(CENTRED.T @ (Y - Y.mean()))) / SAMPLES, rtol=2e-5)
    assert_equal_paths(path.coefficients[..., 0], expected.T)


def assert_equal_paths(found, expected):
    np.testing.assert_array_equal(found != 0, expected != 0)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= 1e-3 * np.abs(other).max()
    assert np.count_nonzero(expected.any(axis=0)) > 1
    assert np.count_nonzero(expected[1]) < FEATURES


def test_elastic_net_path():
    """`l1 * |w| + l2 * w²` beside the mean square is twice scikit-learn's, whose squares all have a factor 1/2."""
    path = converged(linear(L1L2(0.3, 0.1, proximal=True)), Y, [3.0, 1.0, 0.3])
    expected = [enet_path(CENTRED, Y - Y.mean(), l1_ratio=0.6, alphas=[s * (0.75 / 2 + 0.25)], tol=1e-12)[1][:, 0] for s in (3.0, 1.0, 0.3)]
    assert_equal_paths(path.coefficients[..., 0], np.array(expected))


def test_logistic_path():
    strengths = [0.2, 0.1, 0.05]
    path = converged(linear(L1(0.1, proximal=True), BINARY, optimizer=keras.optimizers.SGD(0.4, momentum=0.9)), LABELS, strengths)
    l1 = {"l1_ratio": 1.0} if LogisticRegression().penalty != "l2" else {"penalty": "l1"}
    fits = [LogisticRegression(**l1, solver="saga", C=1 / (s * SAMPLES), tol=1e-10, max_iter=100_000).fit(X, LABELS) for s in strengths]
    assert_equal_paths(path.coefficients[..., 0], np.array([fit.coef_[0] for fit in fits]))


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch's steps are not compiled.")
def test_nothing_is_compiled_between_strengths():
    """A loss is traced as often for four strengths as for one, in training and evaluation."""
    traced = []

    def loss(y, outputs):
        traced.append(1)
        return keras.ops.mean(keras.ops.square(y - outputs), axis=-1)

    counts = []
    for strengths in ([0.1], [0.4, 0.3, 0.2, 0.1]):
        traced.clear()
        regularization_path(_with_loss(loss), X, Y, strengths, **STATED)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


def _with_loss(loss):
    model = small()
    model.compile(Proximal("adam"), loss)
    return model


class Fits(keras.callbacks.Callback):
    """Counts the fits, and ends the run in one of them as a kill would."""

    def __init__(self, last=None):
        super().__init__()
        self.count, self.last = 0, last

    def on_train_begin(self, logs=None):
        self.count += 1

    def on_epoch_end(self, epoch, logs=None):
        if self.count == self.last:
            raise KeyboardInterrupt


def test_a_path_goes_on_where_it_was_broken_off(tmp_path):
    strengths, model = [0.01, 0.1, 1.0], small()
    # With a callback in all of them: for its sake the validation data are looked at, and PyTorch's loaders draw random numbers then.
    whole = regularization_path(model, X, Y, strengths, callbacks=[Fits()], **STATED)
    with pytest.raises(KeyboardInterrupt):
        regularization_path(model, X, Y, strengths, folder=tmp_path / "path", callbacks=[Fits(last=3)], **STATED)
    fits = Fits()
    path = regularization_path(model, X, Y, strengths, folder=tmp_path / "path", callbacks=[fits], **STATED)
    assert fits.count == 1
    for one, other in zip(whole, path, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)
        for a, b in zip(one.weights, other.weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    fits = Fits()
    regularization_path(small(), X, Y, strengths, folder=tmp_path / "path", callbacks=[fits], **STATED)
    assert fits.count == 0
    with pytest.raises(ValueError, match=r"folder.*seed=3"):
        regularization_path(model, X, Y, strengths, folder=tmp_path / "path", **{**STATED, "seed": 4})
    with pytest.raises(ValueError, match=r"folder.*data="):
        regularization_path(model, -X, Y, strengths, folder=tmp_path / "path", **STATED)
    # What people read.
    about = json.loads((tmp_path / "path" / "path.json").read_text())
    assert about["strengths"] == strengths
    point = json.loads((tmp_path / "path" / "all" / "001.json").read_text())
    assert point["strength"] == 0.1
    assert point["scores"]["loss"] == path[1].scores["loss"]
    rows = list(csv.DictReader((tmp_path / "path" / "path.csv").read_text().splitlines()))
    assert [float(row["strength"]) for row in rows] == strengths
    assert [int(row["nonzero"]) for row in rows] == [p.nonzero for p in path]


@pytest.fixture(scope="module")
def chosen():
    """A path with folds, which nothing below changes."""
    keras.utils.set_random_seed(0)
    model = linear(L1(0.1, proximal=True), metrics=["mae"])
    return model, regularization_path(model, X, Y, GRID, cv=2, epochs=10, batch_size=40, verbose=0, seed=0)


def test_folds(chosen):
    """Means and standard errors over folds, each trained without what it is judged by."""
    model, path = chosen
    scores = []
    for train, held in KFold(2, shuffle=True, random_state=0).split(X):
        one = regularization_path(
            model,
            X[train],
            Y[train],
            [2.0, 0.5, 0.1, 0.02],
            validation_data=(X[held], Y[held]),
            epochs=10,
            batch_size=40,
            verbose=0,
            seed=0,
        )
        scores.append([point.scores["loss"] for point in one])
        outputs = one.model(0.1).predict(X[held], verbose=0)[:, 0]
        assert one.at(0.1).scores["loss"] == pytest.approx(np.mean((outputs - Y[held]) ** 2), rel=1e-4)
        assert one.at(0.1).scores["mae"] == pytest.approx(np.mean(abs(outputs - Y[held])), rel=1e-4)
    np.testing.assert_allclose([p.scores["loss"] for p in path], np.mean(scores, axis=0), rtol=1e-4)
    np.testing.assert_allclose([p.errors["loss"] for p in path], np.std(scores, axis=0, ddof=1) / np.sqrt(2), rtol=1e-3)


def test_choosing(chosen):
    _, path = chosen
    best, sparser = path.best(), path.best(one_se=True)
    losses = [p.scores["loss"] for p in path]
    assert best.scores["loss"] == min(losses)
    assert sparser.strength == max(p.strength for p in path if p.scores["loss"] <= min(losses) + best.errors["loss"])
    assert len(path) == 4
    assert path.at(0.45).strength == 0.5
    text = str(path)
    assert text.count("best") == text.count("1se") == 1
    assert path._repr_html_().count("<tr>") == 5


def test_the_model_and_refitting(chosen):
    model, path = chosen
    mine = path.model(0.5)
    np.testing.assert_array_equal(mine.get_weights()[0], path.at(0.5).weights[0])
    assert mine.layers[0].kernel.regularizer.strength == 0.5
    again = path.refit(X, Y, strength=0.5, epochs=60, batch_size=SAMPLES, verbose=0)
    zero = path.at(0.5).weights[0] == 0
    assert zero.any()
    np.testing.assert_array_equal(again.get_weights()[0] == 0, zero)
    kept = np.flatnonzero(~zero[:, 0])
    expected = np.linalg.lstsq(np.column_stack([X[:, kept], np.ones(SAMPLES)]), Y, rcond=None)[0]
    np.testing.assert_allclose(again.get_weights()[0][kept, 0], expected[:-1], rtol=1e-2)
    assert sparsity(again).total.penalty is None
    assert model.layers[0].kernel_regularizer.strength == 0.1


def test_pictures(chosen):
    _, path = chosen
    scores, by_size, lines = path.plot(), path.plot(against="nonzero"), path.plot_coefficients()
    assert scores.axes[0].get_xscale() == "log"
    assert "loss" in scores.axes[0].get_ylabel()
    assert len(scores.axes[0].get_legend().get_texts()) == 2
    assert "not zero" in by_size.axes[0].get_xlabel()
    drawn = np.array([line.get_ydata() for line in lines.axes[0].get_lines()[:FEATURES]])
    np.testing.assert_array_equal(drawn, path.coefficients[..., 0].T)


def test_standard_errors_of_validation_data():
    """Of the mean over examples, estimated from parts of them."""
    x, y = np.tile(X, (8, 1)), np.tile(Y, 8) + np.random.default_rng(1).normal(size=8 * SAMPLES)
    path = regularization_path(linear(L1(0.1, proximal=True)), X, Y, [0.1], validation_data=(x, y), epochs=5, batch_size=8, verbose=0)
    squares = (path.model(0.1).predict(x, verbose=0)[:, 0] - y) ** 2
    assert path[0].scores["loss"] == pytest.approx(squares.mean(), rel=1e-4)
    assert path[0].errors["loss"] == pytest.approx(squares.std() / np.sqrt(len(y)), rel=0.3)


def test_what_fit_takes_passes_through():
    seen = []
    model = small(metrics=["mae"])
    counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs)))
    path = regularization_path(
        model,
        X,
        Y,
        [0.1, 0.2],
        validation_split=0.25,
        epochs=3,
        batch_size=16,
        callbacks=[counting],
        sample_weight=np.ones(SAMPLES),
        verbose=0,
    )
    assert len(seen) == 6
    assert {"val_loss", "val_mae", "data_loss"} <= set(seen[0])
    assert [p.epochs for p in path] == [3, 3]
    assert path.best().scores["loss"] < path.model().evaluate(X[90:], Y[90:], verbose=0)[0]  # which has the penalty
    with pytest.raises(ValueError, match="exclude"):
        regularization_path(model, X, Y, [0.1], validation_split=0.2, cv=3, verbose=0)


def test_direction_and_warm_starts():
    runs, model = {}, small()
    for warm in (True, False):
        path = regularization_path(model, X, Y, [0.2, 0.01], warm_start=warm, **STATED)
        assert [p.strength for p in path] == [0.01, 0.2]  # networks: dense first
        runs[warm] = path
    assert runs[True][0].scores == pytest.approx(runs[False][0].scores)
    assert runs[True][1].objective < runs[False][1].objective
    ended = regularization_path(small(keras.optimizers.SGD(0.4)), X, Y, [1e3], patience=1, **{**STATED, "epochs": 50})
    assert ended[0].epochs < 50


def datasets():
    x, y = X.astype("float32"), Y.astype("float32")
    batches = [(x[i : i + 30], y[i : i + 30]) for i in range(0, SAMPLES, 30)]

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    yield Sequence()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield tf.data.Dataset.from_tensor_slices((x, y)).batch(30)
    if BACKEND == "torch":
        import torch

        yield torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*map(torch.tensor, (X.astype("float32"), Y.astype("float32")))), 30
        )


def test_datasets():
    for dataset in datasets():
        model = linear(L1(0.1, proximal=True))
        assert float(strength_max(model, dataset)) == pytest.approx(LARGEST["lasso"][-1], rel=1e-5)
        path = regularization_path(model, dataset, strengths=2, validation_data=dataset, epochs=2, shuffle=False, verbose=0)
        assert path.best().strength == path[1].strength
        with pytest.raises(ValueError, match="arrays"):
            regularization_path(model, dataset, strengths=2, cv=2, verbose=0)


def unpenalised():
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def uncompiled():
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1, kernel_regularizer=L1(0.1))])


REFUSED = {
    "no penalty": ("model.*penalty", lambda: regularization_path(unpenalised(), X, Y)),
    "not compiled": ("model.*compiled", lambda: regularization_path(uncompiled(), X, Y)),
    "not built": ("model.*built", lambda: regularization_path(keras.Sequential([layers.Dense(1)]), X, Y)),
    "no model": ("model.*Keras model", lambda: regularization_path("model", X, Y)),
    "constraint": ("constraint", lambda: regularization_path(linear(L0Constraint(0.5)), X, Y)),
    "no strengths": ("strengths", lambda: regularization_path(small(), X, Y, [])),
    "strength 0": ("strengths.*greater than 0", lambda: regularization_path(small(), X, Y, [0.1, 0.0])),
    "a strength twice": ("strengths.*different", lambda: regularization_path(small(), X, Y, [0.1, 0.1])),
    "no number of strengths": ("strengths.*at least 1", lambda: regularization_path(small(), X, Y, 0)),
    "labels of another shape": ("`y`.*shape", lambda: regularization_path(small(), X, np.ones((SAMPLES, 3)), [0.1])),
    "too few labels": ("`y`.*row", lambda: regularization_path(small(), X, Y[:-1], [0.1])),
    "no labels": ("`y`", lambda: regularization_path(small(), X, None, [0.1])),
    "validation labels": ("validation_y", lambda: regularization_path(small(), X, Y, [0.1], validation_data=(X, Y[:3]))),
    "validation without labels": ("validation_data", lambda: regularization_path(small(), X, Y, [0.1], validation_data=X)),
    "unknown argument": ("epoch", lambda: regularization_path(small(), X, Y, [0.1], epoch=3)),
    "epochs": ("epochs", lambda: regularization_path(small(), X, Y, [0.1], epochs=0)),
    "direction": ("direction", lambda: regularization_path(small(), X, Y, [0.1], direction="up")),
    "patience": ("patience", lambda: regularization_path(small(), X, Y, [0.1], patience=0)),
    "one fold": ("cv", lambda: regularization_path(small(), X, Y, [0.1], cv=1)),
    "no folds": ("cv", lambda: regularization_path(small(), X, Y, [0.1], cv=0.5)),
    "executor": ("executor", lambda: regularization_path(small(), X, Y, [0.1], executor=2)),
    "monitor": ("monitor", lambda: regularization_path(small(), X, Y, [0.1], monitor=3)),
    "unknown metric": ("monitor.*loss", lambda: regularization_path(small(), X, Y, [0.1], monitor="mae", validation_data=(X, Y))),
    "structures": ("largest useful", lambda: strength_max(structural(), X, Y)),
    "a generator": ("more than once", lambda: strength_max(small(), iter([(X, Y)]))),
}


def structural():
    return small_with(StructuralGroupLasso(0.1))


def small_with(penalty):
    from keras_reg.models import attach

    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(4), layers.Dense(1)])
    attach(model, penalty)
    model.compile(Proximal("adam"), "mse")
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, monkeypatch):
    match, call = REFUSED[name]
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("it was trained"))
    with pytest.raises((ValueError, TypeError), match=match):
        call()


def test_a_choice_needs_scores():
    path = regularization_path(small(), X, Y, [0.1], epochs=1, verbose=0)
    with pytest.raises(ValueError, match="validation_data"):
        path.best()
    assert path.at(0.1).scores == {}
    assert len(str(path).splitlines()) == 3


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="folder"):
        regularization_path(small(), X, Y, [0.1], folder=tmp_path, verbose=0)


def test_code_in_a_model_is_run_where_the_caller_allows_it():
    """As by `keras.models.load_model`."""
    x = keras.Input((FEATURES,))
    doubled = layers.Lambda(lambda z: 2 * z, output_shape=(FEATURES,))(x)
    model = keras.Model(x, layers.Dense(1, kernel_regularizer=L1(0.1))(doubled))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"model.*unsafe"):
        regularization_path(model, X, Y, [0.1], verbose=0)
