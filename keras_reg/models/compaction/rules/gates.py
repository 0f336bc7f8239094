"""The gates of keras_reg.layers: a factor for each channel, or for the weights of a layer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.layers import GatedKernel, GaussianGate, HardConcreteGate
from keras_reg.models.compaction.making import made_again
from keras_reg.models.compaction.rule import Barrier, Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Slot
from keras_reg.models.compaction.tracer import rule_for


def factors(gate: Any, rank: int) -> np.ndarray:
    """The gates without noise, in a shape that broadcasts to what they multiply."""
    return ops.convert_to_numpy(ops.stop_gradient(gate.spread(gate.gates(), rank)))


@rule_for(HardConcreteGate, GaussianGate)
class GateRule(Rule):
    """A closed gate is a constant of zero.

    Attributes:
        becomes: What the new model has in its place: `"gate"`, `"nothing"` or `"rescaling"`.
    """

    becomes = "gate"
    signal: Signal | None = None

    def call(self, args, kwargs, shapes):
        (signal,) = args
        if self.layer.indexed(len(signal.shape)) != (signal.axis,):
            return self.barrier(args, kwargs, shapes, "has gates along other axes")
        if self.signal is None:
            self.signal = signal
        else:
            self.graph.unite(signal.units, self.signal.units)
        gates = factors(self.layer, len(signal.shape)).ravel().astype("float64")
        return [signal.like(shapes[0], constants=np.where(gates == 0, 0.0, signal.constants * gates))]

    def slots(self):
        return [] if self.signal is None else [Slot("gate", {0: np.tile(self.signal.units, self.layer.halves)})]

    def rebuild(self):
        if self.becomes == "gate":
            return super().rebuild()
        if self.becomes == "nothing":
            return None
        rank = len(self.first[0][0].shape)
        scale = factors(self.layer, rank)[0]  # along all axes but that of the examples
        return keras.layers.Rescaling(_short(scale).tolist(), name=self.layer.name, dtype=self.layer.dtype_policy)

    def parts(self, new):
        return super().parts(new) if self.becomes == "gate" else []


def _short(scale: np.ndarray) -> np.ndarray:
    """Without axes of length one that broadcasting adds by itself."""
    return scale if scale.ndim < 2 or scale.shape[0] != 1 else _short(scale[0])


@rule_for(GatedKernel)
class GatedKernelRule(Barrier):
    """It keeps its width; without its gates it is the layer within.

    Attributes:
        becomes: `"gate"`, or `"nothing"`.
    """

    becomes = "gate"

    def rebuild(self):
        if self.becomes == "gate":
            return super().rebuild()
        return made_again(self.layer.layer, {"name": self.layer.name}, {}, self.name)

    def parts(self, new):
        return super().parts(new) if self.becomes == "gate" else [(Barrier(self.layer.layer, self.tracer), new)]
