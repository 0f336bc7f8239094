"""Models that come and go, train side by side, and train again: nothing is left over, mixed up or different."""

import gc
import threading
import weakref

import keras
import numpy as np
import pytest
from keras import layers

from keras_reg import notes
from keras_reg.callbacks import StrengthScheduler
from keras_reg.models import attach
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso, L0Constraint, StructuralL0Constraint

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = X[:, :1] * X[:, 1:2]
PENALTIES = {
    "entries": lambda: L1(0.01, proximal=True),
    "groups": lambda: GroupLasso(0.02, axis=-2, proximal=True),
    "count": lambda: L0Constraint(0.5, scope="model", every=2),
    "budget": lambda: StructuralL0Constraint(0.5),
}


def network(penalty, seed=0):
    start = [keras.initializers.GlorotUniform(seed + number) for number in range(2)]
    hidden = layers.Dense(8, activation="tanh", kernel_initializer=start[0])
    model = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(1, kernel_initializer=start[1])])
    attach(model, penalty)
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse", jit_compile=keras.backend.backend() == "jax")
    return model


def trained(penalty, seed=0):
    model = network(penalty, seed)
    model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("name", PENALTIES)
def test_what_is_not_used_any_more_is_freed(name):
    gc.collect()  # what other tests have left
    before = len(notes._notes)
    model = trained(PENALTIES[name]())
    left = [weakref.ref(thing) for thing in (model, model.optimizer, *model.layers)]
    del model
    gc.collect()
    assert [reference() for reference in left] == [None] * len(left)
    assert len(notes._notes) == before


def test_fit_after_fit_keeps_nothing():
    model = trained(L1(0.01, proximal=True))
    moving = StrengthScheduler(lambda epoch, strength: 0.9 * strength)

    def things():
        model.fit(X, Y, verbose=0, callbacks=[moving])
        gc.collect()
        return sum(str(type(thing).__module__).startswith("keras_reg") for thing in gc.get_objects())

    things()
    counts = {things() for _ in range(4)}
    assert len(counts) == 1


@pytest.mark.parametrize("name", ["groups", "count"])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(name):
    def weights():
        keras.utils.set_random_seed(3)
        model = network(PENALTIES[name]())
        model.fit(X, Y, batch_size=16, epochs=3, verbose=0)  # shuffled
        return model.get_weights()

    for one, other in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_models_that_train_at_once_in_threads_do_not_see_each_other():
    alone = [trained(PENALTIES[name](), seed).get_weights() for seed, name in enumerate(PENALTIES)]
    models = [network(PENALTIES[name](), seed) for seed, name in enumerate(PENALTIES)]
    failed = []

    def train(model):
        try:
            model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=train, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    for model, expected in zip(models, alone, strict=True):
        for weights, kept in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(weights, kept, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(weights == 0, kept == 0)
