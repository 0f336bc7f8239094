"""Metrics: `keras.metrics.Metric` classes."""

from keras_reg.metrics.calibration import ExpectedCalibrationError as ExpectedCalibrationError
