"""Folds: which examples are trained on and which are held out, by scikit-learn's splitters."""

import numbers
from typing import Any

import numpy as np

from keras_reg._validation import received, whole_number
from keras_reg.selection.data import Data


def folds_of(cv: Any, data: Data) -> dict[str, tuple[Data, Data]]:
    """Both parts of each fold, by its name."""
    if cv is None:
        return {}
    parts = {}
    for number, pair in enumerate(_indices(cv, data), start=1):
        train, held = (np.asarray(index) for index in pair)
        if train.size == 0 or held.size == 0:
            raise ValueError(f"Argument `cv` must leave examples on both sides of every fold. Received: fold {number} has none on one side")
        parts[f"fold_{number}"] = data.cut(train), data.cut(held)
    if len(parts) < 2:
        raise ValueError(f"Argument `cv` must give at least 2 folds. Received: {len(parts)}")
    return parts


def _indices(cv: Any, data: Data) -> list[tuple]:
    targets = data.y if isinstance(data.y, np.ndarray) else None
    if isinstance(cv, numbers.Integral):
        cv = _shuffled(whole_number(cv, "cv", at_least=2), targets)
    if hasattr(cv, "split"):
        return list(cv.split(np.zeros((len(data), 1)), targets))
    try:
        pairs = [tuple(pair) for pair in cv]
    except TypeError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise TypeError(
            f"Argument `cv` must be a splitter of scikit-learn, pairs of indices, a number of folds or None. {received(cv, 'cv')}"
        )
    return pairs


def _shuffled(number: int, targets: np.ndarray | None) -> Any:
    try:
        from sklearn.model_selection import KFold, StratifiedKFold
    except ImportError as error:
        raise ImportError("A number of folds needs scikit-learn (pip install scikit-learn), or else give pairs of indices.") from error
    labels = targets is not None and targets.ndim == 1 and targets.dtype.kind in "iub"
    return (StratifiedKFold if labels else KFold)(number, shuffle=True, random_state=0)
