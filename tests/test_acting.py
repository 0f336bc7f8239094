"""One penalty, one way: exactly one of prox and gradient acts on a weight, whatever is compiled, shared, cloned or written by hand."""

import gc
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from steps import kernel, network, problem, reference

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso

BACKEND = keras.backend.backend()
STRENGTH = 0.4
X, Y = problem()
UNCLAIMED = "no optimizer applies its prox"


def by_prox(steps, rate=0.1):
    return reference(keras.optimizers.SGD(rate), "euclidean", steps, strength=STRENGTH)


def by_gradient(steps, rate=0.1):
    model = network(keras.regularizers.L1(STRENGTH))
    model.compile(keras.optimizers.SGD(rate), "mse")
    train(model, steps)
    return kernel(model)


def train(model, steps):
    for _ in range(steps):
        model.train_on_batch(X, Y)


def assert_same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def penalty():
    return L1(STRENGTH, proximal=True)


def test_the_two_references_differ():
    assert np.sum(by_prox(4) == 0) > 0 == np.sum(by_gradient(4) == 0)


def test_under_proximal_the_prox_acts_and_nothing_warns():
    model = network(penalty())
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    assert len(model.losses) == 1  # read before training
    model.fit(X, Y, batch_size=32, epochs=4, shuffle=False, verbose=0, validation_data=(X, Y))
    model.evaluate(X, Y, verbose=0)
    assert_same(kernel(model), by_prox(4))


def test_under_another_optimizer_the_gradient_acts_and_a_warning_says_so():
    model = network(penalty())
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.warns(UserWarning, match=UNCLAIMED) as caught:
        train(model, 4)
    assert len([w for w in caught if UNCLAIMED in str(w.message)]) == 1
    assert_same(kernel(model), by_gradient(4))


@pytest.mark.filterwarnings("ignore:.*no optimizer applies its prox")
def test_from_one_optimizer_to_the_other_and_back():
    """The first optimizers stay alive in their variables, as in a notebook."""
    plain, proximal = keras.optimizers.SGD(0.1), Proximal(keras.optimizers.SGD(0.1))
    model = network(penalty())
    start = model.get_weights()
    for optimizer, expected in [(plain, by_gradient(3)), (proximal, by_prox(3))] * 2:
        model.set_weights(start)
        model.compile(optimizer, "mse")
        train(model, 3)
        assert_same(kernel(model), expected)
    # A new one after an old one, and the inner optimizer by itself.
    for optimizer, expected in [
        (Proximal(keras.optimizers.SGD(0.1)), by_prox(3)),
        (proximal, by_prox(3)),
        (proximal.inner_optimizer, by_gradient(3)),
        (keras.optimizers.SGD(0.1), by_gradient(3)),
    ]:
        model.set_weights(start)
        model.compile(optimizer, "mse")
        train(model, 3)
        assert_same(kernel(model), expected)


@pytest.mark.filterwarnings("ignore:.*no optimizer applies its prox")
def test_one_penalty_on_two_models():
    shared = penalty()
    first, second = network(shared), network(shared)
    first.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    second.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(4):
        train(first, 1)
        train(second, 1)
    assert_same(kernel(first), by_prox(4))
    assert_same(kernel(second), by_gradient(4))


def test_one_penalty_on_several_layers():
    def deep(shared, optimizer):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(8, activation="relu", kernel_regularizer=p) for p in shared]
        model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2)])
        model.compile(optimizer, "mse")
        model.fit(X, Y, batch_size=32, epochs=10, verbose=0, shuffle=False)
        return model.get_weights()

    one = penalty()
    for a, b in zip(
        deep([one, one], Proximal(keras.optimizers.SGD(0.05))),
        deep([penalty(), penalty()], Proximal(keras.optimizers.SGD(0.05))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_clone_starts_unclaimed():
    model = network(penalty())
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    train(model, 2)
    clone = keras.models.clone_model(model)
    clone.set_weights(network().get_weights())
    clone.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.warns(UserWarning, match=UNCLAIMED):
        train(clone, 4)
    assert_same(kernel(clone), by_gradient(4))


def test_a_claim_ends_with_its_optimizer():
    model = network(penalty())
    optimizer = Proximal(keras.optimizers.SGD(0.1))
    optimizer.build(model.trainable_variables)
    claimed = model.get_layer("dense").kernel.regularizer
    assert optimizer.applies_prox_to(model.get_layer("dense").kernel)
    assert float(ops.convert_to_numpy(claimed(model.get_layer("dense").kernel))) > 0
    del optimizer
    gc.collect()
    with pytest.warns(UserWarning, match=UNCLAIMED):
        claimed(model.get_layer("dense").kernel)


def by_hand(model, optimizer, steps, jit=False):
    """A training loop of one's own on the present backend."""
    variables = model.trainable_variables

    def loss_of():
        return ops.mean(ops.square(model(X) - ops.convert_to_tensor(Y))) + sum(model.losses)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        def step():
            with tf.GradientTape() as tape:
                loss = loss_of()
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

        step = tf.function(step) if jit else step
        for _ in range(steps):
            step()
    elif BACKEND == "torch":
        for _ in range(steps):
            model.zero_grad()
            loss_of().backward()
            optimizer.apply([v.value.grad for v in variables], variables)
    else:
        import jax

        def loss_at(values, others):
            predictions, _, losses = model.stateless_call(values, others, X, return_losses=True)
            return ops.mean(ops.square(predictions - Y)) + sum(losses)

        def step(values, others, memory):
            return optimizer.stateless_apply(memory, jax.grad(loss_at)(values, others), values)

        step = jax.jit(step) if jit else step
        values, memory = [v.value for v in variables], [v.value for v in optimizer.variables]
        for _ in range(steps):
            values, memory = step(values, [v.value for v in model.non_trainable_variables], memory)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.skipif(BACKEND == "torch", reason="no function to compile"))])
def test_a_loop_of_ones_own(jit):
    model = network(penalty())
    optimizer = Proximal(keras.optimizers.SGD(0.1))
    optimizer.build(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_hand(model, optimizer, 4, jit)
    assert_same(kernel(model), by_prox(4))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX itself refuses an optimizer that is not built")
@pytest.mark.filterwarnings("ignore:.*no optimizer applies its prox")
def test_a_loop_that_builds_too_late_is_stopped():
    model = network(penalty())
    before = kernel(model)
    with pytest.raises(ValueError, match=r"dense/kernel were in a loss before .* would count twice. Call `optimizer.build"):
        by_hand(model, Proximal(keras.optimizers.SGD(0.1)), 1)
    np.testing.assert_array_equal(kernel(model), before)


def test_a_loop_with_another_optimizer_warns():
    model = network(penalty())
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    with pytest.warns(UserWarning, match=UNCLAIMED):
        by_hand(model, optimizer, 4)
    assert_same(kernel(model), by_gradient(4))


def test_a_train_step_of_ones_own():
    """A model around the one that is trained, as for distillation or adversarial training."""
    if BACKEND != "tensorflow":
        pytest.skip("each backend has its own signature of train_step; here TensorFlow's")
    import tensorflow as tf

    class Around(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(self.inner(x, training=True) - y)) + sum(self.inner.losses)
            variables = self.inner.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return {"loss": loss}

    inner = network(penalty())
    around = Around(inner)
    around.compile(Proximal(keras.optimizers.SGD(0.1)))
    around.fit(X, Y, batch_size=32, epochs=4, shuffle=False, verbose=0)
    assert_same(kernel(inner), by_prox(4))


def test_activities_cannot_be_applied_a_prox():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, kernel_regularizer=penalty(), activity_regularizer=penalty())])
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    with pytest.warns(UserWarning, match=UNCLAIMED):
        model.fit(X, Y, verbose=0)


def test_a_frozen_layer_is_left_alone():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, kernel_regularizer=penalty()), layers.Dense(2, kernel_regularizer=penalty())]
    )
    model.layers[0].trainable = False
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    before = model.layers[0].get_weights()[0].copy()
    model.fit(X, Y, epochs=5, verbose=0)
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], before)
    assert np.any(model.layers[1].get_weights()[0] == 0)


CONTINUE = """
import sys
import keras, numpy as np
import keras_reg

folder, epochs = sys.argv[1], int(sys.argv[2])
data = np.load(f"{folder}/data.npz")
model = keras.models.load_model(f"{folder}/half.keras")
model.fit(data["x"], data["y"], batch_size=8, initial_epoch=epochs, epochs=2 * epochs, shuffle=False, verbose=0)
np.savez(f"{folder}/after.npz", *model.get_weights(), *[np.asarray(s) for s in [list(model.optimizer.strengths.values())]])
"""


@pytest.mark.parametrize("metric", ["euclidean", "preconditioned"])
def test_a_saved_run_goes_on_bit_by_bit(tmp_path, metric):
    def model():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(8, activation="relu", kernel_regularizer=GroupLasso(0.05, axis=-1, proximal=True)),
                layers.Dense(2, kernel_regularizer=L1(0.1, proximal=True)),
            ]
        )
        rate = keras.optimizers.schedules.CosineDecay(0.03, 100)
        model.compile(Proximal(keras.optimizers.Adam(rate), metric=metric), keras.losses.MeanSquaredError())
        return model

    whole, half = model(), model()
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    whole.fit(X, Y, epochs=6, **fit)
    half.fit(X, Y, epochs=3, **fit)
    half.optimizer.set_strength(0.05)
    half.save(tmp_path / "half.keras")
    half.fit(X, Y, initial_epoch=3, epochs=6, **fit)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    command = [sys.executable, "-W", "error::UserWarning", "-c", CONTINUE, str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "KERAS_BACKEND": BACKEND})
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "after.npz") as after:
        *weights, strengths = after.values()
    np.testing.assert_allclose(strengths, 0.05)
    for ours, theirs in zip(half.get_weights(), weights, strict=True):
        if BACKEND == "torch":
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(weights[0], whole.get_weights()[0])  # the changed strength was in force


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_hdf5_restores_the_model_and_starts_the_optimizer_anew(tmp_path):
    """Keras has no variables at hand when it restores the state of an optimizer from HDF5."""
    model = network(penalty())
    model.compile(Proximal(keras.optimizers.SGD(0.1)), keras.losses.MeanSquaredError())
    train(model, 2)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    train(loaded, 2)
    assert_same(kernel(loaded), by_prox(4))
