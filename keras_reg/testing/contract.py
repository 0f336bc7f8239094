"""`check_penalty`: every law of the contract, on one penalty."""

from collections.abc import Callable, Iterator

import numpy as np

from keras_reg._validation import received, whole_number
from keras_reg.regularizers import Penalty
from keras_reg.testing.prox_laws import PROX_LAWS
from keras_reg.testing.samples import Case
from keras_reg.testing.value_laws import VALUE_LAWS, registered

LAWS: tuple[Callable[[Case], Iterator[str]], ...] = (*VALUE_LAWS, *PROX_LAWS, registered)


def check_penalty(penalty: Penalty, shape: tuple[int, ...], seed: int = 0) -> None:
    """Check that a penalty keeps the contract of `Penalty`, on random weights of a shape.

    What a penalty does not define (its `prox`, `subdiff_distance` or `strength_max` raises `NotImplementedError`) is not
    checked; a penalty without a prox must refuse `proximal=True`. The laws:

    - what a subclass writes is there: `strength`, `proximal`, both in the config that its constructor takes, a scalar value, and a strength
      that can be moved; its class is registered with Keras;
    - config: plain Python values, an exact round trip, the caller's dict untouched;
    - value: a finite scalar in the dtype of the weights, the same compiled as not, 0 at strength 0, convex where it says so;
    - gradient: finite at zero vectors and zero groups, at subnormal and at huge weights; agrees with `subdiff_distance`;
    - support: a boolean tensor like the weights, which are exactly 0 outside it;
    - strength_max: zero is stationary 1 % above it, and is not 1 % below;
    - prox: never beaten by zero, by the weights themselves, by a grid along each coordinate and each slice, or by random
      neighbours, at small and large steps, scalar and per weight; stationary; NaN stays NaN and an infinite weight does not become
      finite; a step of 0 changes nothing; dtype and shape kept; the same compiled as not; firmly non-expansive where convex;
    - projection, of a penalty with `constraint = True`, in place of the objective: nothing that keeps to the constraint (it is its own
      projection) is nearer; weights are kept or 0; a second one changes nothing; at a step of 0 it holds as well.

    Args:
        penalty: An instance.
        shape: Shape of the weights, small: a few dozen weights are enough and keep it to seconds.
        seed: Seed of the random weights.

    Raises:
        AssertionError: A sentence that names the law and gives a counterexample.

    Example:

    >>> import keras
    >>> from keras_reg.regularizers import SCAD
    >>> from keras_reg.testing import check_penalty
    >>> check_penalty(SCAD(0.1), shape=(4, 3))
    >>> @keras.saving.register_keras_serializable("my_package")
    ... class Doubled(SCAD):
    ...     def __call__(self, w):
    ...         return 2 * super().__call__(w)
    >>> check_penalty(Doubled(0.1), shape=(4, 3))
    Traceback (most recent call last):
    ...
    AssertionError: Doubled(strength=0.1, a=3.7) breaks the law 'the gradient agrees with subdiff_distance': ...
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"Argument `penalty` must be an instance of keras_reg.regularizers.Penalty. Received: penalty={penalty!r}")
    if not isinstance(shape, (tuple, list)) or not shape:
        raise TypeError(f"Argument `shape` must be a tuple of whole numbers, such as (4, 3). {received(shape, 'shape')}")
    shape = tuple(whole_number(length, "shape", at_least=1) for length in shape)
    for law in LAWS:
        # Each law has random numbers of its own, so that one law's counterexample does not depend on the others.
        case = Case(penalty, shape, np.random.default_rng(seed))
        for broken in _counterexamples(law, case):
            name = law.__doc__.strip().rstrip(".")
            raise AssertionError(f"{_shown(penalty)} breaks the law '{name[0].lower()}{name[1:]}': {broken}")


def _counterexamples(law: Callable[[Case], Iterator[str]], case: Case) -> Iterator[str]:
    try:
        yield from law(case)
    except Exception as error:  # of the user's code
        said = " ".join(str(error).split())[:300]
        yield f"it raised {type(error).__name__}: {said} (`value` and `prox` take tensors and use `keras.ops` alone)"


def _shown(penalty: Penalty) -> str:
    try:
        return repr(penalty)
    except Exception:  # which needs a config
        return type(penalty).__name__
