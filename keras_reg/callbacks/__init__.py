"""Callbacks for `fit`: strengths that move, and seeing what happens to the weights."""

from keras_reg.callbacks.online_labels import OnlineLabelSmoothing as OnlineLabelSmoothing
from keras_reg.callbacks.strength_scheduler import StrengthScheduler as StrengthScheduler
from keras_reg.callbacks.target_sparsity import TargetSparsity as TargetSparsity
from keras_reg.callbacks.weight_histogram import WeightHistogram as WeightHistogram
