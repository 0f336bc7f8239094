"""The metric that a smaller model has to hold."""

from typing import Any

import keras

from keras_reg._validation import one_of


class Goal:
    """How much worse a metric may become.

    Args:
        model: The model of before, which has been evaluated.
        monitor: The name of the metric, or `None` for the first one.
        before: Its metrics.
        drop: How much, or `None` for any.
    """

    def __init__(self, model: Any, monitor: str | None, before: dict[str, float], drop: float | None):
        metrics = [name for name in model.get_metrics_result() if name in before and not name.endswith("loss")]  # as they were compiled
        self.monitor = (metrics or ["loss"])[0] if monitor is None else one_of(monitor.removeprefix("val_"), tuple(before), "monitor")
        self.drop = drop
        self.before = before[self.monitor]
        self.rises = drop is not None and _rises(model, self.monitor)

    def holds(self, metrics: dict[str, float]) -> bool:
        worse = self.before - metrics[self.monitor]
        return self.drop is None or (worse if self.rises else -worse) <= self.drop

    def said(self, metrics: dict[str, float]) -> str:
        return f"{self.monitor} {metrics[self.monitor]:.4g}, before {self.before:.4g}{'' if self.holds(metrics) else ', not held'}"

    def __str__(self) -> str:
        return "" if self.drop is None else f"{self.monitor} within {self.drop:g}"


def _rises(model: Any, monitor: str) -> bool:
    """Whether more is better, as `EarlyStopping` decides."""
    stopping = keras.callbacks.EarlyStopping(monitor)
    stopping.set_model(model)
    stopping.on_train_begin()
    try:
        for epoch, value in enumerate((1.0, 2.0)):
            stopping.on_epoch_end(epoch, {monitor: value})
    except ValueError:
        raise ValueError(
            f"Argument `monitor` must name a metric of which Keras knows whether more of it is better, or 'loss'. Received: {monitor!r}"
        ) from None
    return stopping.best == 2.0
