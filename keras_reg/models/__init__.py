"""Tools that take a whole model."""

from keras_reg.models.attachment.attach import attach as attach
from keras_reg.models.attachment.attach import detach as detach
from keras_reg.models.attachment.check import check as check
from keras_reg.models.compaction.compact import compact as compact
from keras_reg.models.compaction.compact import compaction_plan as compaction_plan
from keras_reg.models.compaction.compact import compaction_rule as compaction_rule
from keras_reg.models.compaction.compact import structural_groups as structural_groups
from keras_reg.models.compressed import save_compressed as save_compressed
from keras_reg.models.sparsity_report import sparsity as sparsity
from keras_reg.models.strip import strip as strip
