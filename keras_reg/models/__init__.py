"""Tools that take a whole model."""

from keras_reg.models.sparsity_report import sparsity as sparsity
