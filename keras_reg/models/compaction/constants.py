"""The values of units that are the same for every input: what becomes of them on their way through functions."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from keras import backend, ops


def apply(function: Callable, constants: np.ndarray, dtype: str, continuous: bool = True) -> np.ndarray:
    """An entrywise function of a tensor, of those that are constant, in the dtype in which the model computes it.

    Where a function jumps, a sum rounded in another order may be on the other side: there is no constant then. One that is not known to
    be `continuous` is tried in the neighbourhood of each value. Truth values and whole numbers are not rounded.
    """
    wide = "float64" if dtype == "float64" else "float32"

    def evaluate(values):
        outcome = function(ops.convert_to_tensor(values.reshape(1, -1), dtype=dtype))
        return np.asarray(ops.convert_to_numpy(ops.cast(outcome, wide)), "float64").reshape(-1)

    return _where_known(evaluate, [constants], dtype, continuous)


def combine(function: Callable, columns: Sequence[np.ndarray], dtype: str, continuous: bool = True) -> np.ndarray:
    """The same for a function of several arrays, in double precision: the tracer rounds what comes out."""
    return _where_known(function, columns, dtype, continuous)


def _where_known(function: Callable, columns: Sequence[np.ndarray], dtype: str, continuous: bool) -> np.ndarray:
    known = np.isfinite(columns).all(0)
    result = np.full(len(known), np.nan)
    if known.any():
        values = [column[known] for column in columns]
        with np.errstate(all="ignore"):
            found = np.asarray(function(*values), "float64")
            if not continuous and backend.is_float_dtype(dtype):
                found = np.where(_jumps(function, values, found, dtype), np.nan, found)
        result[known] = found
    return np.where(np.isfinite(result), result, np.nan)


def _jumps(function: Callable, columns: list[np.ndarray], found: np.ndarray, dtype: str) -> np.ndarray:
    """Whether the function changes within a small distance by more than half of what it does within one eight times as far."""
    epsilon = {"float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 2.0**-23)
    far, near = (
        np.max([np.abs(function(*_moved(columns, signs, share * np.sqrt(epsilon))) - found) for signs in _signs(columns)], axis=0)
        for share in (1, 1 / 8)
    )
    return ~(near <= far / 2 + 4 * epsilon * np.abs(found))


def _signs(columns: list[np.ndarray]) -> list[tuple]:
    return list(itertools.product((-1, 1), repeat=len(columns)))


def _moved(columns: list[np.ndarray], signs: tuple, distance: float) -> list[np.ndarray]:
    return [column + sign * distance * np.maximum(1.0, np.abs(column)) for column, sign in zip(columns, signs, strict=True)]


def rounded(constants: np.ndarray, dtype: str) -> np.ndarray:
    """As numbers of this dtype, as the model computes with them."""
    if dtype == "float64" or not backend.is_float_dtype(dtype) or not np.isfinite(constants).any():
        return constants
    with np.errstate(over="ignore"):
        if dtype in ("float32", "float16"):
            return constants.astype(dtype).astype("float64")
    return np.asarray(ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(constants, "float32"), dtype)), "float64")
