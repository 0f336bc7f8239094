"""Crossentropy with label smoothing, from integer labels or from one-hot and soft targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import KerasTensor, ops

from keras_reg._labels import checked_ids, classes_last
from keras_reg._registration import register
from keras_reg._validation import boolean, non_negative, one_of, real_number, received, whole_number
from keras_reg.backend import nan_where, pick, smoothed_crossentropy
from keras_reg.backend.plain import mixed
from keras_reg.losses.crossentropy import Crossentropy, dense_crossentropy, leave_out, log_probabilities, targets
from keras_reg.ops.dtypes import like, widen

CONVENTIONS = ("uniform", "others")


def label_smoothing_crossentropy(
    y_true: Any,
    y_pred: Any,
    label_smoothing: float = 0.1,
    from_logits: bool = False,
    ignore_class: int | None = None,
    class_weight: Sequence[float] | None = None,
    prior: Sequence[float] | None = None,
    convention: str = "uniform",
    axis: int = -1,
    confidence_penalty: float = 0.0,
) -> Any:
    """Crossentropy with smoothed labels at every position.

    Args: as those of `LabelSmoothingCrossentropy`.

    Returns:
        A tensor of the shape of `y_pred` without its class axis and of its dtype, computed in float32 or wider;
        0 where a label is `ignore_class`.

    Example:

    >>> from keras_reg.losses import label_smoothing_crossentropy
    >>> loss = label_smoothing_crossentropy([0, 2], [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], from_logits=True)
    >>> [round(float(value), 4) for value in loss]
    [0.3729, 1.0986]
    """
    label_smoothing, prior, class_weight = checked(label_smoothing, from_logits, ignore_class, class_weight, prior, convention)
    confidence_penalty = non_negative(confidence_penalty, "confidence_penalty")
    return losses_of(y_true, y_pred, label_smoothing, from_logits, ignore_class, class_weight, prior, convention, axis, confidence_penalty)


def losses_of(y_true, y_pred, label_smoothing, from_logits, ignore_class, class_weight, prior, convention, axis, confidence_penalty) -> Any:
    """`label_smoothing_crossentropy`, with arguments that are known to be right."""
    y_pred, dtype = widen(y_pred, "y_pred")
    y_true = y_true if isinstance(y_true, KerasTensor) else ops.convert_to_tensor(y_true)
    y_true, y_pred, dense = classes_last(y_true, y_pred, axis, one_class_is_labels=ignore_class is not None)
    kept, spread = smoothing(label_smoothing, prior, class_weight, convention, ignore_class, y_pred.shape[-1])
    if dense:
        target = targets(y_true, y_pred, ignore_class) * kept
        target = (target if class_weight is None else target * like(y_pred, class_weight)) + like(y_pred, spread)
        loss, counted = dense_crossentropy(target, ops.log_softmax(y_pred) if from_logits else log_probabilities(y_pred)), None
    else:
        labels, missing, counted = checked_ids(y_true, y_pred.shape[-1], ignore_class)
        weight = kept if class_weight is None else kept * ops.take(like(y_pred, class_weight), labels)
        if counted is not None:
            # Whatever stands at an ignored position, even a NaN, it has no gradient.
            y_pred = ops.where(ops.expand_dims(counted, -1), y_pred, ops.ones_like(y_pred))
        if from_logits:
            loss = smoothed_crossentropy(y_pred, labels, weight, spread)
        else:
            scores = log_probabilities(y_pred)
            loss = mixed(scores, pick(scores, labels), weight, spread)
        loss = loss if missing is None else nan_where(missing, loss)
    if confidence_penalty:
        loss = loss + confidence_penalty * negative_entropy(y_pred, from_logits)
    loss = loss if counted is None else leave_out(loss, counted)
    return loss if dtype in ("float32", "float64") else ops.cast(loss, dtype)


def negative_entropy(y_pred: Any, from_logits: bool) -> Any:
    """`sum_k p[k] * log p[k]`, to which a class of no probability adds nothing."""
    scores = ops.log_softmax(y_pred) if from_logits else log_probabilities(y_pred)
    impossible = ops.isinf(scores)
    scores = ops.where(impossible, ops.zeros_like(scores), scores)
    return ops.sum(ops.where(impossible, ops.zeros_like(scores), ops.exp(scores)) * scores, axis=-1)


def checked(label_smoothing, from_logits, ignore_class, class_weight, prior, convention):
    """The arguments that do not depend on the number of classes: smoothing, prior and class weights."""
    one_of(convention, CONVENTIONS, "convention")
    boolean(from_logits, "from_logits")
    label_smoothing = real_number(label_smoothing, "label_smoothing")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"Argument `label_smoothing` must be at least 0 and less than 1. Received: label_smoothing={label_smoothing}")
    whole_number(ignore_class, "ignore_class", or_none=True)
    if prior is not None and convention == "others":
        raise ValueError("Argument `prior` goes with convention='uniform': 'others' shares it out evenly. Received: convention='others'")
    prior = per_class(prior, "prior")
    if prior is not None and not prior.sum() > 0:
        raise ValueError(f"Argument `prior` must give mass to some class. Received: a prior that sums to {prior.sum()}")
    return label_smoothing, prior, per_class(class_weight, "class_weight")


def per_class(values: Any, name: str) -> np.ndarray | None:
    """A non-negative number for each class."""
    if values is None:
        return None
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # of several lengths
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        raise TypeError(f"Argument `{name}` must be a sequence of numbers, one for each class. {received(values, name)}")
    if not (np.all(np.isfinite(array)) and np.all(array >= 0)):
        raise ValueError(f"Argument `{name}` must hold finite numbers of at least 0. {received(values, name)}")
    return array.astype("float64")


def smoothing(label_smoothing, prior, class_weight, convention, ignore_class, classes: int) -> tuple[float, float | np.ndarray]:
    """What the target keeps of the label, and the mass that every class gets besides, times its class weight."""
    for values, name in ((prior, "prior"), (class_weight, "class_weight")):
        if values is not None and len(values) != classes:
            raise ValueError(f"Argument `{name}` must have one number for each of the {classes} classes. Received: {len(values)}")
    ignored = ignore_class is not None and 0 <= ignore_class < classes
    count = classes - ignored
    if convention == "others" and label_smoothing:
        if label_smoothing * count >= count - 1:
            raise ValueError(
                f"Argument `label_smoothing` must be less than (N - 1) / N with convention='others'; for N={count} classes that is "
                f"{(count - 1) / max(count, 1):.4g}. Received: label_smoothing={label_smoothing}"
            )
        label_smoothing *= count / (count - 1)
    if not label_smoothing:
        return 1.0, 0.0
    if prior is None and class_weight is None and not ignored:
        return 1 - label_smoothing, label_smoothing / classes
    mass = np.ones(classes) if prior is None else prior.copy()
    if ignored:
        mass[ignore_class] = 0
        if not mass.sum() > 0:
            raise ValueError(f"No class is left to smooth towards when `ignore_class` is. Received: ignore_class={ignore_class}")
    mass *= label_smoothing / mass.sum()
    return 1 - label_smoothing, mass if class_weight is None else mass * class_weight


@register
class LabelSmoothingCrossentropy(Crossentropy):
    """Crossentropy with label smoothing, from integer labels or from one-hot and soft targets.

    The target of an example with label `y` is `(1 - e) * onehot(y) + e * prior`, and the loss `-sum_k w[k] * target[k] * log p[k]` with
    the class weights `w`. From integer labels and logits it takes less time and memory than from one-hot labels.

    Texts on label smoothing mix two conventions; some give the formula of the first and an example of the second. With `e = 0.1`
    and the label `[1, 0, 0]`,

    - `"uniform"` shares `e` out among all classes, that of the label too: `[0.9333, 0.0333, 0.0333]`. So do Keras and PyTorch.
    - `"others"` leaves `1 - e` on the label and shares `e` out among the others: `[0.9, 0.05, 0.05]`.

    With `N` classes the second is the first with `e * N / (N - 1)`.

    Labels are told from targets by their shape: `y_true` of the shape of `y_pred` holds targets, one without the class axis, or with
    one of length 1, holds class ids of any dtype. A class id out of range raises an error where it can be seen (eager tensors on
    the CPU); in a compiled step its loss and gradient are NaN.

    Args:
        label_smoothing: The mass `e` that leaves the label, in `[0, 1)`; with `"others"` in `[0, (N - 1) / N)`.
        from_logits: Whether `y_pred` holds logits. Probabilities are scaled to sum to 1 and clipped to `keras.config.epsilon()` as
            Keras's crossentropy does, which loses gradients: prefer logits.
        ignore_class: A class id, of a class or not (such as -100 or 255). Positions with this label leave both the sum and the count of
            the reduction; if it is a class, it gets no smoothing mass. Integer labels only.
        class_weight: A non-negative number for each class, which scales its term of the loss as in PyTorch, smoothing mass included.
            `"sum_over_batch_size"` still divides by the number of positions, as Keras does, not by the sum of their weights.
        prior: What to smooth towards: a distribution over the classes, or counts, which are scaled to sum to 1. Default: uniform.
        convention: `"uniform"` or `"others"`.
        axis: The class axis of `y_pred`, and of targets of its shape.
        confidence_penalty: How many times the entropy of the predictions is taken off each loss: confident predictions, of low entropy,
            weigh more. With `label_smoothing=0` this is the confidence penalty of Pereyra et al., which pulls towards the uniform
            distribution as label smoothing does, by the reverse divergence. Defaults to 0.
        reduction: As for every Keras loss.
        name: As for every Keras loss.
        dtype: As for every Keras loss. With half precision the loss is computed and summed in float32, then cast.

    Example:

    >>> import numpy as np
    >>> from keras_reg.losses import LabelSmoothingCrossentropy
    >>> loss = LabelSmoothingCrossentropy(0.1, from_logits=True)
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "float32")
    >>> round(float(loss([0, 2], logits)), 4)
    0.7357
    >>> targets = [[0.9333333, 0.0333333, 0.0333333], [0.0333333, 0.0333333, 0.9333333]]
    >>> round(float(LabelSmoothingCrossentropy(0.0, from_logits=True)(targets, logits)), 4)
    0.7357
    >>> others = LabelSmoothingCrossentropy(0.1, from_logits=True, convention="others")
    >>> targets = [[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]]
    >>> bool(abs(others([0, 2], logits) - LabelSmoothingCrossentropy(0.0, from_logits=True)(targets, logits)) < 1e-6)
    True

    References: [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567),
    [Pereyra et al., 2017](https://arxiv.org/abs/1701.06548) (confidence penalty).
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        from_logits: bool = False,
        ignore_class: int | None = None,
        class_weight: Sequence[float] | None = None,
        prior: Sequence[float] | None = None,
        convention: str = "uniform",
        axis: int = -1,
        confidence_penalty: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "label_smoothing_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing, self.prior, self.class_weight = checked(
            label_smoothing, from_logits, ignore_class, class_weight, prior, convention
        )
        self.from_logits = from_logits
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self.convention = convention
        self.axis = whole_number(axis, "axis")
        self.confidence_penalty = non_negative(confidence_penalty, "confidence_penalty")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return losses_of(y_true, y_pred, **{name: getattr(self, name) for name in self._options})

    _options = ("label_smoothing", "from_logits", "ignore_class", "class_weight", "prior", "convention", "axis", "confidence_penalty")

    def get_config(self) -> dict:
        config = {name: getattr(self, name) for name in self._options}
        for name in ("class_weight", "prior"):
            config[name] = None if config[name] is None else config[name].tolist()
        return {**config, **super().get_config()}
