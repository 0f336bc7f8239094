"""The projections on the largest entries, against every support there is."""

import itertools
import math

import numpy as np
import pytest
from keras import backend, ops

from keras_reg import ops as maps
from keras_reg.backend import alive, only, plain, smallest
from keras_reg.testing.autodiff import compiled

RNG = np.random.default_rng(0)
KERNELS = {"dense": (4, 3), "convolution": (1, 2, 2, 3), "depthwise": (2, 1, 3, 2), "vector": (7,), "one": (1,)}


def groups_of(shape, kind):
    """The units of a weight as boolean masks, by loops."""
    kind, setting = kind
    index = np.arange(math.prod(shape)).reshape(shape)
    if kind == "entries":
        return [index == i for i in range(index.size)]
    if kind == "groups":
        moved = np.moveaxis(index, setting, range(len(setting)))
        return [np.isin(index, moved[place]) for place in np.ndindex(moved.shape[: len(setting)])]
    (r, c), matrix = setting, index.reshape(-1, shape[-1])
    corners = itertools.product(range(0, matrix.shape[0], r), range(0, matrix.shape[1], c))
    return [np.isin(index, matrix[i : i + r, j : j + c]) for i, j in corners]


def project(x, sparsity, kind, step=1.0):
    if kind[0] == "entries":
        return maps.keep_largest(x, sparsity, step)
    if kind[0] == "groups":
        return maps.keep_largest_groups(x, sparsity, kind[1], step)
    return maps.keep_largest_blocks(x, sparsity, kind[1], step)


CASES = [
    *((shape, ("entries", None)) for shape in KERNELS.values()),
    ((4, 3), ("groups", (-1,))),
    ((4, 3), ("groups", (0,))),
    ((1, 2, 2, 3), ("groups", (-2,))),
    ((2, 1, 3, 2), ("groups", (-2, -1))),
    ((4, 4), ("blocks", (2, 1))),
    ((1, 2, 2, 3), ("blocks", (2, 3))),
]


@pytest.mark.parametrize(("shape", "kind"), CASES, ids=str)
def test_nearest_of_all_with_so_many_zeros(shape, kind):
    units = groups_of(shape, kind)
    for sparsity in (0.0, 1 / 3, 0.5, 0.9):
        for stepped in (False, True):
            x = RNG.normal(size=shape).astype("float32")
            step = (10.0 ** RNG.uniform(-2, 2, shape)).astype("float32") if stepped else 1.0
            y = ops.convert_to_numpy(project(x, sparsity, kind, step))
            number = min(math.ceil(sparsity * len(units) - 1e-9), len(units) - 1)
            assert sum(not y[unit].any() for unit in units) == number
            kept = y != 0
            np.testing.assert_array_equal(y[kept], x[kept])
            cost = [np.sum((x**2 / step)[unit]) for unit in units]
            least = min(sum(chosen) for chosen in itertools.combinations(cost, number))
            assert np.sum((x - y) ** 2 / step) == pytest.approx(least, rel=1e-5)


def test_n_of_m_keeps_the_largest_of_every_m():
    for shape, axis in (((8, 3), -2), ((2, 8, 3), -2), ((3, 8), -1), ((6, 2), 0)):
        m = 3 if shape[0] == 6 else 4
        for n, stepped in itertools.product((1, 2, m), (False, True)):
            x = RNG.normal(size=shape).astype("float32")
            step = (10.0 ** RNG.uniform(-2, 2, shape)).astype("float32") if stepped else 1.0
            y = ops.convert_to_numpy(maps.keep_n_of_m(x, n, m, axis, step))
            size = np.moveaxis(np.abs(x) / np.sqrt(step), axis, -1)
            rows = size.reshape(-1, m)
            kept = np.argsort(np.argsort(-rows, axis=1), axis=1) < n
            expected = np.where(np.moveaxis(kept.reshape(size.shape), -1, axis), x, 0)
            np.testing.assert_array_equal(y, expected)


def test_of_equals_the_first_stay():
    half = ops.convert_to_numpy(maps.keep_largest(np.full((2, 5), -1.0, "float32"), 0.4))
    np.testing.assert_array_equal(half, [[-1] * 5, [-1, 0, 0, 0, 0]])
    some = ops.convert_to_numpy(maps.keep_largest(np.array([1.0, 2.0, 1.0, 0.0, 1.0, 0.0], "float32"), 0.5))
    np.testing.assert_array_equal(some, [1, 2, 1, 0, 0, 0])
    pairs = ops.convert_to_numpy(maps.keep_n_of_m(np.ones((4, 1), "float32"), 2, 4))
    np.testing.assert_array_equal(pairs[:, 0], [1, 1, 0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_is_not_finite_and_every_dtype(dtype):
    values = np.array([1.0, np.nan, 0.25, np.inf, 0.5, -np.inf, 0.0, 2.0])
    if dtype == "float64" and backend.backend() == "jax":
        dtype = "float32"  # JAX has no other unless it is asked for
    y = maps.keep_largest(ops.cast(ops.convert_to_tensor(values.astype("float32")), dtype), 0.5)
    assert backend.standardize_dtype(y.dtype) == dtype
    y = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_array_equal(y, [0, np.nan, 0, np.inf, 0, -np.inf, 0, 2])
    mixed = np.array([[np.nan, 0.125], [5, 5], [1, 1], [2, 2]], "float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(maps.keep_largest_groups(mixed, 0.5, axis=0)), [[np.nan, 0.125], [5, 5], [0, 0], [0, 0]]
    )
    # Even where all of them would have to go.
    broken = ops.convert_to_numpy(maps.keep_largest_groups(np.array([[np.nan, 1.0], [np.inf, 2.0]], "float32"), 0.9, axis=0))
    assert np.isnan(broken[0, 0])
    assert not np.isfinite(broken[1, 0])


def test_counts_are_exact_and_the_same_for_numbers_and_tensors():
    for size in (1, 10, 13, 100, 1000, 12345, 10**6):
        x = np.arange(1, size + 1, dtype="float32")
        for sparsity in (0.1, 0.15, 0.3, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 1 / 3, 7 / 13) if size < 10**5 else (0.8, 0.95):
            number = min(math.ceil(round(sparsity * size, 6)), size - 1)
            for given in (sparsity, ops.convert_to_tensor(sparsity, "float32")):
                assert int(ops.sum(ops.cast(maps.keep_largest(x, given) == 0, "int32"))) == number


def test_all_steps_zero_count_magnitudes():
    """As at a learning rate of 0."""
    y = ops.convert_to_numpy(maps.keep_largest(np.array([1.0, 3.0, 2.0, 4.0], "float32"), 0.5, np.zeros(4, "float32")))
    np.testing.assert_array_equal(y, [0, 3, 0, 4])


def test_the_ways_of_a_backend_agree_with_sorting():
    for values in (
        RNG.normal(size=1999),
        np.repeat([0.0, 3.0, 1.0], 700),
        np.zeros(1500),
        10.0 ** RNG.uniform(-37, 38, 20000),
        np.sort(RNG.normal(size=20000)),  # of which a sample says little
        np.tile([np.inf, 1.0, np.inf, 0.0], 400),
        [np.inf, 1.0, np.inf, 0.0],
    ):
        sizes = np.abs(np.asarray(values)).astype("float32")
        ways = {plain.smallest: int, smallest: int, compiled(smallest): lambda number: ops.convert_to_tensor(number, "int32")}
        for number in (0, 1, 2, len(sizes) // 2, len(sizes) - 1):
            expected = np.zeros(len(sizes), bool)
            expected[np.lexsort((-np.arange(len(sizes)), sizes))[:number]] = True
            for way, kind in ways.items():
                np.testing.assert_array_equal(ops.convert_to_numpy(way(ops.convert_to_tensor(sizes), kind(number))), expected)


@pytest.mark.parametrize(("pooling", "expected"), [("norm", [1, 1, 0, 0]), ("average", [0, 0, 1, 1]), ("max", [1, 1, 0, 0])])
def test_what_a_block_counts(pooling, expected):
    x = np.array([[3.0, 0.0, 2.0, 2.0]], "float32")
    y = ops.convert_to_numpy(maps.keep_largest_blocks(x, 0.5, (1, 2), pooling=pooling))
    np.testing.assert_array_equal(y != 0, (np.array([expected]) != 0) & (x != 0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: maps.keep_largest_blocks(x, 0.5, (3, 1)), r"`block_size` must divide the weights, which are 4×3, as a matrix"),
        (lambda x: maps.keep_largest_blocks(x[0], 0.5, (1, 1)), "which is no matrix"),
        (lambda x: maps.keep_n_of_m(x, 2, 3), "whose axis -2 is a multiple of 3. These are 4 long there"),
        (lambda x: maps.keep_n_of_m(x[0], 2, 4), "which has no axis -2"),
        (lambda x: maps.keep_n_of_m(x, 5, 4), "`n` must be at most `m`, which is 4"),
        (lambda x: maps.keep_largest_groups(x, 0.5, 2), "`axis` must name axes"),
        (lambda x: maps.keep_largest_blocks(x, 0.5, (1, 1), pooling="sum"), "`pooling` must be one of"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 3), "float32"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zeros_are_held_and_what_is_broken_shows(dtype):
    before = ops.convert_to_tensor([[0.0, -0.0, 1.0, -1e-30], [0.0, 0.0, 2.0, 0.0]], dtype)
    x = ops.convert_to_tensor([[3.0, -3.0, -4.0, 5.0], [np.nan, np.inf, np.nan, 0.0]], dtype)
    found = np.asarray(ops.convert_to_numpy(ops.cast(only(x, alive(before)), "float32")))
    np.testing.assert_array_equal(found[0], [0, 0, -4, 5])
    assert not np.signbit(found[0, :2]).any()
    assert np.isnan(found[1, [0, 2]]).all()
    assert not np.isfinite(found[1, 1])
    # A choice gives truth values, for whole rows or columns as well.
    kept = ops.convert_to_tensor([[True], [False]])
    np.testing.assert_array_equal(ops.convert_to_numpy(only(ops.ones((2, 3)), kept)), [[1, 1, 1], [0, 0, 0]])
