"""`get`: regularizers by name, as `keras.regularizers.get`, with the penalties of keras_reg first."""

import inspect
import re
from typing import Any

import keras

from keras_reg._registration import PACKAGE
from keras_reg.regularizers.penalty import Penalty
from keras_reg.regularizers.sums import Sum

STRENGTHS = ("strength", "l1", "l2", "group")
DEFAULT = 0.01  # as in Keras


def get(identifier: Any) -> Any:
    """A regularizer by its name, config or itself.

    Names are those of the classes here, as `"GroupLasso"`, `"group_lasso"` or `"keras_reg>GroupLasso"`, and of Keras's where there is none
    here. Strengths are 0.01, which is Keras's for L1 and L2: at 0, its default for L1L2, nothing would happen. (A layer looks strings up
    among Keras's own alone: `kernel_regularizer="l1"` is Keras's L1, `kernel_regularizer=keras_reg.regularizers.get("l1")` is ours.)

    Args:
        identifier: `None`, a name, a config, or a regularizer or function, which is given back; or a list of those, for their `Sum`.

    Returns:
        A regularizer, or `None`.

    Raises:
        ValueError: where there is none of this name, or where it asks for more than strengths.

    Example:

    >>> from keras_reg import regularizers
    >>> regularizers.get("group_lasso")
    GroupLasso(strength=0.01, axis=-1, size_weights=True)
    """
    if isinstance(identifier, str):
        kind = _classes().get(identifier.removeprefix(f"{PACKAGE}>"))
        if kind is not None:
            return _with_strengths(kind, identifier)
    if isinstance(identifier, (list, tuple)):
        return Sum([get(one) for one in identifier])
    return keras.regularizers.get(identifier)


def _classes() -> dict[str, type]:
    """The public penalties by the names of their classes, and by these as Keras writes them small."""
    from keras_reg import regularizers

    found = {}
    for name, thing in vars(regularizers).items():
        if inspect.isclass(thing) and issubclass(thing, Penalty) and thing is not Penalty:
            found[name] = found[_small(thing.__name__)] = thing
    return found


def _small(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _with_strengths(kind: type, identifier: str) -> Penalty:
    strengths = [name for name in inspect.signature(kind).parameters if name in STRENGTHS]
    try:
        return kind(**dict.fromkeys(strengths, DEFAULT))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Argument `identifier` must name a regularizer that asks for strengths alone; build {kind.__name__} itself. "
            f"Received: identifier={identifier!r}"
        ) from error
