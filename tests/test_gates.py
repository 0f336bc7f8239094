"""Gates by themselves: their formulas, their noise, what they cost, what is saved of them, what they refuse."""

import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg.callbacks import StrengthScheduler
from keras_reg.layers import GatedKernel, GaussianGate, HardConcreteGate
from keras_reg.ops import (
    gaussian_gate,
    gaussian_gate_information,
    hard_concrete_gate,
    hard_concrete_open_probability,
    hard_concrete_sample,
)
from keras_reg.regularizers import L1, GaussianGatePenalty, HardConcreteL0
from keras_reg.testing.autodiff import value_and_gradient

BACKEND = keras.backend.backend()
GATES = {
    "hard-concrete": lambda **options: HardConcreteGate(gate_regularizer=HardConcreteL0(1e-3), **options),
    "gaussian": lambda **options: GaussianGate(initial_noise=0.3, gate_regularizer=GaussianGatePenalty(1e-3), **options),
}
X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
U = (np.arange(100_000) + 0.5) / 100_000
"""A grid in place of random numbers: means over it are probabilities."""
CONSTANTS = [(2 / 3, -0.1, 1.1), (0.5, -0.2, 1.3), (1.0, -0.05, 2.0)]


def array(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def test_the_values_of_the_paper():
    at = -np.log(11)
    np.testing.assert_allclose(2 / 3 * np.log(0.1 / 1.1), -1.5986, atol=1e-4)
    np.testing.assert_allclose(array(hard_concrete_open_probability([0.0, at])), [0.8318, 0.3102], atol=1e-4)
    sample = array(hard_concrete_sample([0.0], U))
    np.testing.assert_allclose([np.mean(sample != 0), np.mean(sample == 1)], [0.8318, 0.1682], atol=1e-4)
    below, above = np.float32([-2.398, -2.3978]), np.float32([2.3978, 2.398])
    assert (array(hard_concrete_gate(below)) == 0).tolist() == [True, False]
    assert (array(hard_concrete_gate(above)) == 1).tolist() == [False, True]
    # With no division by beta.
    np.testing.assert_allclose(array(hard_concrete_gate([1.0])), 1.2 / (1 + np.exp(-1)) - 0.1, rtol=1e-6)


@pytest.mark.parametrize("constants", CONSTANTS)
def test_what_is_open_is_what_is_expected(constants):
    beta, gamma, zeta = constants
    for log_alpha in (-4.0, -1.0, 0.3, 2.5):
        sample = array(hard_concrete_sample([log_alpha], U, *constants))
        concrete = 1 / (1 + np.exp(-(np.log(U) - np.log1p(-U) + log_alpha) / beta))
        np.testing.assert_allclose(sample, np.clip(concrete * (zeta - gamma) + gamma, 0, 1), atol=2e-6)
        probability = array(hard_concrete_open_probability([log_alpha], *constants))
        np.testing.assert_allclose(probability, np.mean(sample != 0), atol=1e-4)
        np.testing.assert_allclose(float(HardConcreteL0(2.0, 3.0, *constants)([log_alpha])), 6 * np.mean(sample != 0), atol=1e-3)


def test_the_gradient_of_samples_against_differences():
    u = np.random.default_rng(1).uniform(size=(50, 3))

    def total(log_alpha, lib):
        if lib is ops:
            return ops.sum(ops.square(hard_concrete_sample(log_alpha, u.astype("float32"))))
        concrete = 1 / (1 + np.exp(-(np.log(u) - np.log1p(-u) + log_alpha) * 1.5))
        return np.square(np.clip(concrete * 1.2 - 0.1, 0, 1)).sum()

    at = np.array([-2.0, 0.1, 1.5])
    value, gradient = value_and_gradient(lambda w: total(w, ops), at.astype("float32"))
    assert value == pytest.approx(total(at, np), rel=1e-5)
    for index in range(3):
        step = 1e-6 * np.eye(3)[index]
        np.testing.assert_allclose(gradient[index], (total(at + step, np) - total(at - step, np)) / 2e-6, rtol=1e-3)
    _, ends = value_and_gradient(lambda w: ops.sum(hard_concrete_sample(w, np.float32([0, 1, 0.5]))), at.astype("float32"))
    assert np.isfinite(ends).all()  # random numbers that are just 0 or 1


def test_gaussian_gates_close_where_the_noise_is_the_larger():
    mean = np.float32([0.5, 0.5, -0.5, -0.5, 0.0, 1e-30, 0.0])
    log_variance = np.float32([2 * np.log(0.49), 2 * np.log(0.51), 2 * np.log(0.49), 2 * np.log(0.51), -50, -30, -170])
    np.testing.assert_array_equal(array(gaussian_gate(mean, log_variance)), np.float32([0.5, 0, -0.5, 0, 0, 0, 0]))
    wide = mean.astype("float64"), log_variance.astype("float64")
    np.testing.assert_allclose(
        array(gaussian_gate_information(mean, log_variance)), np.log1p(wide[0] ** 2 / np.exp(wide[1])) / 2, rtol=1e-5, atol=1e-30
    )
    _, gradient = value_and_gradient(lambda w: ops.sum(gaussian_gate_information(w, log_variance)), mean)
    np.testing.assert_allclose(gradient, wide[0] / (wide[0] ** 2 + np.exp(wide[1])), rtol=1e-5, atol=1e-15)


def sampled(gate, x, **kwargs):
    return array(gate(x, training=True, **kwargs))


@pytest.mark.parametrize("kind", GATES)
def test_noise_for_each_example_or_batch(kind):
    gate = GATES[kind](seed=0)
    x = np.ones((500, 4), "float32")
    own = sampled(gate, x)
    assert len(np.unique(own[:, 0])) > 10
    assert not np.array_equal(own, sampled(gate, x))
    together = sampled(GATES[kind](per_sample=False, seed=0), x)
    assert (together == together[:1]).all()
    images = sampled(GATES[kind](axis=-1, seed=0), np.ones((5, 6, 6, 3), "float32"))
    assert (images == images[:, :1, :1]).all()
    places = sampled(GATES[kind](axis=(1, 2), seed=0), np.ones((5, 6, 7, 3), "float32"))
    assert (places == places[..., :1]).all()
    assert len(np.unique(places)) > 10
    assert GATES[kind](axis=None).compute_output_shape((2, 3)) == (2, 3)
    single = GATES[kind](axis=None)
    single(np.ones((5, 2, 3)))
    assert tuple(single.gate.shape) == (2 * single.halves, 3)


@pytest.mark.parametrize("kind", GATES)
def test_samples_have_the_moments_that_are_expected(kind):
    gate = GATES[kind](seed=3)
    gate.build((None, 3))
    gate.gate.assign([-2.0, 0.0, 1.0] if kind == "hard-concrete" else [0.5, 1.0, -2.0, -1.0, -3.0, 0.0])
    x = np.ones((40_000, 3), "float32")
    sample = sampled(gate, x)
    if kind == "hard-concrete":
        expected = array(gate.open_probability())
        assert {0.0, 1.0} < set(sample[:, 1].tolist())
        np.testing.assert_allclose((sample != 0).mean(0), expected, atol=5 * 0.5 / 200)
        np.testing.assert_allclose((sample != 0).sum(1).mean(), expected.sum(), atol=5 * 0.8 / 200)
    else:
        np.testing.assert_allclose(sample.mean(0), [0.5, 1, -2], atol=0.03)
        np.testing.assert_allclose(sample.std(0), np.exp([-0.5, -1.5, 0]), rtol=0.03)
    expected = hard_concrete_gate([-2.0, 0, 1]) if kind == "hard-concrete" else [0.0, 1, -2]
    np.testing.assert_allclose(array(gate(x))[0], array(ops.convert_to_tensor(expected)), rtol=1e-6)


@pytest.mark.parametrize("kind", GATES)
def test_frozen_gates_have_no_noise(kind):
    gate = GATES[kind]()
    gate.trainable = False
    np.testing.assert_array_equal(sampled(gate, X), array(gate(X)))
    assert not gate.losses


def model_of(kind, dtype=None, seed=5):
    gates = [GATES[kind](seed=seed + number, dtype=dtype, name=f"gate_{number}") for number in range(2)]
    kernel = GATES[kind](axis=None, per_sample=False, seed=seed, dtype=dtype)
    model = keras.Sequential([keras.Input((4,)), gates[0], layers.Dense(3, "tanh", dtype=dtype, name="hidden"), gates[1]])
    model.add(GatedKernel(layers.Dense(2, dtype=dtype, name="output"), kernel, dtype=dtype, name="gated"))
    return model


def gates_of(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, (HardConcreteGate, GaussianGate))]


def trained(kind, dtype=None, epochs=2, callbacks=(), **options):
    keras.utils.set_random_seed(0)
    model = model_of(kind, dtype)
    model.compile(keras.optimizers.Adam(0.02), "mse", **options)
    history = model.fit(X, X[:, :2], epochs=epochs, batch_size=8, verbose=0, shuffle=False, callbacks=list(callbacks)).history
    return model, history


@pytest.mark.parametrize("kind", GATES)
def test_seeds_reproduce_eager_and_compiled(kind):
    modes = [{"run_eagerly": True}, {"jit_compile": False}] + [{"jit_compile": True}] * (BACKEND != "torch")
    losses = [trained(kind, **mode)[1]["loss"] for mode in (*modes[-1:], *modes)]
    assert losses[0] == losses[-1]
    # XLA on TensorFlow draws other numbers, for Keras's Dropout as well.
    alike = losses[1:3] if BACKEND == "tensorflow" else losses
    np.testing.assert_allclose(alike, [alike[0]] * len(alike), rtol=1e-4)


@pytest.mark.parametrize("kind", GATES)
def test_what_is_saved(kind, tmp_path):
    model, _ = trained(kind)
    outputs = model.predict(X, verbose=0)
    np.testing.assert_array_equal(outputs, model.predict(X, verbose=0))
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    copies = [keras.models.load_model(tmp_path / "m.keras"), keras.models.clone_model(model), pickle.loads(pickle.dumps(model))]
    copies += [keras.models.model_from_json(model.to_json())]
    for copy in copies[1:4:2]:
        copy.load_weights(tmp_path / "m.weights.h5")
    for copy in copies:
        np.testing.assert_array_equal(copy.predict(X, verbose=0), outputs)
        assert [layer.get_config() for layer in gates_of(copy)] == [layer.get_config() for layer in gates_of(model)]
        assert [float(array(loss)) for loss in copy.losses] == [float(array(loss)) for loss in model.losses]
        assert len(copy.losses) == 3
    copies[0].fit(X, X[:, :2], verbose=0)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", GATES)
def test_in_mixed_precision_the_gates_are_not_rounded(kind, dtype):
    model, history = trained(kind, dtype, epochs=1)
    assert np.isfinite(history["loss"]).all()
    gate = model.layers[0]
    assert keras.backend.standardize_dtype(model.outputs[0].dtype) == dtype.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(one.dtype) for one in (gate.gate, gate.gates())} == {"float32"}
    if kind == "hard-concrete":
        gate.gate.assign(np.float32([-2.398, -2.3978, 2.3978, 2.398]))
        assert [bool(one) for one in array(gate.gates()) > 0] == [False, True, True, True]


def test_the_strength_moves_as_any():
    model, history = trained("hard-concrete", epochs=3, callbacks=[StrengthScheduler(lambda epoch: 0.1 * epoch)])
    assert history["strength"] == [0.0, 0.1, 0.2]
    expected = 0.2 * sum(array(gate.open_probability()).sum() for gate in (*model.layers[0::2][:2], model.layers[3].gate))
    assert float(array(sum(model.losses))) == pytest.approx(expected, rel=1e-5)
    assert model.layers[0].gate_regularizer.strength == pytest.approx(0.2)


@pytest.mark.parametrize("kind", GATES)
def test_what_nothing_needs_is_closed(kind):
    """Of eight inputs two matter; the strength counts parameters and examples, and gates find them."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = x[:, :1] - 2 * x[:, 1:2]
    penalty = HardConcreteL0(10 / len(x), weights=2.0) if kind == "hard-concrete" else GaussianGatePenalty(2 / len(x))
    gate = type(GATES[kind]())(gate_regularizer=penalty, seed=0)
    model = keras.Sequential([keras.Input((8,)), gate, layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, epochs=60, batch_size=32, verbose=0)
    assert np.flatnonzero(array(gate.gates())).tolist() == [0, 1]
    # The known way to fail: a strength far below.
    gate = type(gate)(gate_regularizer=penalty.with_strength(1e-9), seed=0)
    model = keras.Sequential([keras.Input((8,)), gate, layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, epochs=10, batch_size=32, verbose=0)
    assert array(gate.gates()).all()


def test_a_gate_can_come_back():
    gate = HardConcreteGate()
    model = keras.Sequential([keras.Input((4,)), gate])
    model.compile(keras.optimizers.SGD(1e4), "mse")
    gate.gate.assign([4.0, -4.0, 0.0, 1.0])
    model.fit(X, -X, verbose=0)
    assert array(gate.gate).min() == np.float32(-4.6)
    assert (array(gate.open_probability()) > 0.04).all()


def test_every_gate_can_close_and_open_whole():
    """Within the bounds of its weight, and by hand."""
    for gate in (HardConcreteGate(gamma=-0.001, zeta=1.001), HardConcreteGate(gamma=-0.5, zeta=3.0), GaussianGate()):
        gate.build((None, 3))
        low, high = gate.bounds
        if isinstance(gate, HardConcreteGate):
            assert array(hard_concrete_gate([low, high], gate.gamma, gate.zeta)).tolist() == [0, 1]
        before = array(gate.gates())
        gate.close([True, False, True])
        np.testing.assert_array_equal(array(gate.gates()), before * [0, 1, 0])
        np.testing.assert_allclose(array(gate.gate), np.clip(array(gate.gate), *gate.bounds), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HardConcreteGate(beta=0), "`beta` must be greater than 0"),
        (lambda: HardConcreteGate(gamma=0.0), "`gamma` must be below 0"),
        (lambda: HardConcreteGate(zeta=1), "`zeta` must be greater than 1"),
        (lambda: HardConcreteGate(initial_open=1.0), "`initial_open` must be between 0 and 1"),
        (lambda: GaussianGate(initial_noise=0), "`initial_noise` must be greater than 0"),
        (lambda: HardConcreteL0(0.1, gamma=0.1), "`gamma` must be below 0"),
        (lambda: HardConcreteL0(0.1, proximal=True), "`proximal` must be False for HardConcreteL0, which has no prox"),
        (lambda: GaussianGatePenalty(0.1, proximal=True), "`proximal` must be False for GaussianGatePenalty"),
        (lambda: HardConcreteL0(0.1, weights=-1), "`weights` must be at least 0"),
        (lambda: HardConcreteGate(axis=3).build((None, 4)), "`axis` must name axes of the weights, which have rank 2"),
        (lambda: HardConcreteGate(axis=0).build((8, 4)), "must not name axis 0, of the examples, unless `per_sample=False`"),
        (lambda: HardConcreteGate(axis=1).build((None, None, 4)), "needs to know how many gates there are"),
        (lambda: HardConcreteGate(beta=0.5, gate_regularizer=HardConcreteL0(0.1)).build((None, 4)), "must be for its gates, with beta=0.5"),
        (lambda: HardConcreteGate(gate_regularizer=GaussianGatePenalty(0.1)).build((None, 4)), "must be for its gates"),
        (lambda: GaussianGate(gate_regularizer=HardConcreteL0(0.1)).build((None, 4)), "must be for Gaussian gates"),
        (lambda: HardConcreteGate(gate_regularizer=HardConcreteL0(0.1, [1, 2])).build((None, 4)), "for each of the 4 gates"),
        (lambda: GaussianGatePenalty(0.1)(np.ones((3, 2))), "first axis holds 2 numbers for each gate"),
        (lambda: HardConcreteGate(gate_regularizer=3), "`gate_regularizer` must be a regularizer or None"),
        (lambda: GatedKernel(layers.LSTM(3), HardConcreteGate(per_sample=False)), "`layer` must be a Dense, EinsumDense or convolution"),
        (lambda: GatedKernel(layers.Dense(3), HardConcreteGate()), "`gate` must be a gate of keras_reg.layers with `per_sample=False`"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises((ValueError, TypeError), match=said.replace("(", r"\(")) as caught:
        make()
    assert "eceived" in str(caught.value)


def test_other_penalties_may_be_on_a_gate():
    gate = HardConcreteGate(gate_regularizer=L1(0.1))
    gate.build((None, 3))
    assert gate.losses


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Conv2D(3, 2), (5, 5, 2)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 2)),
        (lambda: layers.Conv1DTranspose(3, 2), (5, 2)),
        (lambda: layers.Dense(3, use_bias=False), (2,)),
    ],
)
def test_gated_kernels(layer, shape):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    inner, gate = layer(), HardConcreteGate(axis=None, per_sample=False, seed=0)
    wrapped = GatedKernel(inner, gate)
    before = array(wrapped(x))
    np.testing.assert_allclose(before, array(inner(x)), rtol=1e-6)
    gate.gate.assign(np.random.default_rng(0).uniform(-4, 4, gate.gate.shape))
    gated, kernel = array(wrapped(x)), array(inner.kernel)
    inner.kernel.assign(kernel * array(gate.gates()))
    np.testing.assert_allclose(gated, array(inner(x)), rtol=1e-5, atol=1e-6)
    inner.kernel.assign(kernel)
    inner.trainable = False
    np.testing.assert_allclose(array(wrapped(x)), gated, rtol=1e-5, atol=1e-6)
    assert [v.name for v in wrapped.trainable_variables] == ["gate"]
