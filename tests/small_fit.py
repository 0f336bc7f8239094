"""A small model that is trained with the callback, here and in the processes that tests start."""

import keras
import numpy as np

from keras_reg.callbacks import WeightHistogram

TAG = "only/kernel"


def fit(log_dir, *callbacks, epochs=3, **arguments):
    """Two steps an epoch."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="only")])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 6), "float32"), np.ones((8, 5), "float32")
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=[WeightHistogram(log_dir, **arguments), *callbacks])
    return model
