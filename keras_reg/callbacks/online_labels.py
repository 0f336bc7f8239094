"""The epochs of online label smoothing."""

import keras
from keras import tree


class OnlineLabelSmoothing(keras.callbacks.Callback):
    """Lets the losses `keras_reg.losses.OnlineLabelSmoothingCrossentropy` of a compiled model learn from each epoch of `fit`.

    At the end of every epoch the soft labels are made of the predictions on its training examples; those of validation and of
    epochs that were broken off teach nothing. Put it before callbacks that save the model.

    Raises:
        ValueError: When training starts and the model is compiled with no such loss.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.callbacks import OnlineLabelSmoothing
    >>> from keras_reg.losses import OnlineLabelSmoothingCrossentropy
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", OnlineLabelSmoothingCrossentropy(3, from_logits=True))
    >>> history = model.fit(np.ones((6, 4)), np.arange(6) % 3, verbose=0, callbacks=[OnlineLabelSmoothing()])
    >>> model.loss.soft_labels.shape
    (3, 3)
    """

    def set_model(self, model):
        super().set_model(model)
        # Before the trainer notes what it carries; later it is known already.
        for loss in self._of_model():
            loss.state.join(model)

    def _of_model(self):
        return [loss for loss in tree.flatten(self.model.loss) if hasattr(loss, "next_epoch")]

    def on_train_begin(self, logs=None):
        self._losses = self._of_model()
        if not self._losses:
            raise ValueError(
                "OnlineLabelSmoothing expects a model compiled with keras_reg.losses.OnlineLabelSmoothingCrossentropy. "
                f"Received: loss={self.model.loss!r}"
            )
        for loss in self._losses:
            loss.discard()
            loss.collect(True)

    def on_test_begin(self, logs=None):
        self._collect(False)

    def on_test_end(self, logs=None):
        self._collect(True)

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        for loss in self._losses:
            loss.next_epoch()

    def on_train_end(self, logs=None):
        self._collect(False)

    def _collect(self, collecting: bool) -> None:
        self._sync()
        for loss in getattr(self, "_losses", ()):  # none where the callback was given to `evaluate`
            loss.collect(collecting)

    def _sync(self) -> None:
        # On JAX the state of a running epoch is in the trainer, not in the variables.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
