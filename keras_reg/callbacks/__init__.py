"""Callbacks for `fit`: seeing what happens to the weights."""

from keras_reg.callbacks.weight_histogram import WeightHistogram as WeightHistogram
