"""Serializable penalties for `kernel_regularizer=` and every other place where Keras takes a regularizer."""

from keras.regularizers import OrthogonalRegularizer, Regularizer, deserialize, orthogonal_regularizer, serialize

from keras_reg.regularizers import build_check as build_check
from keras_reg.regularizers.concave import MCP, SCAD, Lq
from keras_reg.regularizers.constraint import L0Constraint
from keras_reg.regularizers.convex import L1, L1L2, L2, l1, l1_l2, l2
from keras_reg.regularizers.gates import GaussianGatePenalty, HardConcreteL0
from keras_reg.regularizers.grouped import Grouped, GroupHoyerSquare, GroupLasso, SparseGroupLasso
from keras_reg.regularizers.hoyer import HoyerSquare
from keras_reg.regularizers.l0 import L0
from keras_reg.regularizers.lookup import get
from keras_reg.regularizers.penalty import Penalty
from keras_reg.regularizers.structural import StructuralGroupLasso
from keras_reg.regularizers.structural_constraint import StructuralL0Constraint
from keras_reg.regularizers.sums import Sum

__all__ = [
    "L0",
    "L1",
    "L1L2",
    "L2",
    "MCP",
    "SCAD",
    "GaussianGatePenalty",
    "GroupHoyerSquare",
    "GroupLasso",
    "Grouped",
    "HardConcreteL0",
    "HoyerSquare",
    "L0Constraint",
    "Lq",
    "OrthogonalRegularizer",
    "Penalty",
    "Regularizer",
    "SparseGroupLasso",
    "StructuralGroupLasso",
    "StructuralL0Constraint",
    "Sum",
    "deserialize",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
    "serialize",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
