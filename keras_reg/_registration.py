"""The one decorator through which a class becomes public."""

import keras

PACKAGE = "keras_reg"


def register(cls):
    """Register `cls` with Keras as `keras_reg>ClassName`."""
    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)
