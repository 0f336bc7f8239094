"""What the callbacks that move strengths have in common."""

from typing import Any

import keras

from keras_reg.binding import make_movable, penalised
from keras_reg.callbacks.building import is_built, when_built
from keras_reg.models.attachment.mistakes import warn_of_mistakes
from keras_reg.models.statistics import zeros
from keras_reg.running import proximal_optimizers


class StrengthCallback(keras.callbacks.Callback):
    """What moves strengths: which of them, from when on, and what `logs` say of it."""

    path: str | None = None
    _ready = False

    def set_model(self, model):
        super().set_model(model)
        self._ready = False
        # Here, as `keras.distribution` looks at the state of the model once, before training begins.
        if is_built(model):
            make_movable(model, [v for path, v in penalised(model).items() if self.path in (None, path)])
        else:
            when_built(model, self._start)

    def on_train_begin(self, logs=None):
        if is_built(self.model):
            self._start()

    def _start(self) -> None:
        """Once the model has its weights and its optimizer."""
        optimizer = self.model.optimizer
        if not optimizer.built and any(proximal_optimizers(optimizer)):
            optimizer.build(self.model.trainable_variables)
        warn_of_mistakes(self.model)
        self._penalised = penalised(self.model)
        self._moved = self._choose()
        self._refuse_rivals()
        make_movable(self.model, self._moved.values())
        self._apart = self._ends_apart()
        self._ready = True

    def _choose(self) -> dict[str, Any]:
        """The weights whose strengths move, by path."""
        raise NotImplementedError

    def _ends_apart(self) -> bool:
        """Whether strengths differ, so that each is logged by itself; decided once, as the columns of a log are."""
        raise NotImplementedError

    def _refuse_rivals(self) -> None:
        # The callbacks of one `fit` share the dict of its parameters.
        movers = self.params.setdefault("moved_strengths", {}) if self.params is not None else {}
        for path in self._moved:
            rival = movers.setdefault(path, self)
            if rival is not self:
                raise ValueError(
                    f"{type(rival).__name__} and {type(self).__name__} both move the strength of {path!r}: give each weights of its own by "
                    "`path=`, or leave one of them out."
                )

    def on_train_end(self, logs=None):
        if self.params is not None:
            self.params.pop("moved_strengths", None)

    def _sync(self) -> None:
        # On JAX the weights of a running epoch are in the trainer, not in the variables.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

    def _strengths(self) -> dict[str, float]:
        return {path: v.regularizer.strength for path, v in self._penalised.items()}

    def _log(self, logs: dict | None, strengths: dict[str, float]) -> None:
        if logs is None:
            return
        if self._apart:
            logs.update({f"strength/{path}": value for path, value in strengths.items()})
        else:
            logs["strength"] = next(iter(strengths.values()))
        logs["sparsity"] = zeros(self._penalised.values()).sparsity
