"""Choosing input features."""

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, GroupLasso, SparseGroupLasso
from keras_reg.selection import select_features

X = np.random.default_rng(0).normal(size=(128, 16)).astype("float32")
Y = X[:, 2] - X[:, 5] * X[:, 2] + X[:, 11]
QUICK = {"ratio": 1.6, "epochs": 6, "batch_size": 16, "seed": 0, "verbose": 0}


def network(penalty=None, shape=(16,), optimizer=None):
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(12, "relu", kernel_regularizer=penalty), layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse")
    return model


def test_the_features_that_matter_stay_longest(tmp_path):
    model = network()
    before = model.get_weights()
    frame = pd.DataFrame(X, columns=[f"column {i}" for i in range(16)])
    chosen = select_features(model, frame, Y, 3, validation_data=(X, Y), folder=tmp_path / "fits", **QUICK)
    assert chosen.indices.tolist() == [2, 5, 11]
    assert chosen.names == ["column 2", "column 5", "column 11"]
    assert chosen.mask.tolist() == [i in (2, 5, 11) for i in range(16)]
    assert min(chosen.order[[2, 5, 11]]) >= max(np.delete(chosen.order, [2, 5, 11]))
    assert all("loss" in point.scores for point in chosen.points)
    assert [len(point.weights) > 0 for point in chosen.points[-2:]] == [True, True]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.layers[1].kernel.regularizer is None
    again = select_features(model, frame, Y, 3, validation_data=(X, Y), folder=tmp_path / "fits", **QUICK)
    assert [p.seconds for p in again.points] == [p.seconds for p in chosen.points]  # read, not computed
    assert again.indices.tolist() == chosen.indices.tolist()
    other = network(SparseGroupLasso(1e-9, 1.0, axis=-2, proximal=True), optimizer=Proximal("adam"))
    with pytest.raises(ValueError, match=r"`folder`.*SparseGroupLasso"):
        select_features(other, frame, Y, 3, validation_data=(X, Y), folder=tmp_path / "fits", start=chosen.points[0].strength, **QUICK)


def test_with_sgd_what_stays_is_not_shrunk():
    """The penalty is not convex there: a group lasso takes far more from the features that stay."""
    inner, options = {"class_name": "SGD", "config": {"learning_rate": 0.02, "momentum": 0.9}}, {**QUICK, "epochs": 12}
    chosen = select_features(network(optimizer=keras.optimizers.get(inner)), X, Y, 3, **options)
    shrunk = select_features(network(GroupLasso(1.0, axis=-2, proximal=True), optimizer=Proximal(inner)), X, Y, 3, **options)
    assert chosen.indices.tolist() == shrunk.indices.tolist() == [2, 5, 11]
    assert np.linalg.norm(chosen.points[-1].weights[0]) > 1.5 * np.linalg.norm(shrunk.points[-1].weights[0])


def test_images_and_a_penalty_that_is_there_in_a_model_within_one():
    model = keras.Sequential([keras.Input((4, 4)), network(GroupLasso(1.0, axis=-2, proximal=True), (4, 4))])
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse")
    chosen = select_features(model, X.reshape(-1, 4, 4), Y, 3, **QUICK)
    assert chosen.indices.tolist() == [2, 5, 11]
    assert chosen.mask.shape == (4, 4)
    assert chosen.names is None
    figure = chosen.plot()
    rows, columns = figure.axes[0].get_lines()[0].get_ydata(), figure.axes[0].get_lines()[0].get_xdata()
    assert sorted(4 * rows + columns) == [2, 5, 11]
    with pytest.raises(ValueError, match="shape"):
        chosen.plot(shape=(3, 4))


REFUSED = {
    "k": ("`k`", lambda: select_features(network(), X, Y, 0)),
    "k of all": ("`k`", lambda: select_features(network(), X, Y, 16)),
    "ratio": ("ratio", lambda: select_features(network(), X, Y, 3, ratio=1.0)),
    "start": ("start", lambda: select_features(network(), X, Y, 3, start=-1.0)),
    "another input": ("first dense layer", lambda: select_features(network(), X[:, :8], Y, 3)),
    "no prox": ("proximal", lambda: select_features(network(L2(0.1)), X, Y, 3)),
    "no proximal": ("proximal", lambda: select_features(network(L1(0.1)), X, Y, 3)),
    "labels": ("`y`", lambda: select_features(network(), X, Y[:5], 3)),
    "several inputs": ("`x`", lambda: select_features(network(), [X, X], Y, 3)),
    "unknown": ("epoch", lambda: select_features(network(), X, Y, 3, epoch=3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, monkeypatch):
    match, call = REFUSED[name]
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("it was trained"))
    with pytest.raises((ValueError, TypeError), match=match):
        call()
