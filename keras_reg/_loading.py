"""What a file may put where: an object of the kind that belongs there, and no other."""

import reprlib
from typing import Any

import keras


def regularizer_from(config: Any, argument: str) -> Any:
    """The regularizer that a config describes, under the safe mode of whoever is loading.

    Keras's own `deserialize` takes any registered class for a regularizer, as a layer can be called too.

    Raises:
        ValueError: for the config of anything else; nothing is made of it.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ValueError(f"Argument `{argument}` must be the config of a regularizer. Received: {argument}={reprlib.repr(config)}")
    kind = keras.saving.get_registered_object(config.get("registered_name", config["class_name"]))
    if kind is None or (isinstance(kind, type) and issubclass(kind, keras.regularizers.Regularizer)):
        regularizer = keras.regularizers.deserialize(config)
        if isinstance(regularizer, keras.regularizers.Regularizer):
            return regularizer
    raise ValueError(f"Argument `{argument}` must be the config of a regularizer. Received: that of {config['class_name']}")
