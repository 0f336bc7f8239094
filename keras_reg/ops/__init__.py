"""Proximal maps, projections on the largest entries, group norms and gates: pure functions, arrays in, arrays out.

Every proximal map solves `argmin_y (y - x)**2 / (2 * step) + penalty(y)`; its docstring states the penalty.
Half-precision inputs are computed in float32 and come back in their own dtype. A NaN in `x` stays a NaN.
"""

from keras_reg.ops.gates import (
    gaussian_gate,
    gaussian_gate_information,
    hard_concrete_gate,
    hard_concrete_open_probability,
    hard_concrete_sample,
)
from keras_reg.ops.groups import block_soft_threshold, group_norm, weighted_block_soft_threshold
from keras_reg.ops.projections import keep_largest, keep_largest_blocks, keep_largest_groups, keep_n_of_m
from keras_reg.ops.thresholds import (
    hard_threshold,
    laplace_threshold,
    log_threshold,
    lq_threshold,
    mcp_threshold,
    scad_threshold,
    shrink,
    soft_threshold,
)

__all__ = [
    "block_soft_threshold",
    "gaussian_gate",
    "gaussian_gate_information",
    "group_norm",
    "hard_concrete_gate",
    "hard_concrete_open_probability",
    "hard_concrete_sample",
    "hard_threshold",
    "keep_largest",
    "keep_largest_blocks",
    "keep_largest_groups",
    "keep_n_of_m",
    "laplace_threshold",
    "log_threshold",
    "lq_threshold",
    "mcp_threshold",
    "scad_threshold",
    "shrink",
    "soft_threshold",
    "weighted_block_soft_threshold",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
