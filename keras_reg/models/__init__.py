"""Tools that take a whole model."""

from keras_reg.models.attach import attach as attach
from keras_reg.models.attach import detach as detach
from keras_reg.models.check import check as check
from keras_reg.models.sparsity_report import sparsity as sparsity
from keras_reg.models.strip import strip as strip
