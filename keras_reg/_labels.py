"""Labels and predictions as losses and metrics want them: checked, class axis last."""

from typing import Any

import numpy as np
from keras import backend, ops

from keras_reg.backend import can_be_seen, class_ids


def classes_last(y_true: Any, y_pred: Any, axis: int, one_class_is_labels: bool) -> tuple[Any, Any, bool]:
    """Both with the class axis last, labels without one; and whether `y_true` holds targets rather than class ids."""
    true, pred = tuple(y_true.shape), tuple(y_pred.shape)
    if not -len(pred) <= axis < len(pred):
        raise ValueError(f"Argument `axis` must name an axis of `y_pred`. Received: axis={axis} and y_pred of shape {pred}")
    axis %= len(pred)
    if not pred[axis]:
        raise ValueError(f"Argument `y_pred` must have a known number of classes on axis {axis}. Received: y_pred of shape {pred}")
    positions = pred[:axis] + pred[axis + 1 :]
    dense = fits(true, pred) and not (pred[axis] == 1 and one_class_is_labels)
    if not dense:
        if len(true) == len(pred) and true[axis] == 1:
            y_true = ops.squeeze(y_true, axis)
        elif len(true) == len(pred) and true[-1] == 1:  # class ids with an axis at the end, where Keras's layers put it
            y_true = ops.squeeze(y_true, -1)
        if not fits(tuple(y_true.shape), positions):
            raise ValueError(
                f"Argument `y_true` must hold class ids, of shape {positions} or with one axis of length 1 more, or targets of shape "
                f"{pred}. Received: y_true of shape {true}"
            )
    elif axis != len(pred) - 1:
        y_true = ops.moveaxis(y_true, axis, -1)
    return y_true, (y_pred if axis == len(pred) - 1 else ops.moveaxis(y_pred, axis, -1)), dense


def fits(shape: tuple, expected: tuple) -> bool:
    return len(shape) == len(expected) and all(None in pair or pair[0] == pair[1] for pair in zip(shape, expected, strict=True))


def checked_ids(y_true: Any, classes: int, ignore_class: int | None) -> tuple[Any, Any, Any]:
    """Class ids from 0 to `classes - 1`; where labels are no such number (`None`: nowhere); which count (`None`: all).

    An error says where labels are wrong if they can be seen. Those of a compiled step or on an accelerator cannot, without waiting for
    them: what is computed from them has to be made NaN.
    """
    if ignore_class is not None and not _can_hold(y_true, ignore_class):
        ignore_class = None
    counted = None if ignore_class is None else ops.not_equal(y_true, ignore_class)
    ids, missing = class_ids(y_true, classes)
    if can_be_seen(y_true):
        check_values(ops.convert_to_numpy(y_true), classes, ignore_class)
        missing = None
    elif counted is not None:
        missing = missing & counted
    return ids, missing, counted


def _can_hold(labels: Any, number: int) -> bool:
    """Whether a label can be this number: 156 is -100 in eight bits, and another class."""
    dtype = backend.standardize_dtype(labels.dtype)
    return "int" not in dtype or np.iinfo(dtype).min <= number <= np.iinfo(dtype).max


def check_values(ids: np.ndarray, classes: int, ignore_class: int | None) -> None:
    if ids.dtype.kind in "iu" and ids.size and ids.min() >= 0 and ids.max() < classes:
        return  # soon seen
    fits = (ids >= 0) & (ids < classes)
    if ids.dtype.kind == "f":
        fits &= ids == np.floor(ids)
    if ignore_class is not None:
        fits |= ids == ignore_class
    if not fits.all():
        ignoring = "" if ignore_class is None else f", or be ignore_class={ignore_class}"
        raise ValueError(
            f"Argument `y_true` must hold whole numbers from 0 to {classes - 1}, as y_pred has {classes} classes{ignoring}. "
            f"Received: {ids[~fits].flat[0]}, and {int(np.sum(~fits))} of {ids.size} labels like it"
        )
