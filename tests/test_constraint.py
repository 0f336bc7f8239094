"""`L0Constraint` in training: exactly so many zeros, wherever weights are trained, saved and resumed."""

import contextlib

import keras
import numpy as np
import pytest
import steps
from keras import layers, ops
from steps import OPTIMIZERS

from keras_reg.callbacks import StrengthScheduler, TargetSparsity
from keras_reg.models import attach, check, sparsity
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L0Constraint
from keras_reg.testing import check_penalty

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = (X[:, :2] @ [[1.0], [-0.5]]).astype("float32")
ADAM = OPTIMIZERS["Adam"]


def network(penalty=None, **options):
    keras.utils.set_random_seed(1)
    made = [layers.Dense(units, kernel_regularizer=penalty, name=name) for name, units in (("first", 6), ("last", 4))]
    model = keras.Sequential([keras.Input((8,)), *made])
    model.compile(options.pop("optimizer", None) or Proximal(ADAM()), "mse", **options)
    return model


def kernels(model):
    return [np.array(ops.convert_to_numpy(layer.kernel)) for layer in model.layers]


def zeros(model):
    return [int((kernel == 0).sum()) for kernel in kernels(model)]


def no_gradients():
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def fit(model, epochs=2, **options):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options).history


@pytest.mark.parametrize(
    ("penalty", "shape"),
    [
        (L0Constraint(0.3, axis=(-2, -1)), (2, 3, 2)),
        (L0Constraint(0.5, block_size=(2, 1)), (4, 3)),
        (L0Constraint(n_of_m=(2, 4)), (4, 3)),
    ],
    ids=str,
)
def test_contract(penalty, shape):
    check_penalty(penalty, shape)


@pytest.mark.parametrize("way", ["plain", "eager", "jit", "accumulation", "loss-scaling", "float16", "every", "held"])
@pytest.mark.parametrize("scope", ["weight", "model"])
def test_exactly_so_many_zeros(way, scope):
    options = {"plain": {}, "eager": {"run_eagerly": True}, "jit": {"jit_compile": BACKEND != "torch"}}.get(way, {})
    inner = keras.optimizers.Adam(0.03, gradient_accumulation_steps=2 if way == "accumulation" else None)
    optimizer = Proximal(inner)
    if way == "loss-scaling":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    penalty = L0Constraint(0.7, scope=scope, every=3 if way in ("every", "held") else 1, regrow=way != "held")
    before = keras.config.dtype_policy()
    try:
        if way == "float16":
            keras.config.set_dtype_policy("mixed_float16")
        model = network(penalty, optimizer=optimizer, **options)
    finally:
        keras.config.set_dtype_policy(before)
    fit(model)
    # ⌈0.7·48⌉ and ⌈0.7·24⌉
    assert zeros(model) == [34, 17] if scope == "weight" else sum(zeros(model)) == 51
    assert not any((kernel == 0).all() for kernel in kernels(model))


@pytest.mark.parametrize("name", ["SGD-momentum", "Adam", "RMSprop", "Ftrl"])
def test_what_goes_is_what_is_smallest_in_the_metric(name):
    """Against a step of the bare optimizer, and NumPy."""
    made = [steps.network(L0Constraint(0.5)), steps.network()]
    optimizers = [Proximal(OPTIMIZERS[name]()), OPTIMIZERS[name]()]
    rate = float(ops.convert_to_numpy(optimizers[1].learning_rate))
    for model, optimizer in zip(made, optimizers, strict=True):
        model.compile(optimizer, "mse")
        model.train_on_batch(*steps.problem())
    z = steps.kernel(made[1]).astype("float64")
    step = 1.0 if name.startswith("SGD") else steps.own_step(optimizers[1], rate, 1)
    bound = np.median(z**2 / step)
    np.testing.assert_allclose(steps.kernel(made[0]), np.where(z**2 / step > bound, z, 0), rtol=1e-5, atol=1e-7)


def test_with_the_whole_model_the_layers_compare():
    """By `|w|` in root mean squares of its weight, without a metric: a scale that the next layer takes back changes nothing."""
    model = network(L0Constraint(0.5, scope="model"), optimizer=Proximal(keras.optimizers.SGD(0.0)))
    first, last = (kernel * factor for kernel, factor in zip(kernels(model), (1000.0, 1.0), strict=True))
    model.layers[0].kernel.assign(first)
    model.train_on_batch(X, Y)
    sizes = [np.abs(kernel) / np.sqrt(np.mean(kernel**2)) for kernel in (first, last)]
    bound = np.median(np.concatenate([size.ravel() for size in sizes]))
    for kernel, size in zip(kernels(model), sizes, strict=True):
        np.testing.assert_array_equal(kernel != 0, size > bound)


def test_one_unit_of_each_weight_stays():
    model = network(L0Constraint(0.9, axis=-1, scope="model"), optimizer=Proximal(keras.optimizers.SGD(0.0)))
    # Of the first layer two stand out, of the last none: counted together, both places would be the first's.
    model.layers[0].kernel.assign(np.tile(np.float32([5, 5, 0.1, 0.1, 0.1, 0.1]), (8, 1)))
    model.layers[1].kernel.assign(np.full((6, 4), 1e-9, "float32"))
    model.train_on_batch(X, Y)
    assert [(kernel != 0).any(0).sum() for kernel in kernels(model)] == [1, 1]


def test_groups_of_all_sizes_compare():
    """By root mean squares: four weights count no more than one."""
    penalty = L0Constraint(0.5, axis=-1, scope="model")
    tensors = [ops.convert_to_tensor(np.full(shape, size, "float32")) for shape, size in (((4, 3), 1.0), ((1, 3), 1.5))]
    four, one = penalty.dropped([penalty, penalty], tensors, [ops.ones_like(w) for w in tensors])
    assert ops.convert_to_numpy(four).sum() == 2  # one stays in any case
    assert ops.convert_to_numpy(one).sum() == 1


@pytest.mark.parametrize("regrow", [True, False])
def test_what_is_dropped_at_every_step(regrow):
    model = network(L0Constraint(0.5, regrow=regrow), optimizer=Proximal(keras.optimizers.Adam(0.5)))
    seen = []
    for _ in range(9):
        model.train_on_batch(X, Y)
        seen.append(kernels(model)[0] == 0)
    assert all(mask.sum() == 24 for mask in seen)
    assert np.array_equal(seen[0], seen[8]) != regrow


@pytest.mark.parametrize("regrow", [True, False])
def test_between_choices_zeros_stay(regrow):
    model = network(L0Constraint(0.5, every=4, regrow=regrow))
    seen = []
    for _ in range(9):
        model.train_on_batch(X, Y)
        seen.append(kernels(model)[0] == 0)
    # Chosen in the first, fifth and ninth update.
    for chosen in (0, 4):
        for later in range(1, 4):
            np.testing.assert_array_equal(seen[chosen], seen[chosen + later])
    assert all(mask.sum() == 24 for mask in seen)
    if not regrow:
        np.testing.assert_array_equal(seen[0], seen[8])


def test_a_ramp_and_what_logs_and_files_say(tmp_path):
    """One line for the ramp of Zhu and Gupta; resumed in the middle, bit for bit."""

    def ramp():
        return StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(0.0, 14, 0.8, power=3), freq=2)

    straight = network(L0Constraint(0.1, every=3))
    history = fit(straight, 4, callbacks=[ramp()])
    assert history["strength"][-1] == pytest.approx(0.8)
    assert history["sparsity"][-1] == pytest.approx((39 + 20) / 72)
    halved = network(L0Constraint(0.1, every=3))
    fit(halved, 2, callbacks=[ramp()])
    halved.save(tmp_path / "m.keras")
    resumed = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(resumed.layers[0].kernel_regularizer.sparsity, 0.8 - 0.8 * (1 - 6 / 14) ** 3, rtol=1e-6)
    fit(resumed, 4, initial_epoch=2, callbacks=[ramp()])
    for kernel, other in zip(kernels(resumed), kernels(straight), strict=True):
        np.testing.assert_array_equal(kernel, other)
    assert sparsity(resumed).total.penalty == 0
    assert keras.models.clone_model(resumed).layers[1].kernel_regularizer.get_config()["every"] == 3


def test_attached_it_acts_and_what_is_wrong_is_said():
    model = network(optimizer=keras.optimizers.Adam())
    with pytest.raises(ValueError, match=r"L0Constraint\(0.5, block_size=\(3, 1\)\) cannot act on 'first/kernel'.*must divide"):
        attach(model, L0Constraint(0.5, block_size=(3, 1)))
    attach(model, L0Constraint(0.5))
    with pytest.raises(ValueError, match="already has L0Constraint"):
        attach(model, L1(0.1, proximal=True))
    assert "unapplied" in {finding.kind for finding in check(model).findings}
    with pytest.raises(ValueError, match=r"through `keras_reg.optimizers.Proximal` alone"):
        # A model of its own: what `fit` breaks off on JAX has lost its weights.
        fit(network(L0Constraint(0.5), optimizer=keras.optimizers.Adam()))
    assert np.isfinite(model.evaluate(X, Y, verbose=0))
    model.compile(Proximal(ADAM()), "mse")
    with pytest.raises(ValueError, match="its share of zeros is set"):
        fit(model, callbacks=[TargetSparsity(0.5, 1)])
    with pytest.raises(ValueError, match=r"schedule\(1\)=1.0 is out of bounds. Argument `sparsity` must be at least 0 and below 1"):
        fit(model, callbacks=[StrengthScheduler(lambda epoch: float(epoch))])
    assert zeros(model) == [0, 0]
    fit(model)
    assert zeros(model) == [24, 12]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, "`sparsity` must be at least 0 and below 1"),
        ({"sparsity": -0.1}, ValueError, "`sparsity` must be at least 0 and below 1"),
        ({"sparsity": "half"}, TypeError, "`sparsity` must be a number"),
        ({}, ValueError, "`sparsity` must be given"),
        ({"n_of_m": (5, 4)}, ValueError, "`n_of_m` must be .* n at most m"),
        ({"n_of_m": 2}, TypeError, "`n_of_m` must be two whole numbers"),
        ({"sparsity": 0.5, "block_size": (0, 1)}, ValueError, "`block_size` must be a whole number of at least 1"),
        ({"sparsity": 0.5, "axis": 0, "block_size": (1, 1)}, ValueError, "one of `axis`, `block_size` and `n_of_m`"),
        ({"sparsity": 0.5, "scope": "layer"}, ValueError, "`scope` must be one of"),
        ({"n_of_m": (2, 4), "scope": "model"}, ValueError, "`scope` must be 'weight'"),
        ({"sparsity": 0.5, "every": 0}, ValueError, "`every` must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        L0Constraint(**arguments)


@pytest.mark.parametrize(("penalty", "keep_zeros"), [(L0Constraint(0.5), False), (None, True)], ids=["constraint", "keep_zeros"])
def test_an_optimizer_that_computes_weights_anew_is_told(penalty, keep_zeros):
    """Ftrl makes the weights of what it remembers: without a gradient, those that are there."""
    model = network(penalty, optimizer=Proximal(OPTIMIZERS["Ftrl"](), keep_zeros=keep_zeros))
    model.layers[0].kernel.assign(np.where(np.abs(kernels(model)[0]) < 0.3, 0, kernels(model)[0]))
    fit(model)
    before, inner = kernels(model), model.optimizer.inner_optimizer
    with no_gradients():
        inner.apply([ops.zeros_like(v.value) for v in model.trainable_variables], model.trainable_variables)
    for kernel, old in zip(kernels(model), before, strict=True):
        np.testing.assert_allclose(kernel, old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD-momentum", "AdamW", "Ftrl"])
def test_keep_zeros_without_a_penalty(name):
    model = network(optimizer=Proximal(OPTIMIZERS[name](), keep_zeros=True))
    for layer, kernel in zip(model.layers, kernels(model), strict=True):
        layer.kernel.assign(np.where(np.abs(kernel) < 0.3, 0, kernel))
    before = kernels(model)
    fit(model, 3)
    for kernel, old in zip(kernels(model), before, strict=True):
        np.testing.assert_array_equal(kernel == 0, old == 0)
        assert not np.allclose(kernel, old)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    assert again.keep_zeros


def test_keep_zeros_in_averages():
    inner = keras.optimizers.Adam(0.03, use_ema=True, ema_momentum=0.5)
    model = network(optimizer=Proximal(inner, keep_zeros=True))
    model.layers[0].kernel.assign(np.where(np.abs(kernels(model)[0]) < 0.3, 0, kernels(model)[0]))
    zero = kernels(model)[0] == 0
    fit(model)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    np.testing.assert_array_equal(kernels(model)[0] == 0, zero)
