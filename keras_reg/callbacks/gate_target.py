"""Gates closed by count, and whether their penalties are too weak or too strong for that."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_reg.layers.gate import Gate
from keras_reg.regularizers.gates import GatePenalty
from keras_reg.weights import layers_of

RISE = 5.0  # of the logarithm of the strengths over the whole ramp, at most
FALL = 0.02  # in one step
AHEAD = 0.1  # how far the share of gates that are closed in training may be above the one that is asked for


class GateTarget:
    """The gates of a model that have one of the penalties for gates.

    Attributes:
        weights: The weights of these gates.
        number: How many gates there are.
    """

    def __init__(self, model: Any, trainable: Iterable[Any]):
        penalised = {id(v) for v in trainable if isinstance(v.regularizer, GatePenalty)}
        self._layers = [layer for layer in layers_of(model) if isinstance(layer, Gate) and id(layer.gate) in penalised]
        self.weights = [layer.gate for layer in self._layers]
        self.number = sum(len(_flat(layer.gates())) for layer in self._layers)

    def closed(self) -> float:
        """The share of gates that are 0 when the model predicts."""
        return float(np.mean(np.concatenate([_flat(layer.gates()) for layer in self._layers]) == 0))

    def change(self, asked_for: float, before: float, steps: int, part: float) -> float:
        """By what the logarithm of the strengths is to change.

        Too strong is what closes more than is asked for, or is about to; too weak is what lets gates open again, so that fewer are closed
        than were asked for `before`.

        Args:
            asked_for: The share that shall be closed now.
            before: The one at the last correction.
            steps: How many there were since then.
            part: The part of the whole ramp that they are.
        """
        near = max(0.005, 1 / self.number)
        closed = self.closed()
        unlikely = 1 - float(np.mean(np.concatenate([_flat(layer.open_probability()) for layer in self._layers])))
        if closed > asked_for + near or unlikely > asked_for + AHEAD:
            return -FALL * steps
        return RISE * part if closed < before - near else 0.0

    def close(self, asked_for: float) -> None:
        """Close what is missing, the least likely open first, but for the last of a layer."""
        likely = [_flat(layer.open_probability()) for layer in self._layers]
        is_open = [_flat(layer.gates()) != 0 for layer in self._layers]
        may_close = [here & (np.arange(len(here)) != np.argmax(p)) for here, p in zip(is_open, likely, strict=True)]
        missing = round(asked_for * self.number) - sum(int(np.sum(~here)) for here in is_open)
        if missing <= 0:
            return
        ranks = np.where(np.concatenate(may_close), np.concatenate(likely), np.inf)
        chosen = np.zeros(self.number, bool)
        chosen[np.argsort(ranks, kind="stable")[:missing]] = True
        chosen &= np.isfinite(ranks)
        for layer, own in zip(self._layers, np.split(chosen, np.cumsum([len(p) for p in likely])[:-1]), strict=True):
            if own.any():
                layer.close(own.reshape(tuple(layer.gates().shape)))


def _flat(values: Any) -> np.ndarray:
    return np.ravel(ops.convert_to_numpy(ops.stop_gradient(values)))
