"""Things of ours beside what Keras has for the same purpose, in the situations that users combine them with.

Two questions everywhere. Parity: where Keras's own works, ours works. And nothing at strength 0: a penalty of strength 0 gives, bit for
bit, the weights, logs and losses of a run without it. A new public thing is a line in THINGS, a fault found by use one in SITUATIONS.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg.callbacks import StrengthScheduler, TargetSparsity, WeightHistogram
from keras_reg.layers import Embedding, GaussianGate, HardConcreteGate
from keras_reg.layers.gate import Gate
from keras_reg.models import attach, compact, insert_gates, sparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import (
    L1,
    L2,
    GaussianGatePenalty,
    GroupLasso,
    HardConcreteL0,
    L0Constraint,
    SparseGroupLasso,
    StructuralGroupLasso,
    StructuralL0Constraint,
)
from keras_reg.regularizers.part import Part

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is proximal, but no optimizer"),
    pytest.mark.filterwarnings("ignore:The penalties of"),
    pytest.mark.filterwarnings("ignore:.*strengths are 0"),
]


def bare(optimizer):
    return optimizer


# What is put on, by strength, and what is wrapped around the optimizer.
THINGS = {
    "L1-loss": (lambda s: L1(s), bare),
    "group-loss": (lambda s: GroupLasso(s, axis=-2), bare),
    "L1-prox": (lambda s: L1(s, proximal=True), Proximal),
    "group-prox": (lambda s: GroupLasso(s, axis=-2, proximal=True), Proximal),
    "sparse-group-prox": (lambda s: SparseGroupLasso(s, s, axis=-2, proximal=True), Proximal),
    "L2-prox": (lambda s: L2(s, proximal=True), Proximal),
    "count-prox": (lambda s: L0Constraint(s, axis=-2), Proximal),
    "count-of-the-model": (lambda s: L0Constraint(s, scope="model", every=2, regrow=False), Proximal),
    "sum": (lambda s: GroupLasso(s, axis=-2, proximal=True) + L2(s), Proximal),
    "structural": (lambda s: StructuralGroupLasso(s), Proximal),
    "budget": (lambda s: StructuralL0Constraint(1 - s), Proximal),
    # At strength 0 frozen, which is to say without noise and as they start, fully open.
    "hard-concrete": (lambda s: HardConcreteGate(gate_regularizer=HardConcreteL0(s), trainable=s > 0, seed=1), bare),
    "gaussian": (lambda s: GaussianGate(gate_regularizer=GaussianGatePenalty(s), trainable=s > 0, seed=1), bare),
}
GATES = ("hard-concrete", "gaussian")


def with_penalty(make, penalty):
    """A model with it, put on where it reaches over several weights."""
    if not isinstance(penalty, (Part, Gate)):
        return make(penalty)
    model = make(None)
    if isinstance(penalty, Gate):
        return insert_gates(model, penalty)
    attach(model, penalty)
    return model


def weights_without_gates(model):
    gates = {id(layer.gate) for layer in model._flatten_layers() if isinstance(layer, Gate)}
    return [ops.convert_to_numpy(v) for v in model.weights if id(v) not in gates]


def sequential(penalty):
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=penalty), layers.Dense(1)])


def unbuilt(penalty):
    return keras.Sequential([layers.Dense(3, kernel_regularizer=penalty), layers.Dense(1)])


def shared(penalty):
    x = keras.Input((4,))
    layer = layers.Dense(4, kernel_regularizer=penalty)
    return keras.Model(x, layers.Dense(1)(layer(layer(x))))


def nested(penalty):
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(1)(sequential(penalty)(x)))


def recurrent(penalty):
    return keras.Sequential([keras.Input((4,)), layers.Reshape((2, 2)), layers.LSTM(2, kernel_regularizer=penalty), layers.Dense(1)])


def frozen(penalty):
    model = sequential(penalty)
    model.layers[-1].trainable = False
    return model


def wide(penalty):
    table = Embedding(7, 3, embeddings_regularizer=penalty)  # the numbers of rows are what floats are cut to
    return keras.Sequential([keras.Input((4,)), table, layers.Flatten(), layers.Dense(1)])


MODELS = {
    "sequential": sequential,
    "unbuilt": unbuilt,
    "shared": shared,
    "nested": nested,
    "recurrent": recurrent,
    "frozen": frozen,
    "wide": wide,
}


def fit(model, epochs=2, callbacks=(), **kwargs):
    options = {"batch_size": 8, "epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": list(callbacks), **kwargs}
    return model.fit(X, Y, **options).history


def adam(**kwargs):
    return keras.optimizers.Adam(0.02, **kwargs)


def compile_and_fit(wrap, model, inner=adam, **options):
    fit_options = {key: options.pop(key) for key in ("callbacks", "validation_data", "validation_split", "initial_epoch") if key in options}
    optimizer = wrap(inner())
    if options.pop("loss_scaling", False):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    return fit(model, **fit_options)


def twice(wrap, model):
    compile_and_fit(wrap, model)
    return fit(model, initial_epoch=1, epochs=3)


def batches(wrap, model):
    model.compile(wrap(adam()), "mse")
    model.build((None, 4))
    return {"loss": [float(np.ravel(model.train_on_batch(X, Y))[0]) for _ in range(3)] + [model.evaluate(X, Y, verbose=0)]}


def evaluated_first(wrap, model):
    model.compile(wrap(adam()), "mse")
    first = model.evaluate(X, Y, verbose=0)
    return {"loss": [first, *fit(model)["loss"], model.evaluate(X, Y, verbose=0)]}


def recompiled(wrap, model):
    history = compile_and_fit(wrap, model)
    return {"loss": history["loss"] + compile_and_fit(wrap, model, inner=lambda: keras.optimizers.SGD(0.02))["loss"]}


SITUATIONS = {
    "fit": compile_and_fit,
    "validation": lambda w, m: compile_and_fit(w, m, validation_split=0.3),
    "twice": twice,
    "batches": batches,
    "evaluated-first": evaluated_first,
    "recompiled": recompiled,
    "eagerly": lambda w, m: compile_and_fit(w, m, run_eagerly=True),
    "jit": lambda w, m: compile_and_fit(w, m, jit_compile=BACKEND != "torch"),
    "several-steps-at-once": lambda w, m: compile_and_fit(w, m, steps_per_execution=2 if BACKEND != "torch" else 1),
    "accumulation": lambda w, m: compile_and_fit(w, m, inner=lambda: adam(gradient_accumulation_steps=2)),
    "average": lambda w, m: compile_and_fit(w, m, inner=lambda: adam(use_ema=True, ema_momentum=0.5)),
    "clipping-decay": lambda w, m: compile_and_fit(w, m, inner=lambda: keras.optimizers.AdamW(0.02, clipnorm=0.1)),
    "schedule": lambda w, m: compile_and_fit(
        w, m, inner=lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, 10), momentum=0.9)
    ),
    "loss-scaling": lambda w, m: compile_and_fit(w, m, loss_scaling=True),
    "callbacks": lambda w, m: compile_and_fit(
        w,
        m,
        validation_data=(X, Y),
        callbacks=[
            keras.callbacks.EarlyStopping(restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(patience=0),
            keras.callbacks.TerminateOnNaN(),
        ],
    ),
}


def run(thing, situation, model="sequential"):
    """The history and weights of a run with the thing at strength 0, or without one (None)."""
    make, wrap = THINGS[thing] if thing else (lambda strength: None, bare)
    keras.utils.set_random_seed(0)
    made = with_penalty(MODELS[model], make(0.0))
    history = SITUATIONS[situation](wrap, made)
    return history, weights_without_gates(made)


@functools.cache
def without(situation, model="sequential"):
    """What is compared with: one run for all things."""
    return run(None, situation, model)


def assert_same(found, expected, exactly):
    (history, weights), (other_history, other_weights) = found, expected
    assert history.keys() == other_history.keys()
    loose, looser = ({}, {}) if exactly else ({"rtol": 1e-5, "atol": 1e-6}, {"rtol": 1e-4, "atol": 1e-6})
    for name, values in other_history.items():
        np.testing.assert_allclose(history[name], values, **(loose or {"rtol": 0}), err_msg=name)
    for ours, theirs in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, **(looser or {"rtol": 0}))


FEW = ("validation", "batches", "jit", "accumulation", "loss-scaling")
IN_FEW = ("L1-loss", "group-prox", "structural", "count-of-the-model")
PAIRS = [("L1-prox", situation) for situation in SITUATIONS] + [
    (t, s) for t in ("L1-loss", "group-prox", "structural", "count-of-the-model") for s in FEW
]


@pytest.mark.parametrize(("thing", "situation"), PAIRS)
def test_nothing_at_strength_0(thing, situation):
    # What compilers fuse differently, they round differently.
    assert_same(run(thing, situation), without(situation), exactly=BACKEND == "torch" or situation in ("eagerly",))


IN_MODELS = [(thing, model) for thing in ("L1-loss", "group-prox") for model in MODELS if model != "sequential"]
# With a penalty in the loss, Keras's own too, the gradient of an embedding is dense, and Adam squares sums instead of adding squares.
IN_MODELS.remove(("L1-loss", "wide"))


@pytest.mark.parametrize(("thing", "model"), IN_MODELS)
def test_nothing_at_strength_0_in_every_model(thing, model):
    assert_same(run(thing, "fit", model), without("fit", model), exactly=BACKEND == "torch")


@pytest.mark.parametrize("thing", [name for name in THINGS if name not in {thing for thing, _ in PAIRS}])
def test_the_other_things_at_strength_0(thing):
    assert_same(run(thing, "validation"), without("validation"), exactly=BACKEND == "torch")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_gates_in_every_situation(situation):
    """Each with one of the two kinds: gates train, their penalty is in the loss, what is left predicts alike."""
    make, _ = THINGS[GATES[list(SITUATIONS).index(situation) % 2]]
    keras.utils.set_random_seed(0)
    model = with_penalty(sequential, make(0.05))
    before = [ops.convert_to_numpy(layer.gate) for layer in model.layers if isinstance(layer, Gate)]
    history = SITUATIONS[situation](bare, model)
    assert np.isfinite(history["loss"]).all()
    after = [ops.convert_to_numpy(layer.gate) for layer in model.layers if isinstance(layer, Gate)]
    assert len(after) == 2
    assert all(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    small = compact(model)  # before `evaluate`, with which Keras on JAX deletes the averages of weights: it cannot save the model either
    loss = np.ravel(model.evaluate(X, Y, verbose=0))[0]
    penalty, outputs = ops.convert_to_numpy(ops.stop_gradient(sum(model.losses))), model.predict(X, verbose=0)
    np.testing.assert_allclose(loss, np.mean((outputs - Y) ** 2) + penalty, rtol=1e-5)
    np.testing.assert_allclose(small.predict(X, verbose=0), outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("thing", THINGS)
def test_at_a_strength_every_place_shows_the_same(thing, tmp_path):
    """`loss`, `val_loss`, `evaluate`, `losses`, the reports."""
    make, wrap = THINGS[thing]
    keras.utils.set_random_seed(0)
    model = with_penalty(sequential, make(0.05))
    model.compile(wrap(keras.optimizers.SGD(0.0)), "mse", metrics=["mse"])
    fresh = [float(ops.convert_to_numpy(sum(model.losses)))]
    history = fit(model, validation_data=(X, Y), callbacks=[WeightHistogram(tmp_path / "logs")])
    shown = [history["loss"][0] - history["mse"][0], history["val_loss"][0] - history["val_mse"][0], history["penalty"][0]]
    loss, mse = model.evaluate(X, Y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    shown += [loss - mse, float(ops.convert_to_numpy(sum(model.losses)))]
    shown += [sparsity(one).total.penalty for one in (model, loaded)]  # of the loaded one before it is called
    shown += [loaded.evaluate(X, Y, verbose=0)[0] - mse]
    np.testing.assert_allclose(shown, fresh * len(shown), rtol=1e-4)
    for name in ("data_loss", "val_data_loss"):
        np.testing.assert_allclose(history[name], history[name.replace("data_loss", "mse")], rtol=1e-5)


@pytest.mark.parametrize("proximal", [False, True])
def test_data_loss_while_the_strength_moves(proximal, tmp_path):
    """At every step, by batches of different sizes, with a penalty on activities and a loss that a layer adds."""

    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(ops.mean(x) * 0.1)
            return x

    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    hidden = layers.Dense(3, kernel_regularizer=L1(1.0, proximal=proximal), activity_regularizer=keras.regularizers.L2(0.1))(x)
    model = keras.Model(x, layers.Dense(1)(Adds()(hidden)))
    model.compile(Proximal(keras.optimizers.SGD(0.02)) if proximal else keras.optimizers.SGD(0.02), "mse", metrics=["mse"])
    schedule = StrengthScheduler(lambda step: 3.0 * (step % 4), freq="step")
    for callbacks in ([WeightHistogram(tmp_path), schedule], [schedule, WeightHistogram(tmp_path)]):
        history = fit(model, 3, callbacks=callbacks, validation_data=(X, Y))
        np.testing.assert_allclose(history["data_loss"], history["mse"], rtol=1e-5)
        np.testing.assert_allclose(history["val_data_loss"], history["val_mse"], rtol=1e-5)
        assert all(type(value) is float for values in history.values() for value in values)
    # Afterwards the model reports what it did before, and can be exported.
    if BACKEND == "tensorflow":
        model.export(tmp_path / "export", verbose=False)
    assert set(fit(model)) == {"loss", "mse"}
    assert len(model.evaluate(X, Y, verbose=0)) == 2


def test_structures_are_counted_once(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="hidden"), layers.Dense(1)])
    attach(model, StructuralGroupLasso(1e-3))
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    kernel, bias = model.layers[0].get_weights()
    kernel[:, :4] = 0
    bias[:] = 1
    bias[:4] = 0
    model.layers[0].set_weights([kernel, bias])
    history = fit(
        model, 1, callbacks=[TargetSparsity(0.5, 1, of="groups"), WeightHistogram(tmp_path, include=["hidden/kernel", "hidden/bias"])]
    )
    assert history["group_sparsity"] == [4 / 6]
    assert history["zero_groups"] == [4 / 6]
    total = sparsity(model, include="hidden").total
    assert (total.zero_groups, total.groups) == (4, 6)


@pytest.mark.parametrize("thing", ["L1-prox", "group-prox", "count-prox", "structural", "budget"])
def test_divergence_shows(thing):
    """Weights that are NaN stay NaN, so that the loss is, and `TerminateOnNaN` stops."""
    make, wrap = THINGS[thing]
    model = with_penalty(sequential, make(0.05))
    model.compile(wrap(keras.optimizers.Adam(0.1)), "mse")
    weights = model.get_weights()
    weights[0][0, 0] = np.nan
    model.set_weights(weights)
    history = fit(model, 3, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert len(history["loss"]) == 1
    assert np.isnan(model.get_weights()[0]).any()
