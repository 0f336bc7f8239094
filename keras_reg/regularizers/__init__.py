"""Serializable penalties for `kernel_regularizer=` and every other place where Keras takes a regularizer."""

from keras.regularizers import OrthogonalRegularizer as OrthogonalRegularizer
from keras.regularizers import Regularizer as Regularizer
from keras.regularizers import deserialize as deserialize
from keras.regularizers import orthogonal_regularizer as orthogonal_regularizer
from keras.regularizers import serialize as serialize

from keras_reg.regularizers import build_check as build_check
from keras_reg.regularizers.concave import MCP as MCP
from keras_reg.regularizers.concave import SCAD as SCAD
from keras_reg.regularizers.concave import Lq as Lq
from keras_reg.regularizers.constraint import L0Constraint as L0Constraint
from keras_reg.regularizers.convex import L1 as L1
from keras_reg.regularizers.convex import L1L2 as L1L2
from keras_reg.regularizers.convex import L2 as L2
from keras_reg.regularizers.convex import l1 as l1
from keras_reg.regularizers.convex import l1_l2 as l1_l2
from keras_reg.regularizers.convex import l2 as l2
from keras_reg.regularizers.grouped import Grouped as Grouped
from keras_reg.regularizers.grouped import GroupHoyerSquare as GroupHoyerSquare
from keras_reg.regularizers.grouped import GroupLasso as GroupLasso
from keras_reg.regularizers.grouped import SparseGroupLasso as SparseGroupLasso
from keras_reg.regularizers.hoyer import HoyerSquare as HoyerSquare
from keras_reg.regularizers.l0 import L0 as L0
from keras_reg.regularizers.lookup import get as get
from keras_reg.regularizers.penalty import Penalty as Penalty
from keras_reg.regularizers.structural import StructuralGroupLasso as StructuralGroupLasso
from keras_reg.regularizers.sums import Sum as Sum
