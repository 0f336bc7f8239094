"""Every penalty of the table: its value against NumPy, the whole contract, Keras's own classes and what is refused."""

import contextlib
import inspect
import math
import warnings

import keras
import numpy as np
import pytest
from cases import CASES, IDS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from keras_reg import regularizers as R
from keras_reg.regularizers.gates import GatePenalty
from keras_reg.testing import check_penalty
from keras_reg.testing.autodiff import value_and_gradient

pytestmark = pytest.mark.filterwarnings("ignore:.*is proximal, but no optimizer")

PUBLIC = {name: c for name, c in vars(R).items() if inspect.isclass(c) and issubclass(c, R.Penalty) and c is not R.Penalty}


def test_every_public_penalty_is_in_the_table():
    assert {type(case.make()) for case in CASES} == set(PUBLIC.values())


def test_every_public_penalty_is_registered_under_its_name():
    for cls in {R.Penalty, *PUBLIC.values()}:
        assert keras.saving.get_registered_name(cls) == f"keras_reg>{cls.__name__}"
        assert keras.saving.get_registered_object(f"keras_reg>{cls.__name__}") is cls
        assert issubclass(cls, keras.regularizers.Regularizer)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_contract(case):
    check_penalty(case.make(), (4, 3), seed=1)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_strength_that_is_a_tensor_has_a_gradient(case):
    penalty = case.make()
    w = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    at, step = penalty.strength, 0.01 * penalty.strength
    above, below = (float(penalty.with_strength(s).value(ops.convert_to_tensor(w))) for s in (at + step, at - step))
    value, gradient = value_and_gradient(lambda s: penalty.at_strength(s).value(ops.convert_to_tensor(w)), np.array(at, "float32"))
    assert value == pytest.approx((above + below) / 2, rel=1e-3)
    assert gradient == pytest.approx((above - below) / (2 * step), rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "Group" in case.name], ids=str)
def test_contract_on_a_kernel_of_rank_three(case):
    check_penalty(case.make(), (2, 2, 3), seed=1)


# A few shapes only: each new one compiles anew on JAX.
WEIGHTS = st.sampled_from([(2, 3), (1, 4), (3, 1), (2, 3, 2), (1, 2, 2, 3)]).flatmap(
    lambda shape: arrays(
        np.float32, shape, elements=st.one_of(st.just(0.0), st.floats(-8, 8, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3))
    )
)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_value_against_numpy(case):
    penalty = case.make()

    @settings(max_examples=50)
    @given(WEIGHTS)
    def check(w):
        assume(case.name != "GaussianGatePenalty" or len(w) % 2 == 0)  # a mean and a variance for each gate
        np.testing.assert_allclose(float(penalty(w)), case.formula(w.astype("float64")), rtol=2e-5, atol=1e-7)

    check()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradient_against_differences(case):
    penalty, rng = case.make(), np.random.default_rng(0)
    w = rng.normal(size=(4, 3))
    _, gradient = value_and_gradient(penalty, w.astype("float32"))
    for index in np.ndindex(w.shape):
        up, down = w.copy(), w.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        np.testing.assert_allclose(gradient[index], (case.formula(up) - case.formula(down)) / 2e-5, rtol=1e-3, atol=1e-5)


# Zero is no special place for what a gate is computed from.
@pytest.mark.parametrize("case", [case for case in CASES if not isinstance(case.make(), GatePenalty)], ids=str)
def test_gradient_at_zero_is_zero(case):
    """Where the data want nothing, a gradient leaves a weight at zero that is there; JAX's derivative of |x| would not."""
    penalty = case.make()
    w = np.zeros((4, 3), "float32")
    np.testing.assert_array_equal(value_and_gradient(penalty, w)[1], 0)
    w[:, 2] = [0, -0.0, 1, -2]
    gradient = value_and_gradient(penalty, w)[1]
    np.testing.assert_array_equal(gradient[w == 0], 0)


def gradient_of_first_gradient(penalty, w):
    """Derivatives of the first weight's gradient, by differentiating twice."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        w = tf.constant(w)
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(w)
                value = penalty(w)
            first = inner.gradient(value, w)[0, 0]
        return outer.gradient(first, w)
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda w: jax.grad(penalty)(w)[0, 0])(ops.convert_to_tensor(w))
    import torch

    w = torch.tensor(w, requires_grad=True)
    (first,) = torch.autograd.grad(penalty(w), w, create_graph=True)
    return torch.autograd.grad(first[0, 0], w)[0]


CURVED = [
    case for case in CASES if case.name not in ("L1", "L0-hard", "Grouped-L0-hard", "GroupLasso-two-axes") and not case.make().constraint
]


@pytest.mark.parametrize("case", CURVED, ids=str)
def test_second_derivatives_against_differences(case):
    penalty, w = case.make(), np.array([[0.35, -0.2], [0.1, 0.5]], "float32")
    second = ops.convert_to_numpy(gradient_of_first_gradient(penalty, w))
    for index in np.ndindex(w.shape):
        up, down = w.copy(), w.copy()
        up[index] += 1e-3
        down[index] -= 1e-3
        expected = (value_and_gradient(penalty, up)[1][0, 0] - value_and_gradient(penalty, down)[1][0, 0]) / (up[index] - down[index])
        np.testing.assert_allclose(second[index], expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (R.L1(), keras.regularizers.L1()),
        (R.l1(0.03), keras.regularizers.l1(0.03)),
        (R.L1(None), keras.regularizers.L1(None)),
        (R.L2(), keras.regularizers.L2()),
        (R.l2(l2=0.03), keras.regularizers.l2(l2=0.03)),
        (R.L1L2(), keras.regularizers.L1L2()),
        (R.l1_l2(0.1), keras.regularizers.l1_l2(0.1)),
        (R.L1L2(l1=0.1, l2=0.2), keras.regularizers.L1L2(l1=0.1, l2=0.2)),
        (R.L1L2(None, 0.2), keras.regularizers.L1L2(None, 0.2)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_drop_in_for_keras(ours, theirs):
    for shape in ((3,), (20, 30), (3, 3, 2, 4)):
        w = ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
        np.testing.assert_allclose(float(ours(w)), float(theirs(w)), rtol=1e-6)
    assert ours.get_config().keys() == {*theirs.get_config().keys(), "proximal"}
    for name, value in theirs.get_config().items():
        assert ours.get_config()[name] == pytest.approx(value, rel=1e-7)


def test_configs_keep_the_last_digit():
    assert R.L1(0.1).get_config() == {"l1": 0.1, "proximal": False}
    assert R.L1(np.float64(0.1)).get_config()["l1"] == 0.1
    assert type(R.L2(np.float32(0.5)).get_config()["l2"]) is float
    assert type(R.GroupLasso(0.1, axis=np.int64(-2)).get_config()["axis"]) is int
    assert R.GroupLasso(0.1, axis=(0, -1)).get_config()["axis"] == [0, -1]


@pytest.mark.parametrize("relaxation", ["laplace", "geman_mcclure"])
def test_bounded_relaxations_tend_to_the_count(relaxation):
    w = np.random.default_rng(0).normal(size=(30, 20)).astype("float32")
    w[w < -1] = 0
    gaps = [abs(float(R.L0(0.5, relaxation, width=width)(w)) - 0.5 * np.count_nonzero(w)) for width in (1e-1, 1e-2, 1e-3, 1e-6)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3


def test_group_lasso_is_the_l1_case_of_grouped():
    w = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    for weights in (True, False):
        lasso, grouped = R.GroupLasso(0.2, -2, weights), R.Grouped(R.L1(0.2), -2, weights)
        assert float(lasso(w)) == float(grouped(w))
        np.testing.assert_array_equal(ops.convert_to_numpy(lasso.prox(w, 0.5)), ops.convert_to_numpy(grouped.prox(w, 0.5)))


def test_lasso_strength_max_is_that_of_the_literature():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)), rng.normal(size=50)
    gradient = (-x.T @ y / 50).reshape(3, 2)
    assert R.L1().strength_max(gradient) == pytest.approx(np.abs(x.T @ y).max() / 50, rel=1e-6)
    expected = max(np.linalg.norm(gradient[:, 0]), np.linalg.norm(gradient[:, 1])) / math.sqrt(3)
    assert R.GroupLasso(1.0).strength_max(gradient) == pytest.approx(expected, rel=1e-6)


def test_sparse_group_strength_max_against_scipy():
    from scipy.optimize import brentq

    gradient = np.random.default_rng(0).normal(size=(5, 4))
    for a in (0.05, 0.5, 0.95):

        def excess(s, g, a=a):
            return np.linalg.norm(np.maximum(np.abs(g) - a * s, 0)) - (1 - a) * s * math.sqrt(5)

        roots = [brentq(excess, 0, 100, args=(g,)) for g in gradient.T]
        assert R.SparseGroupLasso(l1=a, group=1 - a).strength_max(gradient) == pytest.approx(max(roots), rel=1e-5)


@pytest.mark.parametrize("penalty", [R.L2(), R.Lq(0.1), R.L0(0.1, "geman_mcclure"), R.L0(0.1, "hard", proximal=True), R.HoyerSquare(0.1)])
def test_no_largest_strength_is_said(penalty):
    with pytest.raises(NotImplementedError, match="no largest useful strength"):
        penalty.strength_max(np.ones((2, 2), "float32"))


def test_with_strength_keeps_the_ratio():
    assert R.L1L2(0.1, 0.3).with_strength(2.0).get_config() == pytest.approx({"l1": 0.5, "l2": 1.5, "proximal": False})
    assert R.Grouped(R.MCP(0.1, gamma=2.0), axis=0).with_strength(0.7).penalty.get_config()["strength"] == 0.7
    with pytest.raises(ValueError, match="no ratio to keep"):
        R.L1L2().with_strength(1.0)


SCALARS = [
    (R.L1, "l1", {}),
    (R.L2, "l2", {}),
    (R.L1L2, "l1", {}),
    (R.L1L2, "l2", {}),
    (R.L0, "strength", {}),
    (R.MCP, "strength", {}),
    (R.SCAD, "strength", {}),
    (R.Lq, "strength", {}),
    (R.HoyerSquare, "strength", {}),
    (R.GroupLasso, "strength", {}),
    (R.GroupHoyerSquare, "strength", {}),
    (R.SparseGroupLasso, "l1", {"group": 0.1}),
    (R.SparseGroupLasso, "group", {"l1": 0.1}),
]


@pytest.mark.parametrize(("cls", "name", "others"), SCALARS, ids=[f"{c.__name__}-{n}" for c, n, _ in SCALARS])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", True, [0.1], 1j, np.bool_(True)], ids=repr)
def test_bad_strengths(cls, name, others, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}` must be .*Received: {name}="):
        cls(**{name: value}, **others)


@pytest.mark.parametrize(("cls", "name", "others"), SCALARS, ids=[f"{c.__name__}-{n}" for c, n, _ in SCALARS])
def test_strength_zero_and_numpy_numbers(cls, name, others):
    for number in (0, np.float32(0.5), np.int64(2), np.float64(0.25)):
        assert cls(**{name: number}, **others).get_config()[name] == float(number)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: R.L0(0.1, relaxation="gauss"), r"`relaxation` must be one of .*'gauss'"),
        (lambda: R.L0(0.1, relaxation=3), r"`relaxation` must be one of .*3"),
        (lambda: R.L0(0.1, width=0), r"`width` must be greater than 0.*width=0"),
        (lambda: R.L0(0.1, width=math.nan), r"`width` must be finite"),
        (lambda: R.L0(0.1, relaxation="hard"), r"`proximal` must be True with relaxation='hard'"),
        (lambda: R.L0(0.1, relaxation="hard", width=0.1, proximal=True), r"`width` must be None with relaxation='hard'"),
        (lambda: R.L0(0.1, relaxation="geman_mcclure", proximal=True), r"`proximal` must be False with relaxation='geman_mcclure'"),
        (lambda: R.MCP(0.1, gamma=0), r"`gamma` must be greater than 0"),
        (lambda: R.MCP(0.1, gamma=-1), r"`gamma` must be greater than 0"),
        (lambda: R.SCAD(0.1, a=2), r"`a` must be greater than 2"),
        (lambda: R.Lq(0.1, q=0), r"`q` must be between 0 and 1"),
        (lambda: R.Lq(0.1, q=1), r"`q` must be between 0 and 1"),
        (lambda: R.HoyerSquare(0.1, proximal=True), r"`proximal` must be False for HoyerSquare"),
        (lambda: R.GroupHoyerSquare(0.1, proximal=True), r"`proximal` must be False for GroupHoyerSquare"),
        (lambda: R.Grouped(R.HoyerSquare(0.1), proximal=True), r"`proximal` must be False for HoyerSquare"),
        (lambda: R.Grouped(R.L0(0.1, "geman_mcclure"), proximal=True), r"`proximal` must be False with relaxation='geman_mcclure'"),
        (lambda: R.L1(0.1, proximal=1), r"`proximal` must be True or False"),
        (lambda: R.GroupLasso(0.1, axis=0.5), r"`axis` must be an integer or a non-empty tuple"),
        (lambda: R.GroupLasso(0.1, axis=True), r"`axis` must be an integer"),
        (lambda: R.GroupLasso(0.1, axis=()), r"`axis` must be an integer or a non-empty tuple"),
        (lambda: R.GroupLasso(0.1, axis=None), r"`axis` must be an integer"),
        (lambda: R.GroupLasso(0.1, axis=(0, 0)), r"`axis` must not name an axis twice"),
        (lambda: R.GroupLasso(0.1, size_weights="sqrt"), r"`size_weights` must be True or False"),
        (lambda: R.Grouped("l1"), r"`penalty` must be a penalty of the magnitudes alone"),
        (lambda: R.Grouped(keras.regularizers.L1()), r"`penalty` must be a penalty of the magnitudes alone"),
        (lambda: R.Grouped(R.GroupLasso(0.1)), r"`penalty` must be a penalty of the magnitudes alone"),
        (lambda: R.GroupLasso(0.1, axis=2)(np.ones((2, 2), "float32")), r"`axis` must name axes .* rank 2.*axis=2"),
        (lambda: R.GroupLasso(0.1, axis=(1, -1))(np.ones((2, 2), "float32")), r"`axis` names an axis .* twice"),
        (lambda: R.GroupLasso(0.1)(np.float32(1.0)), r"`axis` must name axes .* a scalar"),
        (lambda: R.L1()(np.ones((2, 2), "complex64")), r"`w` must have a real floating-point dtype.*complex64"),
        (lambda: R.L1()(np.ones((2, 2), "int32")), r"`w` must have a real floating-point dtype.*int32"),
        (lambda: R.L1().prox(np.ones((2, 2), "int32"), 1.0), r"`\w+` must have a real floating-point dtype.*int32"),
        (lambda: R.L1().prox(np.ones(2, "float32"), -1.0), r"`step` must be at least 0.*step=-1"),
        (lambda: R.L1().prox(np.ones(2, "float32"), math.nan), r"`step` must be finite"),
        (lambda: R.L1().prox(np.ones(2, "float32"), np.array([1.0, -1.0])), r"`step` must hold numbers of at least 0"),
        (lambda: R.L1().subdiff_distance(np.ones(2, "float32"), np.ones(3, "float32")), r"`grad` must have the shape of `w`"),
        (lambda: R.L1().strength_max(np.array([1.0, np.nan], "float32")), r"`grad_at_zero` must be finite"),
        (lambda: R.L1().with_strength(-1), r"`strength` must be at least 0"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_grouped_prox_refuses_what_it_cannot_solve():
    w = np.ones((3, 2), "float32")
    penalty = R.Grouped(R.MCP(0.1), proximal=True)
    with pytest.raises(NotImplementedError, match="no exact prox with a step for each weight"):
        penalty.prox(w, np.ones((3, 2), "float32"))
    by_group = ops.convert_to_numpy(penalty.prox(w, np.array([[0.5, 0.5]], "float32")))
    np.testing.assert_allclose(by_group, ops.convert_to_numpy(penalty.prox(w, 0.5)), rtol=1e-6)


def test_an_unclaimed_proximal_penalty_warns_once_and_keeps_its_gradient():
    penalty = R.L1(0.5, proximal=True)
    with pytest.warns(UserWarning, match="no optimizer applies its prox"):
        _, gradient = value_and_gradient(penalty, np.array([2.0, -1.0], "float32"))
    np.testing.assert_allclose(gradient, [0.5, -0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty(np.ones(2, "float32"))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_float64_is_computed_in_float64(case):
    w = np.random.default_rng(0).normal(size=(4, 3))
    with _float64():
        value = case.make()(ops.convert_to_tensor(w, dtype="float64"))
        assert keras.backend.standardize_dtype(value.dtype) == "float64"
        np.testing.assert_allclose(float(value), case.formula(w), rtol=1e-12)


def _float64():
    if keras.backend.backend() == "jax":
        import jax

        return jax.enable_x64(True)

    return contextlib.nullcontext()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_weights_at_all(case, shape):
    if case.name.endswith("blocks"):
        pytest.skip("There is no block in it.")
    assert float(case.make()(np.zeros(shape, "float32"))) == 0


def test_the_namespace_stands_in_for_kerass():
    for name in dir(keras.regularizers):
        assert name.startswith("_") or hasattr(R, name), name
    for name in ("group_lasso", "GroupLasso", "keras_reg>GroupLasso"):
        assert R.get(name).get_config() == R.GroupLasso(0.01).get_config()
    for name in ("l1", "L1", "l1_l2", "L1L2", "l2", "mcp", "hoyer_square", "sparse_group_lasso", "L0", "lq"):
        found = R.get(name)
        assert isinstance(found, R.Penalty)
        assert found.strength > 0
        assert R.get(found) is found
        assert R.deserialize(R.serialize(found)).get_config() == found.get_config()
    assert R.get(None) is None
    assert type(R.get("orthogonal_regularizer")) is keras.regularizers.OrthogonalRegularizer
    with pytest.raises(ValueError, match=r"build Grouped itself\. Received: identifier='grouped'"):
        R.get("grouped")
    with pytest.raises(ValueError, match="build L0Constraint itself"):
        R.get("L0Constraint")
    with pytest.raises(ValueError, match="nonsense"):
        R.get("nonsense")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_step_that_does_not_fit_is_refused(case):
    penalty, w = case.make(), np.ones((4, 3), "float32")
    try:
        penalty.prox(w, 1.0)
    except NotImplementedError:
        return
    for step in (np.ones(4, "float32"), [1.0, 2.0], ops.ones((2, 4, 3))):
        with pytest.raises(ValueError, match=r"`step` must be a number, or of a shape that broadcasts to the weights, \(4, 3\)"):
            penalty.prox(w, step)
