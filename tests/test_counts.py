"""Zeros, norms, groups and bins against NumPy on the whole array at once."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_reg.ops.counts import BLOCK, count, histogram

random = np.random.default_rng(0)
FIXED = {
    "normal": random.normal(size=(300, 400)).astype("float32"),
    "three blocks": random.normal(size=2 * BLOCK + 1).astype("float32"),
    "three blocks to the right of zero": random.random(3 * BLOCK).astype("float32") + 5,
    "a NaN in the last block": np.append(random.normal(size=2 * BLOCK), np.nan),
    "sparse": random.normal(size=(50, 40)) * (random.random((50, 40)) < 0.2),
    "column-major": np.asfortranarray(random.normal(size=(50, 40))),
    "strided": random.normal(size=(50, 40))[::2, ::3],
    "zeros": np.zeros((3, 4), "float32"),
    "negative zero": np.array([-0.0, 0.0], "float32"),
    "constant": np.full(7, -3.3, "float32"),
    "nearly constant": np.array([1, np.nextafter(np.float32(1), np.float32(2))], "float32"),
    "NaN and infinities": np.array([np.nan, np.inf, 1, -np.inf, 2, np.nan], "float32"),
    "nothing finite": np.array([np.nan, np.inf]),
    "denormals": np.array([1e-45, -1e-45, 3e-44, 0], "float32"),
    "float64 denormals": np.array([5e-324, -5e-324, 1e-322]),
    "largest float32": np.array([3.4e38, -3.4e38, 1], "float32"),
    "largest float64": np.array([1.7e308, -1.7e308, 1]),
    "sum overflows": np.full(10, 3e38, "float32"),
    "squares vanish": np.full(10, 1e-30, "float32"),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(2.5, "float32"),
    "float16": random.normal(size=500).astype("float16"),
    "bfloat16": random.normal(size=500).astype(ml_dtypes.bfloat16),
    "float8": random.normal(size=500).astype(ml_dtypes.float8_e4m3fn),
    "int8": random.integers(-128, 128, 500).astype("int8"),
    "int32": np.array([2**31 - 1, -(2**31), 0], "int32"),
    "boolean": np.array([True, False, True]),
}


def check_bins(values, bins):
    counts = count(values)
    edges, found = histogram(values, counts, bins)
    wide = values.astype("float64").ravel()
    finite = wide[np.isfinite(wide)]
    assert found.sum() + counts.nan + counts.infinite == values.size
    assert len(found) <= bins
    if finite.size:
        assert len(edges) == len(found) + 1
        np.testing.assert_array_equal(found, np.histogram(finite, edges)[0])
        assert found[0]
        assert found[-1]


@pytest.mark.parametrize("bins", [2, 7, 64, 1000])
@pytest.mark.parametrize("name", FIXED)
def test_bins(name, bins):
    check_bins(FIXED[name], bins)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bins_of_any_array(dtype):
    width = int(dtype[-2:])

    @given(arrays.arrays(dtype, st.integers(0, 20), elements=st.floats(width=width)), st.integers(2, 100))
    def law(values, bins):
        check_bins(values, bins)

    law()


@pytest.mark.parametrize("name", ["normal", "int8", "bfloat16"])
def test_bins_are_used(name):
    """More than half of the bins that may be there are."""
    counts = count(FIXED[name])
    assert 50 < len(histogram(FIXED[name], counts, 100)[1]) <= 100


def test_edges_fit_each_other_and_zero_is_in_the_middle_of_a_bin():
    for scale in (1e-3, 1, 1e3):
        values = FIXED["normal"] * np.float32(scale)
        edges, counts = histogram(values, count(values), 64)
        width = edges[1] - edges[0]
        assert np.frexp(width)[0] == 0.5
        np.testing.assert_array_equal(np.diff(edges), width)
        np.testing.assert_array_equal(np.rint(edges / width - 0.5), edges / width - 0.5)
        assert np.sum(counts) == values.size


@pytest.mark.parametrize("name", FIXED)
def test_figures(name):
    values = FIXED[name]
    counts = count(values, near_zero=0.1)
    wide = values.astype("float64")
    finite = wide[np.isfinite(wide)]
    assert counts.size == values.size
    assert counts.zeros == np.sum(wide == 0)
    assert counts.near_zeros == np.sum(np.abs(finite) <= 0.1)
    assert (counts.nan, counts.infinite) == (np.isnan(wide).sum(), np.isinf(wide).sum())
    if finite.size:
        assert (counts.low, counts.high) == (finite.min(), finite.max())
    largest = np.max(np.abs(finite), initial=0) or 1.0
    if not 1e-300 < largest < 1e300:  # the norms themselves have no exact float64
        return
    np.testing.assert_allclose(counts.l1 / largest, np.sum(np.abs(finite / largest)), rtol=1e-6)
    np.testing.assert_allclose(counts.l2 / largest, np.sqrt(np.sum((finite / largest) ** 2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5), (3, 3, 4, 5), (40000, 30), (7,), (0, 3)])
def test_zero_groups(shape):
    axes = [-1, 0, *([-2, (-2, -1)] if len(shape) > 1 else [])]
    for axis in axes:
        values = random.normal(size=shape)
        index = [a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)]
        moved = np.moveaxis(values, index, range(len(index)))
        groups = moved.reshape(int(np.prod(moved.shape[: len(index)])), -1) if values.size else values
        if values.size:
            moved[(0,) * len(index)] = 0
            moved[(-1,) * len(index)] = 0
            # One weight short of a zero group; a NaN is not zero.
            moved[tuple(min(1, n - 1) for n in moved.shape)] = np.nan
            expected = sum(not np.any(moved[i]) for i in np.ndindex(moved.shape[: len(index)]))
        else:
            expected = 0
        counts = count(values, axis=axis)
        assert (counts.groups, counts.zero_groups) == (np.prod([shape[i] for i in index]), expected), axis
        assert values.size == 0 or len(groups) == counts.groups


@pytest.mark.parametrize("axis", [0, 1])
def test_one_zero_group_and_no_other_zero(axis):
    values = np.ones((4, 6))
    np.moveaxis(values, axis, 0)[2] = 0
    assert count(values, axis=axis).zero_groups == 1
    values[2, 2] = 1
    assert count(values, axis=axis).zero_groups == 0


def test_group_axis_outside():
    with pytest.raises(ValueError, match="Argument `axis` must name axes of the weights"):
        count(np.zeros((2, 3)), axis=2)
