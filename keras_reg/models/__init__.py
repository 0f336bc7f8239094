"""Tools that take a whole model."""

from keras_reg.models.attach import attach as attach
from keras_reg.models.attach import detach as detach
from keras_reg.models.check import check as check
from keras_reg.models.compact import compact as compact
from keras_reg.models.compact import compaction_plan as compaction_plan
from keras_reg.models.compact import compaction_rule as compaction_rule
from keras_reg.models.compact import structural_groups as structural_groups
from keras_reg.models.sparsity_report import sparsity as sparsity
from keras_reg.models.strip import strip as strip
