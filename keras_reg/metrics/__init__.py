"""Metrics: `keras.metrics.Metric` classes."""

from keras_reg.metrics.calibration import ExpectedCalibrationError

__all__ = [
    "ExpectedCalibrationError",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
