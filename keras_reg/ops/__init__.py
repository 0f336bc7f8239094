"""Proximal maps, projections on the largest entries and group norms: pure functions, arrays in, arrays out.

Every map solves `argmin_y (y - x)**2 / (2 * step) + penalty(y)`; its docstring states the penalty.
Half-precision inputs are computed in float32 and come back in their own dtype. A NaN in `x` stays a NaN.
"""

from keras_reg.ops.groups import block_soft_threshold as block_soft_threshold
from keras_reg.ops.groups import group_norm as group_norm
from keras_reg.ops.groups import weighted_block_soft_threshold as weighted_block_soft_threshold
from keras_reg.ops.projections import keep_largest as keep_largest
from keras_reg.ops.projections import keep_largest_blocks as keep_largest_blocks
from keras_reg.ops.projections import keep_largest_groups as keep_largest_groups
from keras_reg.ops.projections import keep_n_of_m as keep_n_of_m
from keras_reg.ops.thresholds import hard_threshold as hard_threshold
from keras_reg.ops.thresholds import laplace_threshold as laplace_threshold
from keras_reg.ops.thresholds import log_threshold as log_threshold
from keras_reg.ops.thresholds import lq_threshold as lq_threshold
from keras_reg.ops.thresholds import mcp_threshold as mcp_threshold
from keras_reg.ops.thresholds import scad_threshold as scad_threshold
from keras_reg.ops.thresholds import shrink as shrink
from keras_reg.ops.thresholds import soft_threshold as soft_threshold
