"""Tools that take a whole model."""

from keras_reg.models.attachment.attach import attach, detach
from keras_reg.models.attachment.check import check
from keras_reg.models.compaction.compact import compact, compaction_plan, compaction_rule, structural_groups, zero_groups
from keras_reg.models.compressed import save_compressed
from keras_reg.models.insert_gates import insert_gates
from keras_reg.models.shrinking.shrink import shrink
from keras_reg.models.sparsity_report import sparsity
from keras_reg.models.strip import strip

__all__ = [
    "attach",
    "check",
    "compact",
    "compaction_plan",
    "compaction_rule",
    "detach",
    "insert_gates",
    "save_compressed",
    "shrink",
    "sparsity",
    "strip",
    "structural_groups",
    "zero_groups",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
