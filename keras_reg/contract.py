"""What a regularizer is to keras_reg, whatever class it is of."""

import json
import re
from collections.abc import Iterator
from typing import Any

import keras

REGULARIZER_ATTRIBUTE = re.compile(r"_?(?!activity)\w*regularizer")


def regularizer_attributes(layer: Any) -> Iterator[str]:
    """Names of the attributes of this very layer that hold the regularizer of a weight, or would."""
    for name, value in list(vars(layer).items()):
        if REGULARIZER_ATTRIBUTE.fullmatch(name) and (value is None or isinstance(value, keras.regularizers.Regularizer)):
            yield name


def is_penalty(regularizer: Any) -> bool:
    """Whether it keeps the contract of `keras_reg.regularizers.Penalty`."""
    return regularizer is not None and getattr(regularizer.__class__, "strength_names", None) is not None


def is_proximal(regularizer: Any) -> bool:
    return is_penalty(regularizer) and regularizer.proximal


def is_constraint(penalty: Any) -> bool:
    """Whether it sets how many weights are 0, and not what they cost."""
    return getattr(penalty, "constraint", False)


def structure_of(penalty: Any) -> str | None:
    """The name of what a penalty is a part of, if it is: a structure reaches over several weights."""
    return getattr(penalty, "structure", None)


def kind_of(penalty: Any) -> Any:
    """What penalties have in common that differ in their strengths alone; `None` where weights under them cannot be stacked."""
    if penalty.stacked() is None:
        return None
    try:
        config = penalty.with_strength(1.0).get_config()
    except ValueError:  # strengths without a ratio
        return None
    return penalty.__class__, json.dumps(config, sort_keys=True)
