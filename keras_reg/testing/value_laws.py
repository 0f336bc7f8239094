"""Laws of the config, the value, the gradient, the support and the largest strength. A law yields what breaks it."""

import copy
import json
import math
import numbers
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_reg._registration import is_registered
from keras_reg.testing.autodiff import compiled
from keras_reg.testing.samples import Case, defined, defined_or, show


def written(case: Case) -> Iterator[str]:
    """What a subclass of Penalty writes is there."""
    penalty, kind = case.penalty, type(case.penalty)
    if not isinstance(getattr(penalty, "proximal", None), bool):
        yield "it has no `proximal`: its constructor calls `super().__init__(proximal)`."
        return
    if not isinstance(getattr(penalty, "strength", None), numbers.Real):
        yield "it has no number as its `strength`, under which it is moved and shown: an attribute, or a property."
        return
    config = penalty.get_config()
    lacking = [name for name in kind.strength_names if name not in config]
    if lacking:
        yield f"get_config has no {', '.join(lacking)}, which `strength_names` says are its strengths: {config}."
        return
    if "proximal" not in config and not kind.constraint:
        yield f"get_config has no `proximal`, so that copies and saved ones lose it: {config}."
        return
    try:
        kind.from_config(dict(config))
    except TypeError as error:
        yield f"its constructor does not take what get_config gives, {config}: {error}."
        return
    w = case.normal()
    if tuple(case.call(w).shape) != ():
        yield f"weights of shape {case.shape} give a value of shape {tuple(case.call(w).shape)}, and it has to be a sum, a scalar."


def strength_moves(case: Case) -> Iterator[str]:
    """The strength can be moved, to a number and to a tensor."""
    penalty, kind, w = case.penalty, type(case.penalty), case.normal()
    target = 0.5 if kind.constraint else 2 * penalty.strength or 1.0
    set_to = defined_or(ValueError, penalty.with_strength, target)
    if set_to is None:  # several strengths without a ratio
        return
    if not math.isclose(set_to.strength, target, rel_tol=1e-6):
        yield f"with_strength({target}) has the strength {set_to.strength}."
    by_tensor = penalty.at_strength(ops.convert_to_tensor(target, "float32"))
    values = [float(ops.convert_to_numpy(case.call(w, one))) for one in (set_to, by_tensor)]
    if not math.isclose(*values, rel_tol=1e-4, abs_tol=1e-7):
        yield f"at strength {target} it is {values[0]}, and {values[1]} where that was moved to: the constructor keeps what follows it."


def registered(case: Case) -> Iterator[str]:
    """Its class is registered with Keras."""
    if not is_registered(type(case.penalty)):
        yield "saved models with it cannot be loaded, nor cloned: put `@keras.saving.register_keras_serializable(package)` above the class."


def config_round_trip(case: Case) -> Iterator[str]:
    """The config is plain Python and rebuilds the penalty exactly."""
    penalty = case.penalty
    config = penalty.get_config()
    given = copy.deepcopy(config)
    rebuilt = type(penalty).from_config(given)
    if given != config:
        yield f"from_config changed the caller's dict from {config} to {given}."
    if rebuilt.get_config() != config:
        yield f"get_config gives {config}, and {rebuilt.get_config()} after a round trip."
    try:
        text = json.dumps(config)
    except TypeError as error:
        yield f"get_config gives {config}, which is no plain Python: {error}."
    else:
        again = type(penalty).from_config(json.loads(text)).get_config()
        if again != config:
            yield f"get_config gives {config}, and {again} after a round trip through JSON."
    with keras.saving.custom_object_scope({type(penalty).__name__: type(penalty)}):
        saved = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    if saved.get_config() != config:
        yield f"get_config gives {config}, and {saved.get_config()} after Keras saved and loaded it."
    w = case.normal()
    values = [float(case.call(w, p)) for p in (penalty, rebuilt, saved)]
    if len(set(values)) > 1:
        yield f"at w={show(w)} the penalty gives {values[0]}, but {values[1:]} after a round trip."


def scalar_value(case: Case) -> Iterator[str]:
    """The value is a finite scalar in the dtype of the weights."""
    for dtype in ("float32", "float16", "bfloat16"):
        w = ops.cast(case.normal(0.5), dtype)
        value = case.call(w)
        got = keras.backend.standardize_dtype(value.dtype)
        if tuple(value.shape) != () or got != dtype:
            yield f"weights of dtype {dtype} give a value of shape {tuple(value.shape)} and dtype {got}."
        wide = float(case.call(ops.cast(w, "float32")))
        if not math.isfinite(wide) or not math.isclose(float(ops.cast(value, "float32")), wide, rel_tol=0.01, abs_tol=1e-6):
            yield f"at w={show(ops.convert_to_numpy(ops.cast(w, 'float32')))} the value is {float(value)} in {dtype} and {wide} in float32."


def value_compiled(case: Case) -> Iterator[str]:
    """The value is the same compiled as not."""
    for w in (case.normal(), case.normal(0.01)):
        eager, fast = float(case.call(w)), case.value(w)
        if not math.isclose(eager, fast, rel_tol=1e-5, abs_tol=1e-30):
            yield f"at w={show(w)} the value is {eager}, compiled {fast}."


def strength_zero(case: Case) -> Iterator[str]:
    """A penalty of strength 0 is 0 and moves nothing."""
    free = case.penalty.with_strength(getattr(case.penalty, "idle", 0.0))
    w = case.normal()
    if float(case.call(w, free)) != 0:
        yield f"at w={show(w)} the value is {float(case.call(w, free))} at strength 0."
    moved = defined(free.prox, w, 1.0)
    if moved is not None and not np.allclose(ops.convert_to_numpy(moved), w, rtol=1e-6, atol=0):
        yield f"at w={show(w)} and step 1 the prox is {show(ops.convert_to_numpy(moved))} at strength 0."


def convex_value(case: Case) -> Iterator[str]:
    """The value is convex, as `convex` says."""
    for trial in range(20 if case.penalty.convex else 0):
        a, b = case.normal(), case.normal()
        if trial % 2:
            # Along a ray, where a penalty that is concave in the magnitude shows it.
            b = a * np.float32(case.rng.uniform(1.5, 4))
        middle, ends = case.value((a + b) / 2), (case.value(a) + case.value(b)) / 2
        if not middle <= ends + 1e-5 * abs(ends):
            yield f"half way between w={show(a)} and w={show(b)} it is {middle}, above the mean {ends} of the two ends."


def finite_gradient(case: Case) -> Iterator[str]:
    """The gradient is no NaN, and finite where the value is, at zeros and at subnormal and large weights."""
    for w in (*case.with_zeros(), *case.extremes()):
        value, gradient = case.value_and_gradient(w)
        if np.any(np.isnan(gradient)) or (math.isfinite(value) and not np.all(np.isfinite(gradient))):
            yield f"at w={show(w)} it is {show(gradient)}."


def gradient_agrees(case: Case) -> Iterator[str]:
    """The gradient agrees with subdiff_distance."""
    for scale in (0.01, 0.1, 1.0, 10.0):
        w = case.normal(scale)
        value, gradient = case.value_and_gradient(w)
        distance = defined(case.penalty.subdiff_distance, w, -gradient)
        if distance is None:
            return
        distance = float(ops.max(distance))
        # Where a derivative has all but faded, what is left of it is rounding.
        if not distance <= 1e-4 * np.max(np.abs(gradient)) + 1e-6 * value / np.max(np.abs(w)):
            yield f"at w={show(w)} automatic differentiation gives {show(gradient)}, at distance {distance:.3g} from the subdifferential."


def support_is_nonzero(case: Case) -> Iterator[str]:
    """The support is a boolean tensor like the weights, which are 0 outside it."""
    for w in case.with_zeros():
        support = ops.convert_to_numpy(case.penalty.support(w))
        if support.dtype != bool or support.shape != w.shape:
            yield f"weights of shape {w.shape} give a support of shape {support.shape} and dtype {support.dtype}."
        elif np.any(w[~support] != 0):
            yield f"at w={show(w)} it is {show(support)}."
        elif not w.any() and support.any():
            yield f"the zero vector has the support {show(support)}."


def strength_max_tight(case: Case) -> Iterator[str]:
    """Zero is stationary 1 % above strength_max and not 1 % below."""
    zero = np.zeros(case.shape, "float32")
    for scale in (0.01, 1.0, 30.0):
        gradient = case.normal(scale)
        largest = defined(case.penalty.strength_max, gradient)
        if largest is None:
            return
        if not (isinstance(largest, float) and math.isfinite(largest) and largest > 0):
            yield f"at grad_at_zero={show(gradient)} it is {largest!r}; expected a positive Python float."
            return
        for factor in (1.01, 0.99):
            penalty = case.penalty.with_strength(factor * largest)
            said = f"at grad_at_zero={show(gradient)} it is {largest:.6g}, but at {factor} times that"
            distance = defined(penalty.subdiff_distance, zero, gradient)
            if distance is not None and (float(ops.max(distance)) > 0) != (factor < 1):
                yield f"{said} the distance of zero from being stationary is {float(ops.max(distance)):.3g}."
            step = 1e-4 / (1 + scale)
            moved = defined(penalty.prox, -step * gradient, step)
            if moved is not None and bool(ops.any(moved != 0)) != (factor < 1):
                yield f"{said} a proximal step of {step:.3g} from zero leads to {show(ops.convert_to_numpy(moved))}."


def compiled_once(case: Case) -> Iterator[str]:
    """A second call with another value does not compile again."""
    calls = []

    def counted(w):
        calls.append(1)
        return case.call(w)

    function = compiled(counted)
    if function is counted:
        return
    for _ in range(3):
        function(ops.convert_to_tensor(case.normal()))
    if len(calls) > 1:
        yield f"three calls on weights of shape {case.shape} traced it {len(calls)} times."


VALUE_LAWS = (
    written,
    config_round_trip,
    strength_moves,
    scalar_value,
    value_compiled,
    compiled_once,
    strength_zero,
    convex_value,
    finite_gradient,
    gradient_agrees,
    support_is_nonzero,
    strength_max_tight,
)
