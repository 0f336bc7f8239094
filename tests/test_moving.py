"""Strengths that move are the same everywhere: in the loss and under `Proximal`, in training, validation, configs, logs and copies."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg.callbacks import StrengthScheduler, TargetSparsity, WeightHistogram
from keras_reg.models import attach, sparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L1L2, L2, MCP, Grouped, GroupLasso, SparseGroupLasso, StructuralGroupLasso

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")

PENALTIES = {
    "L1": lambda p: L1(1.0, proximal=p),
    "L2": lambda p: L2(1.0, proximal=p),
    "L1L2": lambda p: L1L2(0.25, 0.75, proximal=p),
    "MCP": lambda p: MCP(1.0, gamma=30.0, proximal=p),
    "GroupLasso": lambda p: GroupLasso(1.0, axis=-2, proximal=p),
    "SparseGroupLasso": lambda p: SparseGroupLasso(0.25, 0.75, axis=-2, proximal=p),
    "Grouped": lambda p: Grouped(MCP(1.0, gamma=30.0), axis=-2, proximal=p),
}


def sgd(rate=0.01, proximal=True):
    inner = keras.optimizers.SGD(rate)
    return Proximal(inner) if proximal else inner


def make(penalty, proximal=True, rate=0.01, build=True):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(3, kernel_regularizer=penalty, name="first")
    model = keras.Sequential([*([keras.Input((4,))] if build else []), hidden, layers.Dense(1, name="last")])
    model.compile(sgd(rate, proximal), "mse", metrics=["mse"])
    return model


def fit(model, epochs=1, **kwargs):
    return model.fit(X, Y, epochs=epochs, batch_size=kwargs.pop("batch_size", 32), verbose=0, shuffle=False, **kwargs).history


def number(value):
    return float(ops.convert_to_numpy(value))


STRENGTHS = [0.0, 0.5, 100.0, 0.0, 0.25]


@pytest.mark.parametrize("proximal", [False, True], ids=["loss", "prox"])
@pytest.mark.parametrize("name", PENALTIES)
def test_from_and_through_zero_and_the_same_everywhere(name, proximal):
    """At learning rate 0 the weights stand still, so that what is shown is the strength times what was shown at 1."""
    model = make(PENALTIES[name](proximal), proximal, rate=0.0)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if hasattr(model, "jax_state_sync"):
                model.jax_state_sync()
            own = model.layers[0].kernel.regularizer
            seen.append([number(model.losses[0]), own.strength, model.layers[0].kernel_regularizer.strength])

    history = fit(model, len(STRENGTHS), validation_data=(X, Y), callbacks=[StrengthScheduler(lambda epoch: STRENGTHS[epoch]), Look()])
    penalty = PENALTIES[name](False)
    expected = [number(penalty.with_strength(s)(model.layers[0].kernel)) for s in STRENGTHS]
    mse = np.array(history["mse"])
    np.testing.assert_allclose(np.array(history["loss"]) - mse, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.array(history["val_loss"]) - mse, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([row[0] for row in seen], expected, rtol=1e-5, atol=1e-6)
    for column in (1, 2):
        np.testing.assert_allclose([row[column] for row in seen], STRENGTHS, rtol=1e-6)
    assert history["strength"] == pytest.approx(STRENGTHS)
    np.testing.assert_allclose(model.evaluate(X, Y, verbose=0)[0] - mse[-1], expected[-1], rtol=1e-4)
    assert sparsity(model).total.penalty == pytest.approx(expected[-1], rel=1e-5)
    config = keras.models.clone_model(model).layers[0].kernel_regularizer
    np.testing.assert_allclose(config.strength, STRENGTHS[-1], rtol=1e-6)
    if name in ("L1L2", "SparseGroupLasso"):  # the ratio is kept, through 0 as well
        first, second = (config.get_config()[key] for key in config.strength_names)
        assert first / second == pytest.approx(1 / 3)


class Counting(L1):
    """Counts how often Python computes its value: once for each step that is compiled."""

    count = 0

    def value(self, w):
        type(self).count += 1
        return super().value(w)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras does not compile on PyTorch by itself")
@pytest.mark.parametrize("proximal", [False, True], ids=["loss", "prox"])
def test_nothing_is_compiled_anew(proximal):
    model = make(Counting(1.0, proximal=proximal), proximal)
    schedule = [StrengthScheduler(lambda step: 0.01 * step, freq="step")]
    fit(model, 1, batch_size=8, validation_data=(X, Y), callbacks=schedule)
    Counting.count = 0
    fit(model, 4, batch_size=8, validation_data=(X, Y), callbacks=schedule)
    assert Counting.count == 0


@pytest.mark.parametrize("proximal", [False, True], ids=["loss", "prox"])
def test_one_penalty_on_several_weights_comes_apart(proximal):
    """By `path`, between models, and from run to run; the user's object stays as it was."""
    shared = L1(1.0, proximal=proximal)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=shared), layers.Dense(1, kernel_regularizer=shared)])
    model.compile(sgd(0.0, proximal), "mse")
    other = make(shared, proximal)
    fit(other)
    before = number(other.losses[0])
    path = model.layers[0].kernel.path
    history = fit(model, 2, callbacks=[StrengthScheduler(lambda epoch: 3.0, path=path)])
    assert history[f"strength/{path}"] == [3.0, 3.0]
    assert history[f"strength/{model.layers[1].kernel.path}"] == [1.0, 1.0]
    assert [layer.kernel_regularizer.strength for layer in model.layers] == [3.0, 1.0]
    assert shared.l1 == 1.0
    assert number(other.losses[0]) == before
    assert make(shared, proximal).layers[0].kernel_regularizer.l1 == 1.0


def test_set_on_the_penalty_itself_it_acts_at_once():
    """As in a path with warm starts: `set_strength` on the object of the user, compiled again or not."""
    for again in (True, False):
        penalty = L1(1e-3, proximal=True)
        model = make(penalty, rate=0.1)
        zeros = []
        for strength in (5.0, 1e-3):
            penalty.set_strength(strength)
            if again:
                model.compile(sgd(0.1), "mse")
            fit(model, 30)
            zeros.append((ops.convert_to_numpy(model.layers[0].kernel) == 0).mean())
            assert model.optimizer.strengths == {model.layers[0].kernel.path: strength}
        assert zeros[0] == 1.0
        model.layers[0].kernel.assign(np.ones((4, 3)))
        fit(model, 1)
        assert number(model.losses[0]) == pytest.approx(1e-3 * np.abs(ops.convert_to_numpy(model.layers[0].kernel)).sum(), rel=1e-4)


def test_attaching_another_strength_is_said():
    model = make(L1(1e-3, proximal=True))
    fit(model)
    with pytest.raises(ValueError, match=r"already has L1\(l1=0.001"):
        attach(model, L1(5e-3, proximal=True), include="first")


@pytest.mark.parametrize("proximal", [False, True], ids=["loss", "prox"])
@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_a_model_that_fit_builds_has_it_from_the_first_step(kind, proximal):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(3, kernel_regularizer=L1(1.0, proximal=proximal), name="first")
            self.last = layers.Dense(1, name="last")

        def call(self, x):
            return self.last(self.first(x))

    model = Own() if kind == "subclassed" else make(L1(1.0, proximal=proximal), proximal, build=False)
    model.compile(sgd(0.0, proximal), "mse", metrics=["mse"])
    history = fit(model, 2, callbacks=[StrengthScheduler(lambda epoch: [0.3, 0.1][epoch])])
    kernel = np.abs(ops.convert_to_numpy(model.layers[0].kernel)).sum()
    np.testing.assert_allclose(np.array(history["loss"]) - history["mse"], [0.3 * kernel, 0.1 * kernel], rtol=1e-4)
    assert history["strength"] == [0.3, 0.1]
    assert model.layers[0].kernel_regularizer.l1 == 0.1


def test_the_target_of_a_model_that_fit_builds():
    model = make(L1(0.01, proximal=True), build=False)
    assert len(fit(model, 2, callbacks=[TargetSparsity(0.5, 1, every=1)])["sparsity"]) == 2


def test_a_schedule_of_two_arguments_is_not_tried():
    schedule = StrengthScheduler(lambda epoch, strength: strength * np.exp(-1 / strength))
    history = fit(make(L1(1.0, proximal=True)), 2, callbacks=[schedule])
    assert history["strength"][0] == pytest.approx(np.exp(-1))


def test_strengths_without_a_ratio_are_refused_before_training():
    model = make(L1L2(0.0, 0.0, proximal=True))
    with pytest.raises(ValueError, match="no ratio to keep"):
        fit(model, callbacks=[StrengthScheduler(lambda epoch: 0.1 * epoch)])
    # A single one starts at 0 and moves.
    history = fit(make(L1(0.0, proximal=True)), 2, callbacks=[StrengthScheduler(lambda epoch: 0.1 * epoch)])
    assert history["strength"] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("callbacks", "refused"),
    [
        (lambda path: [TargetSparsity(0.5, 2), StrengthScheduler(lambda epoch: 0.1)], True),
        (lambda path: [StrengthScheduler(lambda epoch: 0.1), StrengthScheduler(lambda epoch: 0.2, path=path)], True),
        (lambda path: [StrengthScheduler(lambda epoch: 0.1, path=path)], False),
    ],
)
def test_two_callbacks_do_not_move_the_same_strengths(callbacks, refused):
    model = make(L1(0.1, proximal=True))
    made = callbacks(model.layers[0].kernel.path)
    for _ in range(2):
        if refused:
            with pytest.raises(ValueError, match="both move the strength"):
                fit(model, callbacks=made)
        else:
            fit(model, callbacks=made)
    fit(model, callbacks=made[:1])  # and each alone may


def test_a_target_survives_a_learning_rate_of_zero():
    """Strengths are not wound up where they can do nothing."""
    model = make(L1(0.01, proximal=True), rate=0.05)
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 2 else 0.0)
    history = fit(model, 12, callbacks=[rates, TargetSparsity(0.9, 2, every=1)])
    assert max(history["strength"]) <= 0.01 * 1e6
    assert np.isfinite(model.get_weights()[0]).all()


def test_histograms_show_what_acts(tmp_path):
    model = make(L1(1.0, proximal=True))
    history = fit(model, 2, callbacks=[StrengthScheduler(lambda epoch: 0.5), WeightHistogram(tmp_path)])
    kernel = np.abs(ops.convert_to_numpy(model.layers[0].kernel)).sum()
    assert history["penalty"][-1] == pytest.approx(0.5 * kernel, rel=1e-5)
    loaded_from = tmp_path / "m.keras"
    model.save(loaded_from)
    loaded = keras.models.load_model(loaded_from)
    assert number(loaded.losses[0]) == pytest.approx(0.5 * kernel, rel=1e-5)
    assert sparsity(loaded).total.penalty == pytest.approx(0.5 * kernel, rel=1e-5)


def test_moving_many_takes_no_longer_for_each():
    """One write for all: of two thousand, as many assignments as of one."""
    kernels = [keras.Variable(np.ones((2, 2)), name=f"k{i}") for i in range(40)]
    for kernel in kernels:
        kernel.regularizer = L1(0.1, proximal=True)
    optimizer = sgd()
    optimizer.build(kernels)
    writes = []
    original = optimizer.set_strengths_at
    optimizer.set_strengths_at = lambda strengths: (writes.append(len(strengths)), original(strengths))
    optimizer.set_strength(0.2)
    assert writes == [40]
    assert set(optimizer.strengths.values()) == {0.2}


def test_parts_of_a_structure_move_together():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(1, name="last")])
    attach(model, StructuralGroupLasso(0.1))
    model.compile(sgd(), "mse")
    history = fit(model, 1, callbacks=[StrengthScheduler(lambda epoch: 0.3)])
    assert history["strength"] == [0.3]
    assert set(model.optimizer.strengths.values()) == {0.3}
    assert {v.regularizer.get_config()["strength"] for v in model.layers[0].weights} == {0.3}
