"""The strength of a penalty that moves, as state of a layer: compiled steps read it anew."""

from typing import Any

import keras

from keras_reg._keras import unlocked
from keras_reg.backend import distribution_scope
from keras_reg.weights import layers_of


class StrengthVariable(keras.random.SeedGenerator):
    """State that is no weight, of which Keras knows seeds alone: in `variables`, in no weight file, count or summary."""

    def __init__(self, value: float, dtype: str, name: str):
        super().__init__(seed=0, name=name)
        self.state = keras.Variable(value, trainable=False, dtype=dtype, aggregation="only_first_replica", name=name)

    @classmethod
    def on(cls, layer: Any, variable: Any, value: float, model: Any) -> "StrengthVariable":
        with distribution_scope(model):
            made = cls(value, wide(variable), f"{variable.name}_strength")
        with unlocked(layer):
            setattr(layer, f"_{made.name}", made)
        return made


def variables_of(layer: Any) -> list[Any]:
    """All variables of a layer but those of strengths that move, which come and go."""
    generators = [generator for one in layers_of(layer) for generator in one._seed_generators]
    strengths = {id(generator.state) for generator in generators if isinstance(generator, StrengthVariable)}
    return [variable for variable in layer.variables if id(variable) not in strengths]


def seeds_of(layer: Any) -> list[Any]:
    """The random numbers of this very layer."""
    return [generator for generator in layer._seed_generators if not isinstance(generator, StrengthVariable)]


def wide(variable: Any) -> str:
    """The dtype in which the prox of the variable is computed."""
    return "float64" if keras.backend.standardize_dtype(variable.dtype) == "float64" else "float32"


def forget_compiled_steps(model: Any) -> None:
    """Have the steps of training and evaluation traced anew, which hold the penalties as they were."""
    for layer in layers_of(model):
        if isinstance(layer, keras.Model):
            if layer.train_function is not None:
                layer.make_train_function(force=True)
            if layer.test_function is not None:
                layer.make_test_function(force=True)
