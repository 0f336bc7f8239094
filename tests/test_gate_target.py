"""A wanted share of closed gates: which close, what becomes of the strengths, what is refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg.callbacks import TargetSparsity
from keras_reg.callbacks.gate_target import FALL, RISE, GateTarget
from keras_reg.layers import GatedKernel, GaussianGate, HardConcreteGate
from keras_reg.models import compact, insert_gates
from keras_reg.regularizers import L1, GaussianGatePenalty, HardConcreteL0

KINDS = {
    "hard-concrete": lambda s, **options: HardConcreteGate(gate_regularizer=HardConcreteL0(s), seed=0, **options),
    "gaussian": lambda s, **options: GaussianGate(gate_regularizer=GaussianGatePenalty(s), seed=0, **options),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8)).astype("float32")
Y = X[:, :1] - 2 * X[:, 1:2]


def array(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def trained(kind, strength):
    """A linear model that has seen the data, and then has gates on its inputs."""
    keras.utils.set_random_seed(1)
    plain = keras.Sequential([keras.Input((8,)), layers.Dense(1, name="output")])
    plain.layers[0].kernel.assign(np.linalg.lstsq(X, Y, rcond=None)[0] + RNG.normal(size=(8, 1)) / 10)
    model = insert_gates(plain, KINDS[kind](strength), cost=None)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    find = TargetSparsity(0.75, epoch=12, of="gates", every=4)
    history = model.fit(X, Y, batch_size=32, epochs=20, verbose=0, callbacks=[find]).history
    return model, model.get_layer("output_gate"), history


@pytest.mark.parametrize("kind", KINDS)
def test_of_eight_inputs_the_two_that_matter_stay(kind):
    """With a strength that nobody had to look for, in fewer steps than Adam takes to close a hard-concrete gate: 4.8 / 0.02."""
    model, gate, history = trained(kind, 1e-4)
    assert np.flatnonzero(array(gate.gates())).tolist() == [0, 1]
    assert history["closed_gates"][-1] == 0.75
    assert np.all(np.diff(history["closed_gates"][:12]) >= 0)
    assert all(type(value) is float for name in ("closed_gates", "strength", "sparsity") for value in history[name])
    _, (kept,) = compact(model, inputs=True)
    assert kept.tolist() == [0, 1]
    assert model.evaluate(X, Y, verbose=0) - float(array(sum(model.losses))) < 0.2


def built(kind, values, strength=0.1):
    """A model of one layer of gates, with these weights."""
    gate = KINDS[kind](strength)
    model = keras.Sequential([keras.Input((8,)), gate])
    gate.gate.assign(values)
    return gate, GateTarget(model, model.trainable_variables)


HARD = [3.0, 2.0, -3.0, 1.0, 0.5, -4.0, 2.5, 2.6]
SOFT = [1.0, 0.9, 0.1, 0.8, 0.7, 0.1, 1.0, 1.0, *[-2.0] * 2, 0.0, -2.0, -2.0, 0.0, -2.0, -2.0]
"""Gates 2 and 5 are closed, 4 and then 3 are the next."""


@pytest.mark.parametrize(("kind", "values"), [("hard-concrete", HARD), ("gaussian", SOFT)])
def test_what_is_missing_is_closed_in_the_order_of_the_probabilities(kind, values):
    gate, target = built(kind, values)
    assert (target.number, target.closed()) == (8, 0.25)
    for asked_for, closed in ((0.1, [2, 5]), (0.25, [2, 5]), (0.37, [2, 4, 5]), (0.5, [2, 3, 4, 5])):
        target.close(asked_for)
        assert np.flatnonzero(array(gate.gates()) == 0).tolist() == closed
    before = np.float32(values)
    changed = np.flatnonzero(array(gate.gate) != before) % 8
    assert changed.tolist() == [3, 4]
    assert (array(gate.open_probability())[[3, 4]] < 0.3).all()  # not just beyond the edge
    target.close(1.0)
    assert np.count_nonzero(array(gate.gates())) == 1  # one stays


def test_the_last_of_each_layer_stays_and_shapes_do():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model = insert_gates(model, KINDS["hard-concrete"](0.1, axis=None), where="kernel")
    target = GateTarget(model, model.trainable_variables)
    assert target.number == 4 * 3 + 3 * 2
    target.close(0.999)
    gates = [array(layer.gate.gates()) for layer in model.layers if isinstance(layer, GatedKernel)]
    assert [(gate.shape, np.count_nonzero(gate)) for gate in gates] == [((4, 3), 1), ((3, 2), 1)]


def test_strengths_rise_where_gates_open_again_and_fall_where_too_many_close():
    _, target = built("hard-concrete", HARD)
    assert target.change(0.30, 0.25, 10, 0.01) == 0  # a quarter is closed
    assert target.change(0.60, 0.55, 10, 0.01) == pytest.approx(RISE * 0.01)
    assert target.change(0.05, 0.00, 10, 0.01) == pytest.approx(-10 * FALL)
    _, about_to_close = built("hard-concrete", [-1.5] * 8)
    assert about_to_close.closed() == 0
    assert about_to_close.change(0.1, 0.0, 10, 0.01) == pytest.approx(-10 * FALL)


def test_a_strength_that_is_too_high_comes_down():
    _, gate, history = trained("gaussian", 1.0)
    assert 0.75 <= history["closed_gates"][-1] <= 0.875  # one more at most
    assert history["strength"][-1] < 0.5
    assert gate.gate_regularizer.strength == history["strength"][-1]  # is what is saved


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length():
    model = keras.Sequential([keras.Input((8,)), KINDS["gaussian"](1e-3), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    batches = (pair for pair in zip(np.split(X, 8), np.split(Y, 8), strict=True))
    history = model.fit(batches, shuffle=False, verbose=0, callbacks=[TargetSparsity(0.5, epoch=1, of="gates")]).history
    assert history["closed_gates"] == [0.5]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: layers.Dense(8, kernel_regularizer=L1(0.1)), "for a model without gates"),
        (lambda: HardConcreteGate(gate_regularizer=L1(0.1)), "for a model without gates"),
        (lambda: KINDS["gaussian"](0.0), "none may be 0 at the start"),
    ],
)
def test_what_is_refused(layer, said):
    model = keras.Sequential([keras.Input((8,)), layer(), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=said):
        model.fit(X, Y, verbose=0, callbacks=[TargetSparsity(0.5, epoch=2, of="gates")])
