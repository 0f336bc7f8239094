"""`validation_split`, as `fit` has it."""

from typing import Any

from keras import tree

from keras_reg._validation import greater_than, received, shown


def split_off(data: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last examples become the validation data, if that is asked for.

    Args:
        data: `x`, `y`, `validation_data` and `batch_size`.
        options: Other arguments of `fit`; `validation_split` is no longer among those that are returned.
    """
    options = dict(options)
    share = options.pop("validation_split", None)
    if not share:
        return data, options
    if data["validation_data"] is not None:
        raise ValueError("Arguments `validation_data` and `validation_split` exclude each other. Received: both")
    parts = data["x"], data["y"], options.get("sample_weight")
    leaves = [leaf for leaf in tree.flatten(parts) if leaf is not None]
    if not all(hasattr(leaf, "__array__") and hasattr(leaf, "shape") for leaf in leaves):
        raise ValueError(f"Argument `validation_split` needs `x` and `y` as arrays. Received: x={shown(data['x'])}")
    number = place_of_split(len(leaves[0]), share)
    sides = slice(None, number), slice(number, None)
    (x, y, weights), held = (tree.map_structure(lambda a, side=side: a if a is None else a[side], parts) for side in sides)
    if weights is not None:
        options["sample_weight"] = weights
    return {**data, "x": x, "y": y, "validation_data": tuple(part for part in held if part is not None)}, options


def place_of_split(size: int, share: Any) -> int:
    """How many of so many examples are trained on."""
    share = greater_than(share, 0, "validation_split")
    number = int(size * (1 - share)) if share < 1 else 0
    if number in (0, size):
        raise ValueError(f"Argument `validation_split` must leave examples on both sides. {received(share, 'validation_split')}")
    return number
