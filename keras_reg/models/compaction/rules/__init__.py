"""Rules for the layers and operations of Keras; importing this registers them."""

from keras_reg.models.compaction.rules import attention as attention
from keras_reg.models.compaction.rules import channelwise as channelwise
from keras_reg.models.compaction.rules import contraction as contraction
from keras_reg.models.compaction.rules import convolution as convolution
from keras_reg.models.compaction.rules import dense as dense
from keras_reg.models.compaction.rules import einsum as einsum
from keras_reg.models.compaction.rules import gates as gates
from keras_reg.models.compaction.rules import hub as hub
from keras_reg.models.compaction.rules import merging as merging
from keras_reg.models.compaction.rules import moving as moving
from keras_reg.models.compaction.rules import nested as nested
from keras_reg.models.compaction.rules import norms as norms
from keras_reg.models.compaction.rules import recurrent as recurrent
from keras_reg.models.compaction.rules import shaping as shaping
