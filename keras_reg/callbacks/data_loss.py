"""The loss without its penalties, as a metric that Keras resets, averages and reports with the others."""

import functools
import weakref
from typing import Any

import keras
from keras import ops, tree

from keras_reg._keras import check
from keras_reg.backend import distribution_scope, replicas, steps_follow_the_metrics
from keras_reg.strength_variable import forget_compiled_steps

_trackers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class DataLoss(keras.metrics.Mean):
    """The mean of the loss without `model.losses`, over examples as Keras's own `loss` is; and that of penalties on activities."""

    def __init__(self):
        super().__init__(name="data_loss")
        self.activity_total = self.add_variable((), initializer="zeros", name="activity_total")

    def add(self, loss: Any, losses: list[Any], number_of_weights: int, size: Any) -> None:
        added = sum((ops.cast(one, loss.dtype) for one in losses), ops.zeros((), loss.dtype))
        self.update_state(loss * replicas() - added, sample_weight=size)
        if len(losses) > number_of_weights:  # Keras puts the penalties of weights last
            others = sum(ops.cast(one, self.dtype) for one in losses[: len(losses) - number_of_weights])
            self.activity_total.assign_add(others * ops.cast(size, self.dtype))

    def reset_state(self) -> None:
        super().reset_state()
        self.activity_total.assign(0.0)

    @property
    def activity(self) -> float:
        """The mean of the penalties on activities, and of all else that layers add to the loss."""
        count = float(ops.convert_to_numpy(self.count))
        return float(ops.convert_to_numpy(self.activity_total)) / count if count else 0.0


def track(model: Any) -> DataLoss:
    """Have Keras report `data_loss`, and `val_data_loss`, with the metrics of the model, until `release`."""
    check("model", model)
    if model not in _trackers:
        with distribution_scope(model):
            _trackers[model] = DataLoss()
        vars(model)["compute_loss"] = _with_data_loss(model.compute_loss, weakref.ref(model))
        forget_compiled_steps(model)
    tracker = _trackers[model]
    if not _is_on(tracker, model):
        # Not in the list that Keras tracks: TensorFlow exports nothing whose lists have shrunk.
        tracker.before = model._metrics
        _set_metrics(model, [*model._metrics, tracker])
    return tracker


def release(model: Any) -> None:
    """Leave the metrics of the model as they were."""
    tracker = _trackers.get(model)
    if tracker is not None and _is_on(tracker, model):
        _set_metrics(model, tracker.before)


def _set_metrics(model: Any, metrics: list[Any]) -> None:
    vars(model)["_metrics"] = metrics
    if not steps_follow_the_metrics():
        forget_compiled_steps(model)


def _is_on(tracker: DataLoss, model: Any) -> bool:
    return any(tracker is metric for metric in model._metrics)


def _with_data_loss(original: Any, reference: Any) -> Any:
    method, owner = getattr(original, "__func__", None), reference

    @functools.wraps(original)
    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        model = owner()
        compute = functools.partial(method, model) if method is not None else original
        tracker = _trackers.get(model)
        if tracker is None or not _is_on(tracker, model):
            return compute(*args, **kwargs)
        losses = list(model.losses)
        own = not model._losses_override
        if own:  # so that they are not computed twice
            model._losses_override = losses
        try:
            loss = compute(*args, **kwargs)
        finally:
            if own:
                model._losses_override = []
        if loss is not None:
            named = dict(zip(("x", "y", "y_pred"), args, strict=False)) | kwargs
            weights = sum(v.regularizer is not None for v in model.trainable_weights)
            tracker.add(loss, losses, weights, _batch_size(named))
        return loss

    return compute_loss


def _batch_size(arguments: dict) -> Any:
    for name in ("x", "y_pred", "y"):
        for tensor in tree.flatten(arguments.get(name)):
            if tensor is not None and len(tensor.shape):
                return ops.shape(tensor)[0]
    return 1
