"""Laws of the proximal map. A law yields what breaks it."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.testing.autodiff import compiled
from keras_reg.testing.samples import Case, defined, show

STEPS = (0.01, 0.3, 1.0, 2.5, 5.0, 30.0)  # on both sides of where the usual non-convex penalties stop being weakly convex
SCALES = (0.02, 0.3, 3.0)


def refused_or_defined(case: Case) -> Iterator[str]:
    """A penalty without a prox refuses proximal=True."""
    if case.has_prox:
        return
    try:
        type(case.penalty).from_config({**case.penalty.get_config(), "proximal": True})
    except ValueError:
        return
    yield "its prox raises NotImplementedError, but it can be built with proximal=True."


def prox_minimises(case: Case) -> Iterator[str]:
    """The prox minimises its objective."""
    if not case.has_prox:
        return
    for scale in SCALES:
        for step in STEPS:
            w = case.normal(scale)
            yield from _beaten(case, w, step)


def prox_minimises_per_weight(case: Case) -> Iterator[str]:
    """The prox minimises its objective with a step for each weight."""
    if not case.has_prox:
        return
    for scale in SCALES:
        w = case.normal(scale)
        constant = np.full(case.shape, 0.7, "float32")
        by_array = defined(case.penalty.prox, w, ops.convert_to_tensor(constant))
        if by_array is None:
            return
        by_array = ops.convert_to_numpy(by_array)
        by_number = case.prox(w, 0.7)
        if not np.allclose(by_array, by_number, rtol=1e-4, atol=1e-6 * scale):
            yield f"at w={show(w)} it gives {show(by_number)} at step 0.7, {show(by_array)} with that step for each weight."
        for spread in (0.3, 1.5):
            yield from _beaten(case, w, (10.0 ** case.rng.uniform(-spread, spread, case.shape)).astype("float32"))


def _beaten(case: Case, w: np.ndarray, step: Any) -> Iterator[str]:
    x = case.prox(w, step)
    if not np.all(np.isfinite(x)):
        yield f"at step={show(step)} and w={show(w)} it gives {show(x)}."
        return

    # Of a constraint, whose value is 0, those may compare that keep to it.
    others = [np.zeros_like(w), w, *_neighbours(case, w, x)]
    if case.penalty.constraint:
        others = [*others[:2], *_other_supports(case, w, x)]
        nearer = np.sum((x - w) ** 2 / step)
        others = [other for other in others if np.sum((other - w) ** 2 / step) < nearer and np.array_equal(case.prox(other, step), other)]
    candidates = [x, *others]
    distances = np.sum((np.stack(candidates).astype("float64") - w) ** 2 / (2 * step), axis=tuple(range(1, w.ndim + 1)))
    objectives = distances + case.values(candidates)
    reached, best = objectives[0], int(np.argmin(objectives))
    if objectives[best] < reached - 2e-6 * (reached + case.values([w])[0]):
        yield (
            f"at step={show(step)} and w={show(w)} it gives {show(x)} with the objective {reached:.7g}; "
            f"{show(candidates[best])} has {objectives[best]:.7g}."
        )


def _other_supports(case: Case, w: np.ndarray, x: np.ndarray) -> Iterator[np.ndarray]:
    """The weights with as many of them zero, elsewhere."""
    for axis, size in enumerate(w.shape):
        for _ in range(4):
            yield np.where(np.take(x != 0, case.rng.permutation(size), axis), w, 0)
    for _ in range(8):
        yield np.where(case.rng.permutation((x != 0).ravel()).reshape(x.shape), w, 0)


def projection_is_idempotent(case: Case) -> Iterator[str]:
    """The projection of a constraint leaves what keeps to it, and takes from no other weight."""
    if not case.penalty.constraint:
        return
    for scale in SCALES:
        w = case.normal(scale)
        for step in (1.0, (10.0 ** case.rng.uniform(-1, 1, case.shape)).astype("float32")):
            x = case.prox(w, step)
            if np.any((x != w) & (x != 0)):
                yield f"at w={show(w)} it gives {show(x)}, with weights that are neither kept nor 0."
            if not np.array_equal(case.prox(x, step), x):
                yield f"at w={show(w)} it gives {show(x)}, and {show(case.prox(x, step))} of that."


def _neighbours(case: Case, w: np.ndarray, x: np.ndarray) -> Iterator[np.ndarray]:
    places = [(place, (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)) for place in np.ndindex(*case.shape)]
    places += [(index, (0.0, 0.3, 0.6, 0.8, 0.95, 1.0)) for index in case.slices()]
    for index, fractions in places:
        for fraction in fractions:
            candidate = x.copy()
            candidate[index] = fraction * w[index]
            yield candidate
    for size in (1e-3, 1e-2, 0.1, 0.3):
        for _ in range(4):
            yield (x + size * np.max(np.abs(w)) * case.rng.normal(size=case.shape)).astype("float32")
            yield (x * (1 + size * case.rng.normal(size=case.shape))).astype("float32")


def prox_is_stationary(case: Case) -> Iterator[str]:
    """The prox is stationary by subdiff_distance."""
    if not case.has_prox:
        return
    for scale in SCALES:
        for step in STEPS:
            w = case.normal(scale)
            x = case.prox(w, step)
            distance = defined(case.penalty.subdiff_distance, x, ((x.astype("float64") - w) / step).astype("float32"))
            if distance is None:
                return
            distance = float(ops.max(distance))
            if not distance <= 1e-4 * np.max(np.abs(w)) / step:
                yield f"at step={step} and w={show(w)} it gives {show(x)}, at distance {distance:.3g} from being stationary."


def prox_zeros(case: Case) -> Iterator[str]:
    """The zeros of the prox agree with support."""
    if not case.has_prox:
        return
    for scale in SCALES:
        x = case.prox(case.normal(scale), 1.0)
        support = ops.convert_to_numpy(case.penalty.support(x))
        if not np.array_equal(support, x != 0):
            yield f"a prox of {show(x)} has the support {show(support)}."


def prox_keeps(case: Case) -> Iterator[str]:
    """The prox keeps dtype and shape, zero and what is not finite; a step of 0 moves nothing."""
    if not case.has_prox:
        return
    w = case.normal()
    for dtype in ("float32", "float16", "bfloat16"):
        x = case.penalty.prox(ops.cast(w, dtype), 0.5)
        if keras.backend.standardize_dtype(x.dtype) != dtype or tuple(x.shape) != w.shape:
            yield f"weights of shape {w.shape} and dtype {dtype} give shape {tuple(x.shape)} and dtype {x.dtype}."
    for step in (0.0, np.zeros(case.shape, "float32")) if not case.penalty.constraint else ():
        # One that needs one step for all says so.
        for kept in (w, w * np.float32(1e30), np.where(case.rng.random(case.shape) < 0.5, 0, w)):
            x = defined(case.prox, kept, step)
            if x is not None and not np.allclose(x, kept, rtol=1e-6, atol=0):
                yield f"at w={show(kept)} a step of 0 gives {show(x)}."
    zero = case.prox(np.zeros(case.shape, "float32"), 0.5)
    if zero.any() or np.isnan(zero).any():
        yield f"the zero vector becomes {show(zero)}."
    yield from _lost(case, w)


def _lost(case: Case, w: np.ndarray) -> Iterator[str]:
    """A weight that has diverged has to show; where it has made a whole group infinite, NaN says so as well."""
    place = (0,) * w.ndim
    for step in (0.0, 0.5, ops.convert_to_tensor(0.5), np.full(case.shape, 0.5, "float32")):
        for diverged in (np.nan, np.inf, -np.inf):
            broken = w.copy()
            broken[place] = diverged
            x = defined(case.prox, broken, step)
            if x is not None and not np.isnan(x[place]) and (np.isnan(diverged) or x[place] != diverged):
                yield f"at step={show(step)} a weight of {diverged} becomes {x[place]}."


def prox_finite(case: Case) -> Iterator[str]:
    """The prox is finite at zeros and at subnormal and large weights."""
    if not case.has_prox:
        return
    for w in (*case.with_zeros(), *case.extremes()):
        for step in (1e-3, 1.0, 1e3):
            x = case.prox(w, step)
            if not np.all(np.isfinite(x)) or np.any(np.abs(x) > np.abs(w) * (1 + 1e-5)):
                yield f"at step={step} and w={show(w)} it is {show(x)}; expected weights no larger than before."


def prox_compiled(case: Case) -> Iterator[str]:
    """The prox is the same compiled as not."""
    if not case.has_prox:
        return
    function = compiled(case.penalty.prox)
    for scale in SCALES:
        w = case.normal(scale)
        fast = ops.convert_to_numpy(function(ops.convert_to_tensor(w), ops.convert_to_tensor(0.7)))
        if not np.allclose(fast, case.prox(w, 0.7), rtol=1e-4, atol=1e-6 * scale):
            yield f"at step=0.7 and w={show(w)} it gives {show(case.prox(w, 0.7))}, compiled {show(fast)}."


def firmly_nonexpansive(case: Case) -> Iterator[str]:
    """The prox is firmly non-expansive, as it is for every convex penalty."""
    if not case.has_prox or not case.penalty.convex:
        return
    for step in STEPS:
        a, b = case.normal(), case.normal()
        moved = (case.prox(a, step) - case.prox(b, step)).astype("float64")
        inner = float(np.sum(moved * (a - b)))
        if not float(np.sum(moved**2)) <= inner + 1e-5 * abs(inner) + 1e-9:
            yield f"at step={step} the proxes of {show(a)} and {show(b)} differ by {show(moved)}."


PROX_LAWS = (
    refused_or_defined,
    prox_minimises,
    prox_minimises_per_weight,
    projection_is_idempotent,
    prox_is_stationary,
    prox_zeros,
    prox_keeps,
    prox_finite,
    prox_compiled,
    firmly_nonexpansive,
)
