"""`Proximal`: what one of its steps is, around every optimizer and in every way of training."""

import keras
import numpy as np
import pytest
from keras import layers
from steps import OPTIMIZERS, STRENGTH, kernel, network, problem, reference

from keras_reg.optimizers import Proximal
from keras_reg.optimizers.step_sizes import preconditioned
from keras_reg.regularizers import L0, L1, L1L2, L2, MCP, Grouped, GroupLasso, SparseGroupLasso

BACKEND = keras.backend.backend()
X, Y = problem()
# A metric of its own, and the two that have none.
COMBINATIONS = [(name, "euclidean") for name in OPTIMIZERS] + [
    (name, "preconditioned") for name in OPTIMIZERS if preconditioned(OPTIMIZERS[name]())
]


def proximal_model(inner, metric="auto", penalty=None, dtype=None, **compile_arguments):
    model = network(penalty or L1(STRENGTH, proximal=True), dtype)
    model.compile(Proximal(inner, metric=metric), "mse", **compile_arguments)
    return model


def proximal(penalty):
    return type(penalty).from_config({**penalty.get_config(), "proximal": True})


@pytest.mark.parametrize(("name", "metric"), COMBINATIONS)
def test_a_step_is_the_inner_step_and_a_soft_threshold(name, metric):
    model = proximal_model(OPTIMIZERS[name](), metric)
    for _ in range(4):
        model.train_on_batch(X, Y)
    expected = reference(OPTIMIZERS[name](), model.optimizer.metric, 4)
    np.testing.assert_allclose(kernel(model), expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(kernel(model) == 0, np.abs(expected) < 1e-12)
    assert int(model.optimizer.iterations) == 4


def test_the_steps_of_the_table_do_set_weights_to_zero():
    """Else the comparison above would say little."""
    zeros = [np.mean(reference(OPTIMIZERS[name](), metric, 4, strength=STRENGTH) == 0) for name, metric in COMBINATIONS]
    assert np.mean(np.asarray(zeros) > 0) > 0.5


@pytest.mark.parametrize("inner", ["SGD-momentum", "Adam"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"run_eagerly": True, "jit_compile": False},
        {"jit_compile": False},
        pytest.param(
            {"jit_compile": True},
            marks=pytest.mark.filterwarnings(*(["ignore::UserWarning", "ignore::DeprecationWarning"] if BACKEND == "torch" else [])),
        ),
        pytest.param({"steps_per_execution": 4}, marks=pytest.mark.skipif(BACKEND == "torch", reason="Keras has none on PyTorch")),
    ],
    ids=str,
)
def test_ways_to_run_agree(inner, arguments):
    model = proximal_model(OPTIMIZERS[inner](), **arguments)
    model.fit(X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0)
    batches = [(X[:16], Y[:16]), (X[16:], Y[16:])] * 4
    metric = "euclidean" if inner.startswith("SGD") else "preconditioned"
    np.testing.assert_allclose(kernel(model), reference(OPTIMIZERS[inner](), metric, 8, batches), rtol=2e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="Keras has no stateless step on TensorFlow")
def test_a_stateless_step_leaves_what_it_is_given():
    model = network(L1(STRENGTH, proximal=True))
    optimizer = Proximal("sgd")
    optimizer.build(model.trainable_variables)
    values = [keras.ops.copy(v) for v in model.trainable_variables]
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in values]
    memory = [keras.ops.copy(v) for v in optimizer.variables]
    after, _ = optimizer.stateless_apply(memory, [keras.ops.zeros_like(v) for v in values], values)
    for old, value in zip(before, values, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(value), old)
    threshold = 0.01 * STRENGTH
    expected = np.sign(before[0]) * np.maximum(np.abs(before[0]) - threshold, 0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(after[0]), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(kernel(model), before[0])


@pytest.mark.parametrize("metric", ["euclidean", "preconditioned"])
def test_the_prox_waits_for_the_accumulated_gradient(metric):
    model = proximal_model(keras.optimizers.Adam(0.03, gradient_accumulation_steps=2), metric)
    seen = []
    for batch in [(X[:16], Y[:16]), (X[16:], Y[16:])] * 3:
        model.train_on_batch(*batch)
        seen.append(kernel(model))
    for count in range(3):
        # The first half only gathers, the second acts on the mean of both.
        np.testing.assert_array_equal(seen[2 * count], seen[2 * count - 1] if count else kernel(network()))
    np.testing.assert_allclose(seen[-1], reference(keras.optimizers.Adam(0.03), metric, 3), rtol=2e-4, atol=1e-6)
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize("frequency", [None, 3])
def test_zeros_survive_averaging(frequency):
    inner = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=frequency)
    model = proximal_model(inner, penalty=L1(0.3, proximal=True))
    for _ in range(12):
        model.train_on_batch(X, Y)
    zero = kernel(model) == 0
    assert 0 < zero.sum() < zero.size
    if frequency is None:
        bare = kernel(model)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        averaged = kernel(model)
        np.testing.assert_array_equal(averaged == 0, zero)
        assert not np.allclose(averaged, bare, rtol=1e-5)
    assert model.optimizer.use_ema


def test_averages_restart_at_zero_with_the_weight():
    inner = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)
    model = proximal_model(inner, penalty=L1(0.3, proximal=True))
    expected = np.zeros((6, 2))
    for count in range(6):
        model.train_on_batch(X, Y)
        momentum = 0.5 if count else 0.0
        expected = np.where(kernel(model) == 0, 0, momentum * expected + (1 - momentum) * kernel(model))
    model.optimizer.finalize_variable_values(model.trainable_variables)
    np.testing.assert_allclose(kernel(model), expected, rtol=1e-5, atol=1e-7)


def test_constraints_come_after_the_prox():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(2, kernel_regularizer=L1(0.3, proximal=True), kernel_constraint=keras.constraints.UnitNorm(axis=0), name="dense"),
        ]
    )
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.fit(X, Y, epochs=20, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(kernel(model), axis=0), 1, rtol=1e-5)
    assert np.any(kernel(model) == 0)


@pytest.mark.parametrize(
    "penalty",
    [
        L1L2(0.1, 0.1, proximal=True),
        L0(0.01, relaxation="hard", proximal=True),
        MCP(0.2, proximal=True),
        GroupLasso(0.1, axis=0, proximal=True),
        SparseGroupLasso(0.05, 0.05, axis=0, proximal=True),
        Grouped(MCP(0.2), axis=0, proximal=True),
    ],
    ids=lambda p: type(p).__name__,
)
def test_other_penalties(penalty):
    """Against the prox of the penalty itself, which has oracles of its own."""
    model = proximal_model(keras.optimizers.SGD(0.1), penalty=penalty)
    bare = network()
    bare.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True, jit_compile=False)
    for _ in range(5):
        model.train_on_batch(X, Y)
        bare.train_on_batch(X, Y)
        bare.get_layer("dense").kernel.assign(penalty.prox(bare.get_layer("dense").kernel, 0.1))
    np.testing.assert_allclose(kernel(model), kernel(bare), rtol=1e-4, atol=1e-6)


def test_the_loss_shows_the_penalty():
    model = proximal_model(keras.optimizers.SGD(0.1))
    data = np.mean((X @ kernel(model) - Y) ** 2)
    loss = model.train_on_batch(X, Y)
    np.testing.assert_allclose(float(np.asarray(loss)), data + STRENGTH * np.abs(kernel(network())).sum(), rtol=1e-5)


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_mixed_precision_and_its_loss_scaling(mixed_float16):
    model = proximal_model(keras.optimizers.SGD(0.1), penalty=L1(0.3, proximal=True))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.fit(X, Y, epochs=30, verbose=0)
    full = network(L1(0.3, proximal=True), "float32")
    full.get_layer("dense").dtype_policy = "float32"
    full.compile(Proximal(keras.optimizers.SGD(0.1)), "mse", auto_scale_loss=False)
    full.fit(X, Y, epochs=30, verbose=0)
    assert 0 < np.sum(kernel(model) == 0) < 12
    np.testing.assert_allclose(kernel(model), kernel(full), atol=5e-3)


def test_a_skipped_step_of_loss_scaling_skips_the_prox():
    model = proximal_model(keras.optimizers.SGD(0.1))
    optimizer = keras.optimizers.LossScaleOptimizer(Proximal(keras.optimizers.SGD(0.1)))
    model.compile(optimizer, "mse")
    model.train_on_batch(X, Y)
    before = kernel(model)
    model.train_on_batch(np.full_like(X, np.inf), Y)
    np.testing.assert_array_equal(kernel(model), before)


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer")
def test_inside_multi_optimizer():
    def two(first, second):
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, kernel_regularizer=first, name="first"),
                layers.Dense(2, kernel_regularizer=second, name="second"),
            ]
        )

    model = two(L1(0.2, proximal=True), L2(0.1))
    chosen = keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01), {".*first/kernel": Proximal(keras.optimizers.SGD(0.1))})
    model.compile(keras.optimizers.MultiOptimizer(chosen), "mse")
    model.fit(X, Y, epochs=20, batch_size=32, verbose=0)
    first, second = (keras.ops.convert_to_numpy(model.get_layer(n).kernel) for n in ("first", "second"))
    assert 0 < np.sum(first == 0) < first.size
    assert not np.any(second == 0)


def test_a_gradient_of_nan_shows():
    model = proximal_model(keras.optimizers.SGD(0.1))
    x = X.copy()
    x[0, 0] = np.nan
    model.train_on_batch(x, Y)
    assert np.all(np.isnan(kernel(model)[0]))
    assert not np.any(kernel(model)[0] == 0)


def test_learning_rates_are_those_of_the_inner_optimizer():
    optimizer = Proximal(keras.optimizers.SGD(0.5))
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    model = network(L1(STRENGTH, proximal=True))
    model.compile(optimizer, "mse")
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", min_delta=1e9, patience=1, factor=0.5)
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[halve, plateau])
    assert history.history["learning_rate"] == [0.125, 0.0625, 0.015625]
    assert float(optimizer.learning_rate) == 0.0078125


@pytest.mark.parametrize(
    "inner", ["adam", keras.optimizers.serialize(keras.optimizers.Adam(0.5)), keras.optimizers.Adam()], ids=["name", "config", "object"]
)
def test_inner_optimizers_and_configs(inner):
    optimizer = Proximal(inner, metric="euclidean", name="mine")
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again.inner_optimizer, keras.optimizers.Adam)
    assert again.get_config() == optimizer.get_config()
    assert (again.metric, again.name) == ("euclidean", "mine")


def test_the_metric_chosen():
    metrics = {name: Proximal(make()).metric for name, make in OPTIMIZERS.items()}
    own = {name for name, metric in metrics.items() if metric == "preconditioned"}
    assert own == {"Adam", "Adam-amsgrad", "AdamW", "Nadam", "Adamax", "RMSprop", "RMSprop-all", "Adagrad", "Ftrl"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("adamm",), TypeError, "inner_optimizer.*its name.*'adamm'"),
        ((3,), TypeError, "inner_optimizer.*Received: inner_optimizer=3"),
        ((keras.optimizers.SGD(), "diagonal"), ValueError, "`metric` must be one of"),
        ((keras.optimizers.Lion(), "preconditioned"), ValueError, "`metric` must be 'euclidean'.*Lion"),
        ((keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),), ValueError, "LossScaleOptimizer.*belongs outside"),
        ((Proximal("sgd"),), ValueError, "must not be a Proximal"),
    ],
    ids=["unknown name", "number", "unknown metric", "no metric", "loss scaling", "itself"],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Proximal(*arguments)


def test_arguments_that_belong_inside():
    with pytest.raises(ValueError, match="`clipnorm` belongs to the inner optimizer"):
        Proximal("sgd", clipnorm=1.0)
    with pytest.raises(TypeError, match="no argument `momentun`"):
        Proximal("sgd", momentun=0.9)


@pytest.mark.parametrize(
    ("penalty", "inner", "message"),
    [
        (None, "sgd", r"nothing to apply: none of its 2 trainable variables.*found: none"),
        (L2(0.1), "sgd", "regularizers found: L2"),
        (Grouped(MCP(0.1), proximal=True), "adam", r"dense/kernel.*Grouped.*no exact prox with a step for each weight.*euclidean"),
    ],
    ids=["none", "not proximal", "no prox in the metric"],
)
def test_what_cannot_train_is_refused_before_the_first_update(penalty, inner, message):
    model = network(penalty)
    model.compile(Proximal(inner), "mse")
    before = kernel(model)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(kernel(model), before)


def test_the_step_table_names_every_optimizer_of_keras():
    """A new one has to be looked at: does it have a metric, does it keep the weights elsewhere?"""
    known = {type(make()) for make in OPTIMIZERS.values()} | {keras.optimizers.SGD, keras.optimizers.Muon}
    public = {
        kind
        for name in dir(keras.optimizers)
        if isinstance(kind := getattr(keras.optimizers, name), type)
        and issubclass(kind, keras.optimizers.Optimizer)
        and kind is not keras.optimizers.Optimizer
        and name not in ("LossScaleOptimizer", "MultiOptimizer", "ScheduleFreeAdamW")
    }
    assert {kind for kind in public if not any(issubclass(k, kind) for k in known)} == set()
