"""The proximal maps against oracles outside the code: refined grids, closed forms of the literature, SciPy."""

import math

import numpy as np
import pytest
from cases import mcp, norms, scad
from hypothesis import given
from hypothesis import strategies as st
from keras import KerasTensor, backend, ops
from scipy.optimize import brentq
from scipy.special import lambertw

from keras_reg import ops as maps
from keras_reg.testing.autodiff import value_and_gradient

PENALTIES = {
    "soft": (lambda x, s, k: maps.soft_threshold(x, s * k), lambda u, k: k * u),
    "hard": (lambda x, s, k: maps.hard_threshold(x, math.sqrt(2 * s * k)), lambda u, k: k * (u > 0)),
    "shrink": (lambda x, s, k: maps.shrink(x, s, k), lambda u, k: k * u**2),
    "mcp": (lambda x, s, k: maps.mcp_threshold(x, s, k, 3.0), lambda u, k: mcp(u, k, 3.0)),
    "mcp-sharp": (lambda x, s, k: maps.mcp_threshold(x, s, k, 0.3), lambda u, k: mcp(u, k, 0.3)),
    "scad": (lambda x, s, k: maps.scad_threshold(x, s, k, 3.7), lambda u, k: scad(u, k, 3.7)),
    "scad-sharp": (lambda x, s, k: maps.scad_threshold(x, s, k, 2.05), lambda u, k: scad(u, k, 2.05)),
    "laplace": (lambda x, s, k: maps.laplace_threshold(x, s, k, 0.4), lambda u, k: -k * np.expm1(-u / 0.4)),
    "laplace-narrow": (lambda x, s, k: maps.laplace_threshold(x, s, k, 0.01), lambda u, k: -k * np.expm1(-u / 0.01)),
    "log": (lambda x, s, k: maps.log_threshold(x, s, k, 0.4), lambda u, k: k * np.log1p(u / 0.4)),
    "log-narrow": (lambda x, s, k: maps.log_threshold(x, s, k, 0.01), lambda u, k: k * np.log1p(u / 0.01)),
    "lq-tenth": (lambda x, s, k: maps.lq_threshold(x, s, k, 0.1), lambda u, k: k * u**0.1),
    "lq-half": (lambda x, s, k: maps.lq_threshold(x, s, k, 0.5), lambda u, k: k * u**0.5),
    "lq-two-thirds": (lambda x, s, k: maps.lq_threshold(x, s, k, 2 / 3), lambda u, k: k * u ** (2 / 3)),
    "lq-nearly-one": (lambda x, s, k: maps.lq_threshold(x, s, k, 0.97), lambda u, k: k * u**0.97),
}


def lowest_on_grid(phi, x, step):
    """The lowest value of `(y - x)**2 / (2 step) + phi(y)` between 0 and `x`, on a grid refined twice."""
    low, high = np.zeros_like(x), x
    best = np.full_like(x, np.inf)
    for _ in range(3):
        grid = low + (high - low) * np.linspace(0, 1, 801)[:, None]
        values = (grid - x) ** 2 / (2 * step) + phi(np.abs(grid))
        place = values.argmin(axis=0)
        best = np.minimum(best, values.min(axis=0))
        columns = np.arange(x.size)
        low, high = grid[np.maximum(place - 1, 0), columns], grid[np.minimum(place + 1, 800), columns]
    return best


@pytest.mark.parametrize("name", PENALTIES)
def test_never_beaten_by_a_refined_grid(name):
    prox, phi = PENALTIES[name]

    # Steps on both sides of where MCP (step = gamma) and SCAD (step = a - 1, a + 1) stop being weakly convex.
    @given(st.floats(-3, 2), st.floats(-2.5, 1), st.integers(0, 2**31))
    def check(log_step, log_strength, seed):
        step, strength = np.float32(10**log_step), np.float32(10**log_strength)
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=200) * 10 ** rng.uniform(-3, 1.5, 200)).astype("float32")
        y = ops.convert_to_numpy(prox(x, float(step), float(strength))).astype("float64")
        x = x.astype("float64")
        reached = (y - x) ** 2 / (2 * step) + phi(np.abs(y), strength)
        best = lowest_on_grid(lambda u: phi(u, strength), x, step)
        assert np.all(reached <= best * (1 + 2e-6) + 1e-12)

    check()


X = np.concatenate([np.linspace(-3, 3, 61), [1e-30, -1e-20, 1e20]]).astype("float32")


def test_half_threshold_against_its_closed_form():
    u = 0.7 * 0.4
    angle = np.arccos(np.clip((u / 4) * (np.maximum(np.abs(X), 1e-9) / 3) ** -1.5, -1, 1))
    expected = np.where(np.abs(X) <= 1.5 * u ** (2 / 3), 0, 2 / 3 * X * (1 + np.cos(2 * np.pi / 3 - 2 / 3 * angle)))
    np.testing.assert_allclose(ops.convert_to_numpy(maps.lq_threshold(X, 0.7, 0.4, 0.5)), expected, rtol=1e-5)


def test_two_thirds_threshold_against_its_closed_form():
    x, big = X[np.abs(X) < 1e6].astype("float64"), 2 * 0.7 * 0.4
    phi = np.arccosh(np.maximum(27 * x**2 * big**-1.5 / 16, 1))
    root = 2 / np.sqrt(3) * big**0.25 * np.sqrt(np.cosh(phi / 3))
    kept = np.abs(x) > 2 / 3 * (3 * big**3) ** 0.25
    inside = np.where(kept, 2 * np.abs(x) / root - root**2, 0)
    expected = np.where(kept, np.sign(x) * ((root + np.sqrt(inside)) / 2) ** 3, 0)
    np.testing.assert_allclose(ops.convert_to_numpy(maps.lq_threshold(x.astype("float32"), 0.7, 0.4, 2 / 3)), expected, rtol=1e-5)


@pytest.mark.parametrize("width", [0.3, 0.8])
def test_laplace_threshold_against_lambert(width):
    x, scale = np.linspace(0.01, 4, 97), 0.7 * 0.4
    root = x + width * lambertw(-(scale / width**2) * np.exp(-x / width)).real
    gain = (root - x) ** 2 / 1.4 - 0.4 * np.expm1(-root / width) - x**2 / 1.4
    exists = (scale / width**2) * np.exp(-x / width) <= np.exp(-1)
    expected = np.where(exists & (root > 0) & (gain < 0), root, 0)
    np.testing.assert_allclose(ops.convert_to_numpy(maps.laplace_threshold(x, 0.7, 0.4, width)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [-1, 0, (0, 2), (0, 1, 2)])
def test_group_norm_and_block_threshold(axis):
    w = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    axes = (axis,) if isinstance(axis, int) else axis
    expected = norms(w, *(a % 3 for a in axes))
    np.testing.assert_allclose(ops.convert_to_numpy(maps.group_norm(w, axis)).ravel(), expected, rtol=1e-5)
    threshold = np.median(expected) * 1.001
    y = ops.convert_to_numpy(maps.block_soft_threshold(w, threshold, axis))
    np.testing.assert_allclose(norms(y, *(a % 3 for a in axes)), np.maximum(expected - threshold, 0), rtol=1e-3, atol=1e-5)
    assert np.count_nonzero(norms(y, *(a % 3 for a in axes)) == 0) == (expected <= threshold).sum()


def test_group_norm_of_extreme_groups():
    w = np.zeros((3, 6), "float32")
    w[:, 1], w[:, 2], w[:, 3], w[:, 4] = 1e-15, 1e15, [3e-15, 4e-15, 0], [0, 1e15, 1e-15]
    expected = np.linalg.norm(w.astype("float64"), axis=0)
    np.testing.assert_allclose(ops.convert_to_numpy(maps.group_norm(w, -1)), expected, rtol=1e-5)


@given(st.integers(0, 2**31), st.floats(0.01, 1.2), st.floats(0, 2.5))
def test_weighted_block_threshold_against_scipy(seed, relative, decades):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 1)).astype("float32")
    step = (10 ** rng.uniform(-decades, decades, (6, 1))).astype("float32")
    # Zero from here on: ||x / step|| = threshold.
    threshold = np.float32(relative * np.linalg.norm(x / step))
    y = ops.convert_to_numpy(maps.weighted_block_soft_threshold(x, step, float(threshold), axis=-1))
    if abs(relative - 1) < 1e-3:
        return
    if relative > 1:
        np.testing.assert_array_equal(y, 0)
        return
    x, step = x.astype("float64"), step.astype("float64")
    root = brentq(lambda r: np.sum((x / (r + step * threshold)) ** 2) - 1, 1e-12, 10, xtol=1e-15)
    np.testing.assert_allclose(y, x * root / (root + step * threshold), rtol=2e-4, atol=1e-7)


def test_weighted_block_threshold_takes_steps_of_zero():
    x = np.array([[3.0], [4.0]], "float32")
    y = ops.convert_to_numpy(maps.weighted_block_soft_threshold(x, np.array([[0.0], [0.0]]), 1.0))
    np.testing.assert_allclose(y, x)
    y = ops.convert_to_numpy(maps.weighted_block_soft_threshold(x, np.array([[0.0], [100.0]]), 1.0))
    assert y[0] == pytest.approx(3.0)
    assert 0 < y[1] < 0.2


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.skipif(backend.backend() == "jax", reason="off in JAX"))]
)
@pytest.mark.parametrize("scale", [1e-9, 1e-6, 4e-6, 5e-5, 2e-4, 3.5e-3, 2e-2, 0.3])
def test_weighted_block_threshold_is_precise_at_small_thresholds(scale, dtype):
    """Where the first guess is taken, where a Newton step follows and where several do; no guess is worse than at steps of two sizes."""
    x = np.random.default_rng(0).normal(size=(64, 1)).astype(dtype)
    steps = (np.arange(64)[:, None] % 2).astype(dtype)
    threshold = scale * np.linalg.norm(x.astype("float64"))
    root = brentq(lambda r: np.sum((x.astype("float64") / (r + steps * threshold)) ** 2) - 1, 1e-3, 1e3, xtol=1e-15, rtol=1e-15)
    expected = x.astype("float64") * root / (root + steps * threshold)
    y = ops.convert_to_numpy(maps.weighted_block_soft_threshold(x, steps, float(threshold)))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=5e-7 if dtype == "float32" else 2e-15)


def test_an_infinite_threshold_leaves_nothing():
    x = np.array([[3.0, 0.0], [-4.0, 0.0]], "float32")
    for y in (maps.soft_threshold(x, np.inf), maps.hard_threshold(x, np.inf), maps.block_soft_threshold(x, np.inf)):
        np.testing.assert_array_equal(ops.convert_to_numpy(y), 0)


def test_no_weights_have_no_norms():
    assert ops.convert_to_numpy(maps.group_norm(np.ones((3, 0), "float32"), -1)).shape == (0,)


def test_a_group_dies_whatever_the_step_of_its_zeros():
    x = np.array([[0.0], [1e-3]], "float32")
    y = maps.weighted_block_soft_threshold(x, np.array([[0.0], [1e6]], "float32"), 1.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), 0)


def test_the_threshold_has_a_gradient():
    x = np.array([-3.0, -0.5, 0.5, 4.0, 5.0], "float32")
    _, gradient = value_and_gradient(lambda threshold: ops.sum(maps.soft_threshold(x, threshold)), np.array(1.0, "float32"))
    assert gradient == pytest.approx(1 - 2)  # each weight beyond it moves with it towards zero


def test_symbolic_weights_are_taken():
    assert maps.soft_threshold(KerasTensor((3, 2)), 0.5).shape == (3, 2)
    assert maps.group_norm(KerasTensor((3, 2)), -1).shape == (2,)
