"""Sums of penalties: each part acts in its own way, the proximal ones as one prox where that is exact."""

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.linear_model import ElasticNet

from keras_reg.callbacks import StrengthScheduler, TargetSparsity, WeightHistogram
from keras_reg.models import attach, check, sparsity, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L0, L1, L1L2, L2, MCP, GroupLasso, HoyerSquare, L0Constraint, SparseGroupLasso, StructuralGroupLasso, Sum
from keras_reg.regularizers import get as get_regularizer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 10)).astype("float32")
Y = X @ np.array([2, -1, 0.5, 0, 0, 0, 0, 0, 0, 0], "float32")[:, None] + 0.1 * RNG.normal(size=(64, 1)).astype("float32")


def regression(penalty, optimizer, steps):
    """Trained for so many steps on all of the data."""
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1, use_bias=False, kernel_regularizer=penalty)])
    model.compile(optimizer, "mse")
    model.fit(np.tile(X, (steps, 1)), np.tile(Y, (steps, 1)), batch_size=64, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize(
    ("penalty", "inner"),
    [
        (L1(0.2, proximal=True) + L2(0.05), keras.optimizers.SGD),
        (L1(0.2, proximal=True) + L2(0.05, proximal=True), keras.optimizers.SGD),
        (L1(0.2, proximal=True) + L2(0.05), keras.optimizers.Adam),
        (L1(0.1, proximal=True) + L1(0.1, proximal=True) + L2(0.05, proximal=True), keras.optimizers.Adam),
    ],
    ids=["gradient", "prox", "Adam", "Adam-prox"],
)
def test_the_optimum_is_that_of_the_elastic_net(penalty, inner):
    w = regression(penalty, Proximal(inner(0.05)), 400).get_weights()[0][:, 0]
    # mse = 2 * (||y - Xw||^2 / 2n): strengths are halved, and its l2 has a half of its own.
    oracle = ElasticNet(alpha=0.1 + 0.05, l1_ratio=0.1 / 0.15, fit_intercept=False, tol=1e-10).fit(X.astype("float64"), Y[:, 0])
    np.testing.assert_allclose(w, oracle.coef_, atol=2e-4)
    assert np.array_equal(w == 0, oracle.coef_ == 0)
    assert (w == 0).any()


PROXES = {
    "elastic net": (L1(0.3) + L2(0.2), L1L2(0.3, 0.2)),
    "groups and entries": (GroupLasso(0.2, axis=0) + L1(0.1), SparseGroupLasso(0.1, 0.2, axis=0)),
    "of one kind": (GroupLasso(0.1) + GroupLasso(0.2) + L2(0.0), GroupLasso(0.3)),
    "taken apart": (L1L2(0.1, 0.1) + SparseGroupLasso(0.1, 0.2) + L2(0.1), Sum([L1(0.2), GroupLasso(0.2), L2(0.2)])),
}


@pytest.mark.parametrize("name", PROXES)
def test_sums_that_are_one_penalty(name):
    """The same as that penalty, at a step in all and at one for each weight, in the precision given."""
    own, other = PROXES[name]
    w = RNG.normal(size=(4, 3)).astype("float32")
    for step in (0.5, RNG.uniform(0.1, 2, (4, 3)).astype("float32")):
        np.testing.assert_allclose(own.prox(w, step), other.prox(w, step), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own(w), other(w), rtol=1e-5)
    np.testing.assert_allclose(own.subdiff_distance(w, w), other.subdiff_distance(w, w), rtol=1e-4, atol=1e-6)
    half = ops.cast(w, "float16")
    assert keras.backend.standardize_dtype(own.prox(half, 0.5).dtype) == "float16"


@pytest.mark.parametrize(
    "parts",
    [
        [L1(0.1), MCP(0.1)],
        [GroupLasso(0.1, axis=0), GroupLasso(0.1, axis=1)],
        [GroupLasso(0.1), GroupLasso(0.1, size_weights=False)],
        [MCP(0.1), GroupLasso(0.1)],
        [MCP(0.1), L0(0.1)],
        [L0Constraint(0.5), L1(0.1)],
        [L0Constraint(0.5), L2(0.1)],
    ],
    ids=str,
)
def test_what_is_not_one_prox_is_refused(parts):
    with pytest.raises(ValueError, match="cannot be applied by one prox"):
        Sum(parts, proximal=True)
    # By gradient it acts, and has no prox.
    if not parts[0].constraint:
        with pytest.raises(NotImplementedError, match="cannot be applied by one prox"):
            Sum(parts).prox([[1.0, 2.0]], 1.0)


def nothing(y, y_pred):
    return 0.0 * ops.sum(y_pred, axis=-1)


def test_each_part_acts_in_its_own_way():
    """The part in the loss has its gradient, that of the prox has none, and both are in the loss."""
    start = np.array([[3, 4], [1, 0], [0.01, 0], [0, 0]], "float32")
    zeros = np.zeros((1, 4), "float32"), np.zeros((1, 2), "float32")
    smooth, groups = HoyerSquare(0.01) + L2(0.3), GroupLasso(0.4, axis=-2, size_weights=False, proximal=True)
    after = []
    for penalty, optimizer in ((groups + smooth, Proximal(keras.optimizers.SGD(0.1))), (smooth, keras.optimizers.SGD(0.1))):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False, kernel_regularizer=penalty)])
        model.set_weights([start])
        model.compile(optimizer, nothing)
        np.testing.assert_allclose(model.train_on_batch(*zeros), float(penalty.value(ops.convert_to_tensor(start))), rtol=1e-5)
        after.append(model.get_weights()[0])
    np.testing.assert_allclose(after[0], groups.prox(after[1], 0.1), rtol=1e-5)
    assert not np.allclose(after[1], start)
    assert not after[0][2:].any()


def test_strengths_move_together_or_one_by_name():
    both = L1(0.3) + L2(0.1)
    assert both.strength == pytest.approx(0.4)
    assert [part.strength for part in both.with_strength(0.8).penalties] == pytest.approx([0.6, 0.2])
    one = Sum([L1(0.3), L2(0.1)], moves="L1")
    assert one.strength == 0.3
    assert [part.strength for part in one.with_strength(0.0).penalties] == [0.0, 0.1]
    assert [part.strength for part in one.with_strength(0.0).with_strength(2.0).penalties] == [2.0, 0.1]
    with pytest.raises(ValueError, match="no ratio to keep"):
        (L1(0.0) + L2(0.0)).with_strength(1.0)
    gradient = np.array([[0.7, -0.2]], "float32")
    assert one.strength_max(gradient) == pytest.approx(0.7)
    assert both.strength_max(gradient) == pytest.approx(0.7 / 0.75)


@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize("moves", [None, "L1"])
def test_a_schedule_moves_what_acts_is_shown_and_saved(proximal, moves, tmp_path):
    penalty = Sum([L1(0.3, proximal=proximal), L2(0.1)], moves=moves)
    inner = keras.optimizers.SGD(0.0)
    model = regression(penalty, Proximal(inner) if proximal else inner, 1)
    total = penalty.strength
    history = model.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y), callbacks=[StrengthScheduler(lambda e: total * e)])
    w = model.get_weights()[0]
    data = float(np.mean((X @ w - Y) ** 2))
    for epoch, (loss, validation) in enumerate(zip(history.history["loss"], history.history["val_loss"], strict=True)):
        expected = data + float(penalty.with_strength(total * epoch).value(ops.convert_to_tensor(w)))
        np.testing.assert_allclose([loss, validation], expected, rtol=1e-5)
    present = model.layers[0].kernel_regularizer
    assert [part.strength for part in present.penalties] == pytest.approx([0.6, 0.1 if moves else 0.2])
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.layers[0].kernel_regularizer.get_config() == present.get_config()
    np.testing.assert_allclose(loaded.evaluate(X, Y, verbose=0), model.evaluate(X, Y, verbose=0), rtol=1e-6)
    assert strip(model).layers[0].kernel_regularizer is None


def test_a_list_is_a_sum_wherever_penalties_are_given(tmp_path):
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="output")])
    model.compile(Proximal("adam"), "mse")
    table = attach(model, {"hidden": [GroupLasso(0.1, proximal=True), keras.regularizers.L2(0.2)], "output": L1(0.1, proximal=True)})
    assert "GroupLasso(strength=0.1" in str(table)
    assert isinstance(get_regularizer(["l1", "group_lasso"]), Sum)
    rows = {row.name: row for row in sparsity(model).weights}
    assert rows["hidden/kernel"].penalty_name == "GroupLasso + L2"
    assert rows["hidden/kernel"].group_axis == -1
    report = sparsity(model)
    kernel = model.get_layer("hidden").kernel
    assert report.penalties["L2"] == pytest.approx(0.2 * float(np.sum(ops.convert_to_numpy(kernel) ** 2)), rel=1e-5)
    assert sum(report.penalties.values()) == pytest.approx(report.total.penalty, rel=1e-5)
    assert set(report.to_dict()["penalties"]) == {"GroupLasso", "L2", "L1"}
    assert "L2: " in str(report)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[WeightHistogram(tmp_path)])
    assert {finding.kind for finding in check(model).findings} == {"adam-l2"}
    copy = keras.models.clone_model(model)
    assert copy.get_layer("hidden").kernel_regularizer.get_config() == model.get_layer("hidden").kernel_regularizer.get_config()
    # What a layer holds by now is a penalty like any other.
    assert len((model.get_layer("hidden").kernel.regularizer + L1(0.1)).penalties) == 3


def test_a_constraint_with_weight_decay():
    model = regression(L0Constraint(0.7) + L2(0.05), Proximal(keras.optimizers.SGD(0.05)), 200)
    w = model.get_weights()[0][:, 0]
    kept = w != 0
    assert kept.sum() == 3
    exact = np.linalg.solve(X[:, kept].T @ X[:, kept] / 64 + 0.05 * np.eye(3), X[:, kept].T @ Y[:, 0] / 64)
    np.testing.assert_allclose(w[kept], exact, atol=1e-4)
    assert model.layers[0].kernel.regularizer.strength == 0.7
    model.optimizer.set_strength(0.9)
    model.fit(X, Y, batch_size=64, epochs=1, verbose=0)
    assert np.count_nonzero(model.get_weights()[0]) == 1


def test_target_sparsity_moves_what_makes_zeros():
    parts = [L1(1e-3, proximal=True), L2(0.01)]
    with pytest.raises(ValueError, match="moves='GroupLasso'"):
        regression(Sum(parts), Proximal("adam"), 1).fit(X, Y, verbose=0, callbacks=[TargetSparsity(0.5, epoch=2)])
    model = regression(Sum(parts, moves="L1"), Proximal(keras.optimizers.Adam(0.02)), 1)
    history = model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[TargetSparsity(0.5, epoch=8)]).history
    assert history["strength"][-1] != 1e-3
    assert [part.strength for part in model.layers[0].kernel_regularizer.penalties] == [history["strength"][-1], 0.01]


def test_sums_are_flat_and_say_what_they_are():
    three = L1(0.1) + (L2(0.2) + MCP(0.3))
    assert [type(part) for part in three.penalties] == [L1, L2, MCP]
    assert isinstance(sum([L1(0.1), L2(0.2), MCP(0.3)]), Sum)
    assert repr(keras.regularizers.L2(0.5) + L1(0.25)) == "L2(l2=0.5) + L1(l1=0.25)"
    assert (L1(0.1) + L2(0.2)).convex
    assert not three.convex
    assert Sum([L1(0.1)], proximal=True).proximal
    assert (Sum([L1(0.1), L2(0.2)], moves="L1") + MCP(0.3)).moves == "L1"


def test_errors():
    with pytest.raises(TypeError, match="must be a list"):
        Sum(L1(0.1))
    with pytest.raises(ValueError, match="at least one"):
        Sum([])
    with pytest.raises(TypeError, match="penalties of keras_reg"):
        L1(0.1) + keras.regularizers.OrthogonalRegularizer()
    with pytest.raises(TypeError):
        L1(0.1) + 1
    with pytest.raises(ValueError, match=r"`moves` must name one of \['L1', 'L2'\]"):
        Sum([L1(0.1), L2(0.1)], moves="MCP")
    with pytest.raises(ValueError, match="must be None in a sum with L0Constraint"):
        Sum([L0Constraint(0.5), L2(0.1)], moves="L2")
    with pytest.raises(ValueError, match="weight decay"):
        StructuralGroupLasso(0.1) + L2(0.1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="cannot be applied by one prox"):
        attach(model, [L1(0.1, proximal=True), MCP(0.1, proximal=True)])
    with pytest.raises(ValueError, match="axis"):
        keras.layers.Dense(3, bias_regularizer=GroupLasso(0.1, axis=-2) + L2(0.1)).build((None, 2))
