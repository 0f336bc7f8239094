"""`StructuralL0Constraint`: budgets of whole models, against what `compact` counts and against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from test_structural_penalty import residual_net

from keras_reg.callbacks import StrengthScheduler
from keras_reg.models import attach, check, compact, compaction_plan, detach, strip, structural_groups
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L2, L0Constraint, StructuralL0Constraint
from keras_reg.regularizers.costs import Table

BACKEND = keras.backend.backend()
RANDOM = np.random.default_rng(0)


def dense():
    names = ("first", "second", "output")
    made = [layers.Dense(units, activation="relu", name=name) for name, units in zip(names, (16, 8, 2), strict=True)]
    return keras.Sequential([keras.Input((6,)), *made])


def transformer():
    x = tokens = keras.Input((5, 8))
    x = layers.LayerNormalization()(layers.Dense(12, name="in")(x))
    x = layers.add([x, layers.MultiHeadAttention(3, 4, name="attention")(x, x)])
    x = layers.add([x, layers.Dense(12, name="out")(layers.Dense(20, activation="gelu", name="wide")(x))])
    return keras.Model(tokens, layers.Dense(2, name="output")(layers.GlobalAveragePooling1D()(x)))


def recurrent():
    x = sequence = keras.Input((4, 3))
    x = layers.LSTM(7, name="lstm")(layers.Conv1D(6, 2, name="conv")(x))
    return keras.Model(sequence, layers.Dense(2, name="output")(x))


MODELS = {"residual": residual_net, "dense": dense, "transformer": transformer, "recurrent": recurrent}


def made(name, budget=0.5, optimizer=None, randomized=True, **options):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    if randomized:
        rng = np.random.default_rng(1)
        for variable in model.trainable_variables:
            variable.assign(rng.normal(size=variable.shape) * rng.uniform(0.1, 0.6))
    attach(model, StructuralL0Constraint(budget, **options))
    model.compile(Proximal(optimizer or keras.optimizers.SGD(0.0)), "mse")
    return model


def data(model, number=16):
    rng = np.random.default_rng(2)
    return rng.normal(size=(number, *model.input_shape[1:])).astype("float32"), rng.normal(size=(number, model.output_shape[-1]))


def fit(model, epochs=1, **options):
    return model.fit(*data(model), batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options).history


def table_of(model):
    weights = [v for v in model.trainable_variables if isinstance(v.regularizer, StructuralL0Constraint)]
    parts = [v.regularizer.configured if hasattr(v.regularizer, "configured") else v.regularizer for v in weights]
    return Table.of(tuple(parts), tuple(tuple(v.shape) for v in weights)), weights, parts


def cost(model, of):
    total = compaction_plan(model).total
    return len(structural_groups(model)) if of == "units" else getattr(total, of)[1]


def alive(model):
    return [group for group in structural_groups(model) if group.norm() > 0]


@pytest.mark.parametrize("of", ["macs", "parameters"])
@pytest.mark.parametrize("name", MODELS)
def test_costs_are_those_that_compact_counts(name, of):
    """Whatever leaves, in whatever order."""
    model = made(name, of=of)
    table, weights, parts = table_of(model)
    assert table.total == getattr(compaction_plan(model).total, of)[0]
    order = np.random.default_rng(0).permutation(table.number)
    stays = table.full.argmax(1)  # one in every layer
    order = np.array([group for group in order if group not in stays], "int32")
    shares = ops.convert_to_numpy(table.left(ops.convert_to_tensor(np.r_[order, np.unique(stays)].astype("int32"))))
    for number in (1, len(order) // 2, len(order)):
        for variable, part in zip(weights, parts, strict=True):
            gone = np.isin(part.numbers(tuple(variable.shape)), order[:number]).astype("float32")
            shape = [length if axis in part._axes(len(variable.shape)) else 1 for axis, length in enumerate(variable.shape)]
            variable.assign(ops.convert_to_numpy(variable) * (1 - gone.reshape(shape)))
        np.testing.assert_allclose(shares[number] * table.total, cost(model, of), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "inner", "of"),
    [(name, "Adam", "macs") for name in MODELS]
    + [("residual", "SGD", "macs"), ("residual", "Adam", "parameters"), ("residual", "SGD", "units")],
)
def test_the_budget_is_met_to_one_group(name, inner, of):
    optimizer = keras.optimizers.SGD(1e-4) if inner == "SGD" else keras.optimizers.Adam(0.01)
    model = made(name, 0.4, optimizer, of=of)
    groups, total = len(structural_groups(model)), cost(model, of)
    fit(model)
    left = alive(model)
    spent = len(left) if of == "units" else cost(model, of)
    assert spent <= 0.4 * total
    dearest = 1 if of == "units" else max(getattr(group, of) for group in structural_groups(model))
    assert spent + dearest > 0.4 * total
    assert 0 < len(left) < groups
    assert not check(model).findings
    small = compact(model)
    x, _ = data(model)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    assert all(min(layer.get_weights()[0].shape) > 0 for layer in small.layers if layer.get_weights())


def dead_by_hand(worth, budget):
    """Of `dense` which units are dropped, by the worth of each, as multiplications are counted."""
    best = [scores.argmax() for scores in worth]
    ranked = sorted((score, layer, unit) for layer, scores in enumerate(worth) for unit, score in enumerate(scores) if unit != best[layer])
    widths, gone = [16, 8], [set(), set()]
    for _, layer, unit in ranked:
        if 6 * widths[0] + widths[0] * widths[1] + 2 * widths[1] <= budget * (6 * 16 + 16 * 8 + 2 * 8):
            break
        widths[layer] -= 1
        gone[layer].add(unit)
    return gone


def dead(model):
    return [set(np.flatnonzero(~model.get_layer(name).get_weights()[0].any(0)).tolist()) for name in ("first", "second")]


def test_what_leaves_is_worth_least_for_its_cost():
    """Against NumPy: importance relative to the mean of the layer, by the multiplications that its leaving alone frees."""
    model = made("dense", 0.5)
    worth = []
    for name, each in (("first", 6 + 8), ("second", 16 + 2)):
        kernel, bias = model.get_layer(name).get_weights()
        square = (kernel.astype("float64") ** 2).sum(0) + bias.astype("float64") ** 2
        worth.append(square / square.mean() / each)
    fit(model)
    assert dead(model) == dead_by_hand(worth, 0.5)
    assert not model.get_layer("first").get_weights()[1][list(dead(model)[0])].any()


def test_in_the_optimizers_metric():
    """By `w**2 / step`, not relative to the layer."""
    models = [made("dense", budget, keras.optimizers.Adam(0.02)) for budget in (1.0, 0.5)]
    for model in models:
        model.get_layer("second").kernel.assign(3 * model.get_layer("second").kernel)
        model.train_on_batch(*data(model))
    bare, inner = models[0], models[0].optimizer.inner_optimizer
    worth = []
    for layer, each in (("first", 6 + 8), ("second", 16 + 2)):
        square = 0.0
        for variable in bare.get_layer(layer).trainable_variables:
            velocity = ops.convert_to_numpy(inner._velocities[inner._get_variable_index(variable)]).astype("float64")
            step = 0.02 * np.sqrt(1 - inner.beta_2) / (np.sqrt(velocity) + inner.epsilon)
            square = square + (ops.convert_to_numpy(variable).astype("float64") ** 2 / step).reshape(-1, variable.shape[-1]).sum(0)
        worth.append(square / each)
    assert dead(models[1]) == dead_by_hand(worth, 0.5)
    assert dead(models[1]) != dead_by_hand([scores / scores.mean() for scores in worth], 0.5)


@pytest.mark.filterwarnings("ignore:'proximal.*has nothing to apply")
def test_the_smallest_budget_is_named():
    model = dense()
    with pytest.raises(ValueError, match=r"must be at least 0.0375 for this model.*Received: budget=0.01"):
        attach(model, StructuralL0Constraint(0.01))  # 6 + 1 + 2 of 240 multiplications
    assert not any(v.regularizer for v in model.weights)
    attach(model, StructuralL0Constraint(0.0376))
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse")
    fit(model)
    assert [layer.kernel.shape[1] for layer in compact(model).layers] == [1, 1, 2]


def test_a_ramp_compiles_once_and_what_is_cut_stays_so(tmp_path):
    model = made("dense", 1.0, keras.optimizers.Adam(0.01), randomized=False)
    traces = []
    dropped = StructuralL0Constraint.dropped

    def counted(self, *given):
        traces.append(1)
        return dropped(self, *given)

    StructuralL0Constraint.dropped = counted
    try:
        history = fit(model, 4, callbacks=[StrengthScheduler(lambda epoch: [1.0, 0.7, 0.5, 0.3][epoch])])
    finally:
        StructuralL0Constraint.dropped = dropped
    assert history["strength"] == [1.0, 0.7, 0.5, 0.3]
    assert BACKEND == "torch" or len(traces) <= 2
    macs = compaction_plan(model).total.macs
    assert macs[1] <= 0.3 * macs[0]
    small = compact(model)
    assert small.count_params() < model.count_params()
    widths = [layer.kernel.shape for layer in small.layers]
    small.save(tmp_path / "small.keras")
    for one in (small, keras.models.load_model(tmp_path / "small.keras")):
        fit(one, 2)
        assert [layer.kernel.shape for layer in compact(one).layers] == widths
        assert not any(group.norm() == 0 for group in structural_groups(one))


@pytest.mark.parametrize("every", [1, 3])
def test_resuming_in_a_ramp_is_exact(every, tmp_path):
    def schedule():
        return StrengthScheduler(lambda epoch: [0.9, 0.7, 0.5, 0.4][epoch])

    straight = made("residual", 1.0, keras.optimizers.Adam(0.01), every=every, regrow=False)
    fit(straight, 4, callbacks=[schedule()])
    halved = made("residual", 1.0, keras.optimizers.Adam(0.01), every=every, regrow=False)
    fit(halved, 2, callbacks=[schedule()])
    halved.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    fit(loaded, 4, initial_epoch=2, callbacks=[schedule()])
    for one, other in zip(straight.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_copies_in_one_model_keep_apart():
    inner = dense()
    attach(inner, StructuralL0Constraint(0.5))
    copies = [keras.models.clone_model(inner) for _ in range(2)]
    copies[1].name = "other"
    x = keras.Input((6,))
    model = keras.Model(x, layers.add([copy(x) for copy in copies]))
    alone = [keras.models.clone_model(inner) for _ in range(2)]
    for one, copy in zip(alone, copies, strict=True):
        one.set_weights(copy.get_weights())
    for one in (model, *alone):
        one.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
        one.train_on_batch(np.zeros((4, 6)), np.zeros((4, 2)))
    assert [dead(copy) for copy in copies] == [dead(one) for one in alone]
    assert dead(copies[0]) != dead(copies[1])


def test_what_is_frozen_later_stays_and_counts():
    model = made("dense", 0.5)
    model.get_layer("first").trainable = False
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    before = model.get_layer("first").get_weights()
    fit(model)
    np.testing.assert_array_equal(before[0], model.get_layer("first").get_weights()[0])
    macs = compaction_plan(model).total.macs
    assert 0.5 * macs[0] - 18 < macs[1] <= 0.5 * macs[0]


def test_a_part_of_the_model():
    model = dense()
    rows = attach(model, StructuralL0Constraint(0.7), include="first").rows
    assert [row.weight for row in rows] == ["first/kernel", "first/bias"]
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    fit(model)
    macs = compaction_plan(model).total.macs
    assert 0.7 * macs[0] - 14 < macs[1] <= 0.7 * macs[0]  # of the whole
    assert model.get_layer("second").get_weights()[0].any(0).all()
    assert not strip(model).losses
    detach(model)
    fit(model)


def test_errors():
    for budget in (0, 1.5, -1):
        with pytest.raises(ValueError, match="budget"):
            StructuralL0Constraint(budget)
    with pytest.raises(ValueError, match="cannot be part of a sum"):
        StructuralL0Constraint(0.5) + L2(0.1)
    with pytest.raises(ValueError, match="give it to a model by"):
        layers.Dense(2, kernel_regularizer=StructuralL0Constraint(0.5)).build((None, 3))
    model = dense()
    attach(model, StructuralL0Constraint(0.5))
    with pytest.raises(ValueError, match="already has"):
        attach(model, L0Constraint(0.5))
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"acts through `keras_reg\.optimizers\.Proximal` alone"):
        fit(model)


@pytest.mark.parametrize(
    ("penalty", "after"),
    [
        (L0Constraint(0.6), "L0Constraint"),
        (L0Constraint(0.6) + L2(0.01), "L0Constraint"),
        (L0Constraint(0.5, axis=-1, scope="model"), "L0Constraint"),
        (L0Constraint(0.5, block_size=(2, 2)), None),
        (L0Constraint(n_of_m=(1, 2)), None),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:'proximal.*has nothing to apply")
def test_compact_does_not_ask_for_more_zeros(penalty, after):
    """What a constraint has asked for is gone with the units, and not asked for again of what is left."""
    keras.utils.set_random_seed(0)
    widths = (16, 8)
    model = keras.Sequential([keras.Input((6,)), *(layers.Dense(w, "relu", kernel_regularizer=penalty) for w in widths), layers.Dense(2)])
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse")
    fit(model, callbacks=[StrengthScheduler(lambda epoch: penalty.strength)])
    for group in structural_groups(model)[2:20:3]:
        group.zero()
    if after is None:
        with pytest.warns(UserWarning, match="has other blocks or patterns than before"):
            small = compact(model)
        assert not any(layer.kernel.regularizer for layer in small.layers)
        return
    small = compact(model)
    kernels = [layer.kernel for layer in small.layers[:2]]
    assert tuple(kernels[0].shape) != (6, 16)
    before = [int(np.count_nonzero(ops.convert_to_numpy(kernel))) for kernel in kernels]
    fit(small, 2)
    assert [int(np.count_nonzero(ops.convert_to_numpy(kernel))) for kernel in kernels] == before
