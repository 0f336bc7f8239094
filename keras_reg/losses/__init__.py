"""Losses: `keras.losses.Loss` classes, and functions of the same names in snake case."""

from keras_reg.losses.label_smoothing import LabelSmoothingCrossentropy as LabelSmoothingCrossentropy
from keras_reg.losses.label_smoothing import label_smoothing_crossentropy as label_smoothing_crossentropy
from keras_reg.losses.online_label_smoothing import OnlineLabelSmoothingCrossentropy as OnlineLabelSmoothingCrossentropy
