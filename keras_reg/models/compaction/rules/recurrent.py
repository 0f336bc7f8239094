"""LSTM, GRU and SimpleRNN: a unit has a column in every gate, a row in the recurrent kernel, and an output."""

import numpy as np
from keras import layers, ops

from keras_reg.models.compaction.activations import entrywise
from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for


class RecurrentRule(Rule):
    """A unit is constant only at zero: where its candidate always is zero, so is its state.

    Subclasses say how many gates there are, and which of them is the candidate.
    """

    follows = ("initial_state",)
    gates: int
    candidate: int
    matrix: Matrix | None = None

    def matrices(self):
        return [self.matrix] if self.matrix is not None else []

    def call(self, args, kwargs, shapes):
        layer = self.layer
        signal, states = args[0], signals_in(kwargs.get("initial_state"))
        if (
            getattr(layer, "quantization_mode", None)
            or not entrywise(layer.activation)
            or not entrywise(layer.recurrent_activation if hasattr(layer, "recurrent_activation") else None)
        ):
            return self.barrier(args, kwargs, shapes, "has gates whose activations are not known to be entrywise")
        if layer.stateful:
            return self.barrier(args, kwargs, shapes, "keeps its state between calls")
        inputs, constants = signal.along(-1, self.graph, self.name)
        kernel, recurrent = self.values("cell.kernel"), self.values("cell.recurrent_kernel")
        units = layer.units
        if self.matrix is None:
            self.inputs, self.outputs = inputs, self.graph.new(units)
            self.columns = np.tile(self.outputs, self.gates)
            self.matrix = Matrix(self.graph, inputs, self.columns, kernel[None])
            # A unit reads the others, in each of its gates, one step later; itself it needs anyway.
            self.recurrent = Matrix(self.graph, self.outputs, self.columns, recurrent[None])
        sums = self.matrix.feed(inputs, constants, exact=True)
        for path in ("cell.kernel", "cell.recurrent_kernel"):
            self.count(path, signal.shape[1:2])
        still = np.ones(units, bool)
        for state in states:
            own, constants = state.along(-1, self.graph, self.name)
            self.graph.unite(own, self.outputs)
            still &= constants == 0
        silent = self._silent(sums, recurrent, still)
        silent_constants = np.where(silent, 0.0, np.nan)
        self.recurrent.feed(self.outputs, silent_constants, exact=False)
        return [Signal(shape, len(shape) - 1, self.outputs, silent_constants) for shape in shapes]

    def _bias(self) -> np.ndarray:
        """What the candidate adds at every step; NaN where that is not zero and depends on another gate."""
        bias = self.values("cell.bias")
        return np.zeros(self.gates * self.layer.units) if bias is None else bias.astype("float64")

    def _silent(self, sums: np.ndarray, recurrent: np.ndarray, still: np.ndarray) -> np.ndarray:
        """Units that are zero at every step: found by assuming it of all that start so, and dropping those that the rest contradicts."""
        own = slice(self.candidate * self.layer.units, (self.candidate + 1) * self.layer.units)
        total = sums[own] + self._bias()[own]
        zero = float(ops.convert_to_numpy(self.layer.activation(ops.zeros((1, 1), self.layer.compute_dtype)))[0, 0]) == 0
        silent = (total == 0) & zero & still
        while True:
            disturbed = (recurrent[~silent][:, own] != 0).any(0)
            if not (silent & disturbed).any():
                return silent
            silent &= ~disturbed

    def slots(self):
        if self.matrix is None:
            return []
        return [
            Slot("cell.kernel", {0: self.inputs, 1: self.columns}, (1,)),
            Slot("cell.recurrent_kernel", {0: self.outputs, 1: self.columns}, (1,)),
            self.bias_slot(),
        ]

    def bias_slot(self) -> Slot:
        return Slot("cell.bias", {0: self.columns}, (0,), lambda bias: bias + self.addend())

    def addend(self) -> np.ndarray:
        return self.matrix.addend()[self.graph.kept(self.columns)]

    def needs_bias(self) -> bool:
        return not self.layer.use_bias and bool(np.any(self.matrix.addend()))

    def added(self):
        return self.width(self.columns) if self.matrix is not None and self.needs_bias() else 0

    def changes(self):
        if self.matrix is None:
            return {}
        return {"units": self.width(self.outputs), "use_bias": self.layer.use_bias or self.needs_bias()}


@rule_for(layers.SimpleRNN)
class SimpleRNNRule(RecurrentRule):
    gates, candidate = 1, 0


@rule_for(layers.LSTM)
class LSTMRule(RecurrentRule):
    gates, candidate = 4, 2


@rule_for(layers.GRU)
class GRURule(RecurrentRule):
    gates, candidate = 3, 2

    def _bias(self):
        bias = super()._bias()
        # With two biases that of the recurrent part is multiplied by the reset gate.
        return bias if bias.ndim == 1 else np.where(bias[1] == 0, bias[0], np.nan)

    def added(self):
        return super().added() * (2 if self.layer.reset_after else 1)

    def bias_slot(self):
        if not self.layer.reset_after:
            return super().bias_slot()
        return Slot("cell.bias", {1: self.columns}, (1,), lambda bias: bias + np.stack([self.addend(), np.zeros(len(self.addend()))]))
