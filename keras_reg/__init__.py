"""Regularizers for Keras 3 that reach exact zeros. Importing this registers every class as `keras_reg>Name`."""

from keras_reg import callbacks as callbacks
from keras_reg import losses as losses
from keras_reg import metrics as metrics
from keras_reg import models as models
from keras_reg import ops as ops
from keras_reg import optimizers as optimizers
from keras_reg import regularizers as regularizers
from keras_reg import testing as testing
from keras_reg import visualization as visualization
from keras_reg._version import __version__ as __version__
