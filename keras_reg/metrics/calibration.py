"""How far the confidence of a classifier is from how often it is right."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_reg._keras import mask_of
from keras_reg._labels import checked_ids, classes_last, fits
from keras_reg._registration import register
from keras_reg._validation import boolean, one_of, whole_number
from keras_reg.backend import can_be_seen, nan_where, replicas
from keras_reg.ops.dtypes import widen

BINNINGS = ("equal_width", "equal_mass")
TOLERANCE = 0.01  # of probabilities in half precision
CELLS = 4096
"""Bins of equal mass are put together from cells: distinct confidences while there are so many examples at most, then as many steps on the
scale of log-odds, which are as fine near 1, where confidences crowd, as elsewhere."""
LOG_ODDS = (-12.0, 17.0)


@register
class ExpectedCalibrationError(keras.metrics.Metric):
    """Expected calibration error: the mean distance between confidence and accuracy over bins of confidence.

    `sum_b (n_b / n) * |accuracy_b - confidence_b|`: examples are put in bins by the probability of their predicted class; in each the
    mean probability is compared with the share of right predictions. Computed in one pass over batches of any size.

    For binary classifiers the literature has two readings. The first is the definition above for two classes: confidence `max(p, 1 - p)`
    against how often the prediction, class 1 if `p > 0.5`, is right (Guo et al.; the default here). The second compares the probability
    `p` of class 1 with the share of class 1, as scikit-learn's `calibration_curve` does: `class_id=1`. It sees errors that the first
    averages out: a model that says 0.8 where it should say 0.9, and 0.2 where it should say 0.3, has none in the first.

    Args:
        num_bins: Number of bins.
        binning: `"equal_width"`: bins divide [0, 1] evenly. `"equal_mass"`: each holds the same weight of examples, which wastes none
            where nobody is. An example is in the bin where the middle of its weight is, by the order of confidences, and those of one
            confidence in one bin. Beyond 4,096 examples (and under `tf.distribute`) edges are chosen among those of 4,096 cells instead:
            the error moves by at most twice the share of the examples in cells that the exact edges would divide.
        from_logits: Whether `y_pred` holds logits rather than probabilities, which are scaled to sum to 1.
        ignore_class: A class id, of a class or not. Examples with this label do not count.
        axis: The class axis of `y_pred`.
        name: As for every Keras metric.
        dtype: As for every Keras metric; half precision is widened to float32.
        class_id: `None`: the calibration of the predicted class. A class id: that of this class, whose probability, whatever is predicted,
            is compared with its share among the labels.

    Predictions have one entry for each class, or, of a binary classifier, one for class 1 alone: shape `(n,)`, or a class axis of length 1.
    Labels are class ids of shape `(...)` or with one more axis of length 1, or one-hot or soft targets of the shape of `y_pred`, whose
    largest entry counts; those of a binary classifier are 0 and 1. `sample_weight` holds one weight for each label (or broadcasts). Masks
    of Keras's layers are respected.

    Example:

    >>> import keras_reg
    >>> error = keras_reg.metrics.ExpectedCalibrationError(num_bins=10)
    >>> error.update_state([0, 1, 1, 1], [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    >>> round(float(error.result()), 4)
    0.3

    Half of the examples have confidence 0.9 and accuracy 0.5, the others confidence 0.8 and accuracy 1: 0.5 * 0.4 + 0.5 * 0.2.

    >>> error = keras_reg.metrics.ExpectedCalibrationError(num_bins=10)
    >>> error.update_state([0, 1, 1, 1], [0.2, 0.2, 0.8, 0.8])  # confidence 0.8, and 3 of 4 are right
    >>> round(float(error.result()), 4)
    0.05
    >>> error = keras_reg.metrics.ExpectedCalibrationError(num_bins=10, class_id=1)
    >>> error.update_state([0, 1, 1, 1], [0.2, 0.2, 0.8, 0.8])  # half are 1 where 0.2 was said, all where 0.8
    >>> round(float(error.result()), 4)
    0.25

    Reference: [Guo et al., 2017](https://arxiv.org/abs/1706.04599).
    """

    def __init__(
        self,
        num_bins: int = 15,
        binning: str = "equal_width",
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
        name: str | None = "expected_calibration_error",
        dtype: Any = None,
        class_id: int | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self._direction = "down"  # what `EarlyStopping` and `ModelCheckpoint` ask where their `mode` is "auto"
        self.num_bins = whole_number(num_bins, "num_bins", at_least=1)
        self.binning = one_of(binning, BINNINGS, "binning")
        self.from_logits = boolean(from_logits, "from_logits")
        self.ignore_class = whole_number(ignore_class, "ignore_class", or_none=True)
        self.axis = whole_number(axis, "axis")
        self.class_id = whole_number(class_id, "class_id", at_least=0, or_none=True)
        cells = self.num_bins if binning == "equal_width" else CELLS
        wide = "float64" if self.dtype == "float64" else "float32"
        # Of each cell: its weight, and weighted by it the confidence and the number of right predictions.
        self.sums = self.add_variable((cells, 3), initializer="zeros", dtype=wide, name="sums")
        if binning == "equal_mass":
            self.first_examples = self.add_variable((cells, 3), initializer="zeros", dtype=wide, name="first_examples")
            self.number_of_examples = self.add_variable((), initializer="zeros", dtype=wide, name="number_of_examples")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch."""
        mask = mask_of(y_pred)
        y_pred, _ = widen(y_pred, "y_pred")
        y_true = y_true if isinstance(y_true, KerasTensor) else ops.convert_to_tensor(y_true)
        if is_binary(y_true, y_pred):
            y_pred = ops.expand_dims(y_pred, -1)
        y_true, y_pred, dense = classes_last(y_true, y_pred, self.axis, one_class_is_labels=True)
        if y_pred.shape[-1] == 1:
            y_pred = ops.concatenate([ops.zeros_like(y_pred) if self.from_logits else 1 - y_pred, y_pred], axis=-1)
        classes = y_pred.shape[-1]
        if 0 in y_pred.shape:  # a batch of nothing
            return
        if self.class_id is not None and self.class_id >= classes:
            raise ValueError(f"Argument `class_id` must be a class of `y_pred`, which has {classes}. Received: class_id={self.class_id}")
        labels = ops.argmax(y_true, axis=-1) if dense else y_true
        labels, missing, counted = checked_ids(labels, classes, self.ignore_class)
        scores = ops.softmax(y_pred) if self.from_logits else y_pred / ops.sum(y_pred, axis=-1, keepdims=True)
        if self.class_id is None:
            confidence, expected = ops.max(scores, axis=-1), ops.cast(ops.argmax(y_pred, axis=-1), labels.dtype)
        else:
            confidence, expected = scores[..., self.class_id], self.class_id
        confidence, right = (ops.cast(value, self.sums.dtype) for value in (confidence, ops.equal(labels, expected)))

        weight = ops.ones_like(confidence)
        for factor in (counted, mask, sample_weight):
            if factor is not None:
                weight = weight * self.like_positions(ops.cast(factor, weight.dtype), weight)
        if not self.from_logits:
            missing = with_impossible(missing, y_pred, weight)
        if missing is not None:
            weight = nan_where(ops.logical_and(missing, ops.not_equal(weight, 0)), weight)
        # Whatever stands where nothing counts, a NaN as well, leaves no trace.
        confidence = ops.where(ops.equal(weight, 0), ops.zeros_like(confidence), confidence)
        examples = ops.stack([ops.reshape(value, (-1,)) for value in (weight, confidence, right)], axis=-1)
        if self.binning == "equal_mass":
            self._keep(examples)
        cell = ops.reshape(self.cell(confidence), (-1,))
        self.sums.assign_add(ops.segment_sum(_weighted(examples), cell, num_segments=self.sums.shape[0]))

    def like_positions(self, factor: Any, positions: Any) -> Any:
        """Weights with one more axis of length 1, or with fewer axes, as Keras takes them."""
        if len(factor.shape) == len(positions.shape) + 1 and factor.shape[-1] == 1:
            factor = ops.squeeze(factor, -1)
        if len(factor.shape) > len(positions.shape):
            raise ValueError(
                "Argument `sample_weight` must have one weight for each label. Received: sample_weight of shape "
                f"{tuple(factor.shape)} and labels of shape {tuple(positions.shape)}"
            )
        return ops.reshape(factor, (*ops.shape(factor), *(1,) * (len(positions.shape) - len(factor.shape))))

    def cell(self, confidence: Any) -> Any:
        if self.binning == "equal_width":
            place = confidence * self.num_bins
        else:
            low, high = LOG_ODDS
            tiny = 1e-30  # a confidence of 1 is in the last cell
            odds = ops.log(confidence + tiny) - ops.log(1 - confidence + tiny)
            place = (odds - low) * (CELLS / (high - low))
        # A NaN has no place of its own; counted in the first, it shows in the result.
        place = ops.where(ops.isnan(place), ops.zeros_like(place), place)
        return ops.cast(ops.clip(place, 0, self.sums.shape[0] - 1), "int32")

    def _keep(self, examples: Any) -> None:
        """The first examples that count, in the order in which they come."""
        counts = ops.not_equal(examples[:, 0], 0)
        place = ops.cast(self.number_of_examples, "int32") + ops.cumsum(ops.cast(counts, "int32")) - 1
        place = ops.where(ops.logical_and(counts, place < CELLS), place, CELLS)
        self.first_examples.assign_add(ops.segment_sum(examples, place, num_segments=CELLS + 1)[:CELLS])
        # Several replicas would write to the same places.
        added = ops.sum(ops.cast(counts, self.number_of_examples.dtype)) if replicas() == 1 else CELLS + 1.0
        self.number_of_examples.assign(ops.minimum(self.number_of_examples + added, CELLS + 1.0))

    def _cells(self) -> Any:
        """What bins of equal mass are put together from, in the order of confidences."""
        first = ops.convert_to_tensor(self.first_examples)
        first = ops.take(first, ops.argsort(first[:, 1]), axis=0)
        others = ops.cast(ops.not_equal(first[1:, 1], first[:-1, 1]), "int32")
        distinct = ops.concatenate([ops.zeros((1,), "int32"), ops.cumsum(others)])
        exact = ops.segment_sum(_weighted(first), distinct, num_segments=CELLS)
        return ops.where(self.number_of_examples <= CELLS, exact, ops.convert_to_tensor(self.sums))

    def bins(self) -> Any:
        """`(num_bins, 3)`: of each bin its weight, mean confidence and accuracy (with `class_id`: the share of that class); zeros where a
        bin is empty."""
        if self.binning == "equal_width":
            return _means(ops.convert_to_tensor(self.sums))
        cells = self._cells()
        return _means(ops.segment_sum(cells, self._bin_of(cells), num_segments=self.num_bins))

    def _bin_of(self, cells: Any) -> Any:
        upto = ops.cumsum(cells[:, 0])
        place = ops.divide_no_nan(upto - cells[:, 0] / 2, upto[-1]) * self.num_bins
        place = ops.where(ops.isnan(place), ops.zeros_like(place), place)
        return ops.cast(ops.clip(place, 0, self.num_bins - 1), "int32")

    def edges(self) -> np.ndarray:
        """`(num_bins, 2)`: from which confidence to which each bin reaches; for bins of equal mass half way to the examples of the next,
        and NaN where a bin is empty."""
        if self.binning == "equal_width":
            ticks = np.arange(self.num_bins + 1) / self.num_bins
            return np.stack([ticks[:-1], ticks[1:]], axis=-1)
        cells = self._cells()
        weight, confidence, _ = ops.convert_to_numpy(_means(cells)).T
        place = ops.convert_to_numpy(self._bin_of(cells))
        found = np.full((self.num_bins, 2), np.nan)
        within = {b: confidence[(place == b) & (weight > 0)] for b in np.unique(place[weight > 0])}
        for b, values in within.items():
            found[b] = values.min(), values.max()
        for one, other in itertools.pairwise(within):
            found[one, 1] = found[other, 0] = (found[one, 1] + found[other, 0]) / 2
        return found

    def result(self) -> Any:
        """The error of what was counted; 0 of nothing."""
        weight, confidence, accuracy = ops.unstack(self.bins(), 3, axis=-1)
        return ops.divide_no_nan(ops.sum(weight * ops.absolute(accuracy - confidence)), ops.sum(weight))

    def get_config(self) -> dict:
        names = ("num_bins", "binning", "from_logits", "ignore_class", "axis", "class_id")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _weighted(examples: Any) -> Any:
    """Of weights, confidences and whether right: the weights, and weighted by them the others."""
    weight = examples[:, :1]
    return ops.concatenate([weight, weight * examples[:, 1:]], axis=-1)


def _means(sums: Any) -> Any:
    """The reverse of `_weighted`, for sums."""
    weight = sums[:, :1]
    return ops.concatenate([weight, ops.divide_no_nan(sums[:, 1:], weight)], axis=-1)


def is_binary(y_true: Any, y_pred: Any) -> bool:
    """Whether predictions without a class axis belong to these labels."""
    return len(y_pred.shape) == 1 and (fits(tuple(y_true.shape), tuple(y_pred.shape)) or fits(tuple(y_true.shape), (*y_pred.shape, 1)))


def with_impossible(missing: Any, probabilities: Any, weight: Any) -> Any:
    """Where labels are missing or what counts is no probability; an error if it can be seen."""
    outside = ops.any(ops.logical_or(probabilities < -TOLERANCE, probabilities > 1 + TOLERANCE), axis=-1)
    if not can_be_seen(probabilities):
        return outside if missing is None else ops.logical_or(missing, outside)
    if np.any(ops.convert_to_numpy(ops.logical_and(outside, ops.not_equal(weight, 0)))):
        raise ValueError(
            "Argument `y_pred` must hold probabilities, from 0 to 1; logits need `from_logits=True`. Received: values from "
            f"{float(ops.min(probabilities)):.4g} to {float(ops.max(probabilities)):.4g}"
        )
    return missing
