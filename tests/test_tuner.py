"""KerasTuner, which goes on from weights-only files in models made anew."""

import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers

from keras_reg.models import attach, sparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, StructuralGroupLasso

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")


def build(choices):
    strength = choices.Float("strength", 1e-3, 1e-1, sampling="log")
    structural = choices.Boolean("structural")
    penalty = None if structural else L1(strength, proximal=True)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=penalty), layers.Dense(1)])
    if structural:
        attach(model, StructuralGroupLasso(strength))
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse")
    return model


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hyperband_and_its_best_models(tmp_path):
    tuner = keras_tuner.Hyperband(build, "val_loss", max_epochs=2, factor=2, directory=tmp_path, project_name="search", seed=0)
    tuner.search(X, Y, validation_data=(X, Y), epochs=2, verbose=0)
    trials = tuner.oracle.get_best_trials(2)
    assert any(trial.hyperparameters.values.get("tuner/trial_id") for trial in tuner.oracle.trials.values())  # rounds that go on
    for trial, model in zip(trials, tuner.get_best_models(2), strict=True):
        assert trial.score == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-4)
        strength = trial.hyperparameters.get("strength")
        assert sparsity(model).total.penalty > 0
        assert all(value == pytest.approx(strength) for value in (v.regularizer.strength for v in model.layers[0].weights[:1]))
