"""The one decorator through which a class becomes public."""

import keras

PACKAGE = "keras_reg"


def register(cls):
    """Register `cls` with Keras as `keras_reg>ClassName`."""
    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)


def is_registered(cls: type) -> bool:
    """Whether Keras would find the class by its name, now: as a custom object too."""
    return keras.saving.get_registered_object(keras.saving.get_registered_name(cls)) is cls
