"""Strengths that move while a model trains."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from steps import kernel, network, problem, reference

from keras_reg.callbacks import StrengthScheduler, TargetSparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L1L2, GroupLasso

BACKEND = keras.backend.backend()
X, Y = problem()


def compiled(penalty, optimizer=None):
    model = network(penalty)
    model.compile(optimizer or Proximal(keras.optimizers.SGD(0.1)), "mse")
    return model


def moving_reference(strengths):
    """One update at each of these strengths."""
    model = network()
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True, jit_compile=False)
    for strength in strengths:
        model.train_on_batch(X, Y)
        z = kernel(model)
        model.get_layer("dense").kernel.assign(np.sign(z) * np.maximum(np.abs(z) - 0.1 * strength, 0))
    return kernel(model)


def test_a_schedule_of_epochs():
    strengths = [0.0, 0.2, 0.4, 0.6]
    model = compiled(L1(1.0, proximal=True))
    history = model.fit(
        X, Y, batch_size=32, epochs=4, shuffle=False, verbose=0, callbacks=[StrengthScheduler(lambda epoch: strengths[epoch])]
    )
    np.testing.assert_allclose(kernel(model), moving_reference(strengths), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history.history["strength"], strengths, rtol=1e-6)
    assert all(type(value) is float for name in ("strength", "sparsity") for value in history.history[name])
    assert history.history["sparsity"][-1] == np.mean(kernel(model) == 0)


def test_a_schedule_of_steps_counts_updates_over_several_fits():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.8, 8, 0.1)
    model = compiled(L1(1.0, proximal=True))
    for _ in range(2):
        model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[StrengthScheduler(schedule)])
    strengths = [float(schedule(step)) for step in range(8)]
    twin = network()
    twin.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True, jit_compile=False)
    for step, strength in enumerate(strengths):
        twin.train_on_batch(*((X[:16], Y[:16]) if step % 2 == 0 else (X[16:], Y[16:])))
        z = kernel(twin)
        twin.get_layer("dense").kernel.assign(np.sign(z) * np.maximum(np.abs(z) - 0.1 * strength, 0))
    np.testing.assert_allclose(kernel(model), kernel(twin), rtol=1e-4, atol=1e-6)


def test_a_schedule_may_take_the_present_strength():
    model = compiled(L1(0.8, proximal=True))
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[StrengthScheduler(lambda epoch, strength: strength / 2)])
    np.testing.assert_allclose(list(model.optimizer.strengths.values()), [0.1])


class Traced(L1):
    """Counts how often Python runs its prox: once for each time that a step is compiled."""

    count = 0

    def prox(self, w, step):
        type(self).count += 1
        return super().prox(w, step)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras does not compile on PyTorch by itself")
def test_nothing_is_compiled_anew_under_proximal():
    Traced.count = 0
    model = compiled(Traced(1.0, proximal=True))
    schedule = StrengthScheduler(lambda step: 0.1 * step, freq="step")
    # On JAX a step that was compiled before any strength moved is compiled once more, with the strength as state of the model.
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[schedule] if BACKEND == "jax" else [])
    before = Traced.count
    model.fit(X, Y, batch_size=32, epochs=6, verbose=0, callbacks=[schedule])
    assert before > 0
    assert Traced.count == before


@pytest.mark.parametrize("together", [1] if BACKEND == "torch" else [1, 3])
def test_every_nth_step(together):
    """Counted in updates, from where the optimizer is; none is missed where several are executed at once."""
    model = network(L1(1.0, proximal=True))
    model.compile(Proximal("sgd"), "mse", steps_per_execution=together, jit_compile=False)
    seen = []
    schedule = StrengthScheduler(lambda step: 0.1 + step, freq=4)
    schedule._set = seen.append
    for epochs in (2, 1):
        model.fit(X[:28], Y[:28], batch_size=4, epochs=epochs, verbose=0, callbacks=[schedule])
    assert seen == ([0, 4, 8, 12, 16, 20] if together == 1 else [0, 6, 10, 13, 17, 20])


def test_a_penalty_in_the_loss():
    strengths = [0.0, 0.3, 0.1]
    model = compiled(L1(1.0), keras.optimizers.SGD(0.1))
    history = model.fit(
        X, Y, batch_size=32, epochs=3, shuffle=False, verbose=0, callbacks=[StrengthScheduler(lambda epoch: strengths[epoch])]
    )
    twin = network()
    for strength in strengths:
        twin.get_layer("dense").kernel.regularizer = keras.regularizers.L1(strength)
        twin.compile(keras.optimizers.SGD(0.1), "mse")
        twin.train_on_batch(X, Y)
    np.testing.assert_allclose(kernel(model), kernel(twin), rtol=1e-5, atol=1e-7)
    assert history.history["strength"] == strengths
    assert model.get_layer("dense").kernel_regularizer.l1 == 0.1  # what is saved is what was trained with


def test_one_variable_of_several_and_ratios():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, kernel_regularizer=L1L2(0.1, 0.3, proximal=True), name="first"),
            layers.Dense(2, kernel_regularizer=L1(0.5, proximal=True), name="second"),
        ],
        name="net",
    )
    model.compile(Proximal(keras.optimizers.SGD(0.01)), "mse")
    path = model.get_layer("first").kernel.path
    history = model.fit(X, Y, epochs=1, verbose=0, callbacks=[StrengthScheduler(lambda epoch: 0.8, path=path)])
    assert history.history[f"strength/{path}"] == [pytest.approx(0.8)]
    assert history.history[f"strength/{model.get_layer('second').kernel.path}"] == [0.5]
    moved = model.get_layer("first").kernel.regularizer
    np.testing.assert_allclose([moved.l1, moved.l2], [0.2, 0.6], rtol=1e-6)


def test_the_loss_shows_the_present_strength():
    model = compiled(L1(1.0, proximal=True), Proximal(keras.optimizers.SGD(0.0)))
    loss = model.fit(X, Y, batch_size=32, epochs=2, verbose=0, callbacks=[StrengthScheduler(lambda epoch: [0.5, 0.0][epoch])]).history[
        "loss"
    ]
    shown = loss[0] - loss[1]
    np.testing.assert_allclose(shown, 0.5 * np.abs(kernel(network())).sum(), rtol=1e-4, atol=1e-5)


def digits():
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    return (x / 16).astype("float32"), y


def classifier(make_penalty, inner, hidden=64):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(hidden, activation="relu", kernel_regularizer=make_penalty()),
            layers.Dense(10, kernel_regularizer=make_penalty()),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Proximal(inner), loss, metrics=["accuracy"])
    return model


TARGETS = {
    "weights-SGD": (lambda: L1(1e-4, proximal=True), lambda: keras.optimizers.SGD(0.1, momentum=0.9), 0.8, "weights"),
    "weights-Adam": (lambda: L1(1e-4, proximal=True), lambda: keras.optimizers.Adam(2e-3), 0.5, "weights"),
    "groups-SGD": (lambda: GroupLasso(1e-4, axis=-2, proximal=True), lambda: keras.optimizers.SGD(0.05, momentum=0.9), 0.5, "groups"),
    "groups-Adam": (lambda: GroupLasso(1e-4, axis=-2, proximal=True), lambda: keras.optimizers.Adam(2e-3), 0.4, "groups"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_is_reached_and_held(case):
    penalty, inner, target, of = TARGETS[case]
    model = classifier(penalty, inner(), hidden=96)
    history = model.fit(*digits(), batch_size=32, epochs=8, verbose=0, callbacks=[TargetSparsity(target, epoch=5, of=of)]).history
    kernels = [w for w in model.get_weights() if w.ndim == 2]
    zero = [w == 0 if of == "weights" else np.all(w == 0, axis=1) for w in kernels]
    shown = history["sparsity" if of == "weights" else "group_sparsity"]
    assert shown[-1] == np.mean(np.concatenate([one.ravel() for one in zero]))
    np.testing.assert_allclose(shown[4:], target, atol=0.02)
    assert not any(one.all() for one in zero)
    assert history["accuracy"][-1] > 0.85


def test_a_target_is_held_while_the_learning_rate_falls_to_zero():
    """Strengths act by their product with it, and do not grow without bound."""
    steps = 6 * -(-len(digits()[0]) // 32)
    model = classifier(lambda: L1(1e-4, proximal=True), keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)))
    history = model.fit(*digits(), batch_size=32, epochs=6, verbose=0, callbacks=[TargetSparsity(0.7, epoch=4)]).history
    np.testing.assert_allclose(history["sparsity"][3:], 0.7, atol=0.02)
    assert max(history["strength"]) < 0.1


RESUMED = """
import sys
import keras, numpy as np
import keras_reg
from keras_reg.callbacks import StrengthScheduler, TargetSparsity

folder = sys.argv[1]
data = np.load(f"{folder}/data.npz")
decay = keras.optimizers.schedules.PolynomialDecay(0.01, 200, 1e-4)
callbacks = {"target": TargetSparsity(0.7, epoch=5), "schedule": StrengthScheduler(decay)}
for name, callback in callbacks.items():
    model = keras.models.load_model(f"{folder}/{name}.keras")
    model.fit(data["x"], data["y"], batch_size=32, initial_epoch=3, epochs=6, shuffle=False, verbose=0, callbacks=[callback])
    np.savez(f"{folder}/{name}.npz", *model.get_weights())
"""


def test_resumed_runs_are_the_uninterrupted_ones(tmp_path):
    x, y = digits()
    fit = {"batch_size": 32, "shuffle": False, "verbose": 0}
    callbacks = {
        "target": lambda: TargetSparsity(0.7, epoch=5),
        "schedule": lambda: StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(0.01, 200, 1e-4)),
    }
    whole = {}
    for name, callback in callbacks.items():
        model = classifier(lambda: L1(1e-3, proximal=True), keras.optimizers.Adam(2e-3))
        model.fit(x, y, epochs=3, callbacks=[callback()], **fit)
        model.save(tmp_path / f"{name}.keras")
        twin = classifier(lambda: L1(1e-3, proximal=True), keras.optimizers.Adam(2e-3))
        twin.fit(x, y, epochs=6, callbacks=[callback()], **fit)
        whole[name] = twin.get_weights()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    command = [sys.executable, "-W", "error::UserWarning", "-c", RESUMED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "KERAS_BACKEND": BACKEND})
    assert done.returncode == 0, done.stderr[-3000:]
    for name, expected in whole.items():
        with np.load(tmp_path / f"{name}.npz") as resumed:
            for ours, theirs in zip(expected, resumed.values(), strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StrengthScheduler(0.1), TypeError, "`schedule` must be a function"),
        (lambda: StrengthScheduler(lambda epoch: -1.0), ValueError, r"schedule\(0\).*at least 0.*-1"),
        (lambda: StrengthScheduler(lambda epoch: float("nan")), ValueError, r"schedule\(0\).*finite"),
        (lambda: StrengthScheduler(lambda epoch: None), TypeError, r"schedule\(0\).*must be a number"),
        (lambda: StrengthScheduler(lambda epoch: 0.1, freq="batch"), ValueError, "`freq` must be one of"),
        (lambda: TargetSparsity(1.0, epoch=3), ValueError, "`target` must be between 0 and 1"),
        (lambda: TargetSparsity(0.5, epoch=0), ValueError, "`epoch` must be greater than 0"),
        (lambda: TargetSparsity(0.5, epoch=3, of="layers"), ValueError, "`of` must be one of"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("callback", "penalty", "optimizer", "message"),
    [
        (StrengthScheduler(lambda epoch: 0.1), None, "sgd", "found no penalty of keras_reg"),
        (StrengthScheduler(lambda epoch: 0.1, path="nowhere"), L1(0.1), "sgd", "`path` must be one of"),
        (StrengthScheduler(lambda epoch: 0.2 - 0.1 * epoch), L1(0.1), "sgd", r"schedule\(3\).*at least 0"),
        (StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(0.1, 4, -0.1)), L1(0.1), "sgd", r"schedule\(3\).*at least 0"),
        (TargetSparsity(0.5, epoch=2), L1(0.1), "sgd", "needs a model compiled with `keras_reg.optimizers.Proximal`"),
        (TargetSparsity(0.5, epoch=2), L1(0.0, proximal=True), Proximal("sgd"), "none may be 0"),
        (TargetSparsity(0.5, epoch=2, of="groups"), L1(0.1, proximal=True), Proximal("sgd"), "`of` must be 'weights'"),
    ],
    ids=["no penalty", "no such path", "later epoch", "later step", "no prox", "zero", "no groups"],
)
def test_what_cannot_work_is_refused_before_training(callback, penalty, optimizer, message):
    model = compiled(penalty, optimizer)
    before = kernel(model)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, epochs=5, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(kernel(model), before)


def test_setting_strengths_by_hand():
    model = compiled(L1(0.4, proximal=True))
    with pytest.raises(ValueError, match="before it is built"):
        model.optimizer.set_strength(0.1)
    model.train_on_batch(X, Y)
    np.testing.assert_allclose(kernel(model), reference(keras.optimizers.SGD(0.1), "euclidean", 1, strength=0.4), rtol=1e-4, atol=1e-6)
    model.optimizer.set_strength(100.0)
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(kernel(model), 0)
    with pytest.raises(ValueError, match="`path` must be one of"):
        model.optimizer.set_strength(1.0, path="nowhere")
    with pytest.raises(ValueError, match="`strength` must be at least 0"):
        model.optimizer.set_strength(-1.0)


@pytest.mark.parametrize("schedule", [lambda: 1.0, lambda a, b, c: 1.0], ids=["none", "three"])
def test_a_schedule_of_other_arguments_is_refused(schedule):
    with pytest.raises(TypeError, match="`schedule` must take an epoch"):
        StrengthScheduler(schedule)


def test_a_proximal_without_an_optimizer_is_refused_and_says_what_it_is():
    with pytest.raises(ValueError, match="needs an inner optimizer"):
        keras.optimizers.get("keras_reg>Proximal")
    assert repr(Proximal("adam")) == "Proximal(Adam, metric='preconditioned')"
    assert repr(Proximal("sgd", keep_zeros=True)) == "Proximal(SGD, metric='euclidean', keep_zeros=True)"


class Stops(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("first", [True, False])
def test_backed_up_before_or_after_target_sparsity_it_resumes_exactly(tmp_path, first):
    """Whichever of the two callbacks comes first."""
    x, y = problem()
    found = []
    for stops in ([], [Stops()], []):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(1, kernel_regularizer=L1(1e-3, proximal=True))])
        model.compile(Proximal("adam"), "mse")
        backup = [keras.callbacks.BackupAndRestore(tmp_path)] if found or stops else []
        callbacks = [*backup, TargetSparsity(0.5, epoch=4)] if first else [TargetSparsity(0.5, epoch=4), *backup]
        try:
            model.fit(x, y, epochs=4, shuffle=False, verbose=0, callbacks=[*callbacks, *stops])
        except KeyboardInterrupt:
            continue
        found.append((list(model.optimizer.strengths.values()), model.get_weights()[0]))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
