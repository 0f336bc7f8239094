"""An optimizer that lands on zero, around any of Keras's."""

from keras_reg.optimizers.proximal import Proximal as Proximal
