"""The way down to a budget."""

from typing import Any

import keras
from keras import ops

from keras_reg.binding import make_movable, move
from keras_reg.regularizers import StructuralL0Constraint
from keras_reg.running import innermost


class Ramp(keras.callbacks.Callback):
    """Lowers the budget of a model along the cubic ramp of Zhu and Gupta, over two thirds of a training.

    `keras_reg.callbacks.StrengthScheduler`, which may import this floor and not the other way round, does it along any schedule.

    Args:
        share: The budget at the end.
        updates: How many there are in the training, or `None` where that is not known: then the budget is lowered at each epoch.
        every: At each so-manieth update.
        epochs: Of the training.
    """

    def __init__(self, share: float, updates: int | None, every: int, epochs: int):
        super().__init__()
        self.share, self.updates, self.every, self.epochs = share, updates, every, epochs
        self.length = max(1, 2 * (updates or epochs) // 3)

    def set_model(self, model):
        super().set_model(model)
        self._weights = [v for v in model.trainable_variables if isinstance(v.regularizer, StructuralL0Constraint)]
        make_movable(model, self._weights)

    def on_train_begin(self, logs=None):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._last = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.updates is None:
            self._set(epoch + 1)
        self._first = int(ops.convert_to_numpy(self.model.optimizer.iterations))

    def on_train_batch_begin(self, batch, logs=None):
        if self.updates is None:
            return
        update = self._first + batch // accumulated(self.model)
        # Passed, not met: several steps may be executed at once.
        before = update - 1 if self._last is None else self._last
        if update // self.every > before // self.every:
            self._set(update)
        self._last = update

    def _set(self, position: int) -> None:
        left = 1 - min(1.0, position / self.length)
        move([(self._weights[0], self.share + (1 - self.share) * left**3)])

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["budget"] = self._weights[0].regularizer.strength

    def on_train_end(self, logs=None):
        if (reached := self._weights[0].regularizer.strength) > self.share:
            raise RuntimeError(
                f"The training ended at a budget of {reached:.3g}, before that of {self.share:.3g} was reached: a callback has stopped it, "
                "or it has too few updates."
            )


def accumulated(model: Any) -> int:
    """How many batches go into an update."""
    return getattr(innermost(model.optimizer), "gradient_accumulation_steps", None) or 1
