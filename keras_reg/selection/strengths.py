"""One number for the strengths of all the penalties of a model."""

from typing import Any

import keras

from keras_reg._validation import received
from keras_reg.binding import make_movable, move, penalised
from keras_reg.contract import is_constraint
from keras_reg.running import proximal_optimizers


class Strengths:
    """The penalties of a model, or of one of its weights, moved together: the largest of their strengths is set, and the others keep their
    ratios to it.

    Attributes:
        variables: The trainable weights with a penalty of keras_reg, by path.
        ratios: The strength of each for a largest one of 1.
    """

    def __init__(self, model: Any, only: int | None = None):
        self.model = model
        self.variables = penalised(model)
        if only is not None:
            self.variables = {path: v for path, v in self.variables.items() if v is model.weights[only]}
        if not self.variables:
            raise ValueError(
                f"Argument `model` must have a penalty of keras_reg on a trainable weight: give a layer one, or use "
                f"`keras_reg.models.attach`. Received: {model.name!r}, which has none."
            )
        constraints = [path for path, v in self.variables.items() if is_constraint(v.regularizer)]
        if constraints:
            raise ValueError(
                "Argument `model` must have penalties alone, whose strengths are chosen; what a constraint leaves is given. "
                f"Received: a constraint on {', '.join(map(repr, constraints))}."
            )
        strengths = {path: v.regularizer.strength for path, v in self.variables.items()}
        self.largest = max(strengths.values())
        self.ratios = {path: strength / self.largest if self.largest else 1.0 for path, strength in strengths.items()}
        for path, variable in self.variables.items():
            try:
                variable.regularizer.with_strength(1.0)
            except ValueError as error:  # several strengths, all of them 0
                raise ValueError(f"The strength of {path!r} cannot be moved. {error}") from None

    def prepare(self) -> None:
        """Have every compiled step take strengths anew; before the first is compiled."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        make_movable(self.model, self.variables.values())

    def set(self, strength: float) -> None:
        move([(variable, strength * self.ratios[path]) for path, variable in self.variables.items()])

    def restore(self, strengths: dict[str, float]) -> None:
        move([(self.variables[path], strength) for path, strength in strengths.items()])


def check_model(model: Any) -> None:
    """Refuse what cannot be trained as it is."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. {received(model, 'model')}")
    if not model.built or not model.weights:
        raise ValueError(f"Argument `model` must be built: call {model.name!r} on data first. Received: a model without weights.")
    if not model.compiled or model.optimizer is None:
        raise ValueError(f"Argument `model` must be compiled, with an optimizer and a loss. Received: {model.name!r}, which is not.")


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer whose updates train the model: that in a `Proximal`, or in what scales the loss."""
    for proximal in proximal_optimizers(optimizer):
        return proximal.inner_optimizer
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
