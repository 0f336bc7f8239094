"""Callbacks for `fit`."""

from keras_reg.callbacks.strength import StrengthScheduler as StrengthScheduler
from keras_reg.callbacks.strength import TargetSparsity as TargetSparsity
