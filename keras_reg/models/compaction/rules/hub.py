"""Transformer blocks of KerasHub, whose layers are within a layer: the hidden units of their feedforward parts."""

import numpy as np

from keras_reg.models.compaction.activations import entrywise
from keras_reg.models.compaction.constants import apply
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for


class FeedforwardRule(Rule):
    """Everything else keeps its width: heads and key dimensions follow from that of the embedding, which normalization holds.

    Subclasses say where the pairs of dense layers are, and which argument has their width.
    """

    argument: str
    pairs: list[tuple[str, str]] = ()
    made: list[tuple[np.ndarray, Matrix]] = ()

    def find(self) -> list[tuple[str, str]]:
        """The paths of the first and the second dense layer of each block."""
        raise NotImplementedError

    def call(self, args, kwargs, shapes):
        outputs = self.fence(args, kwargs, shapes, "has normalization within")
        if self.made:
            return outputs
        try:
            self.pairs = self.find()
            dense = [self.inner(path) for pair in self.pairs for path in pair]
        except (AttributeError, IndexError):  # another release of KerasHub
            return outputs
        if any(getattr(layer, "lora_enabled", False) or layer.quantization_mode or not entrywise(layer.activation) for layer in dense):
            return outputs
        self.made = [self._feedforward(*pair) for pair in self.pairs]
        units = np.stack([units for units, _ in self.made], 1)
        self.graph.bundles.extend(units)
        self.graph.constraints.append(self._even)
        return outputs

    def _feedforward(self, first: str, second: str) -> tuple[np.ndarray, Matrix]:
        kernel, following = self.values(f"{first}.kernel"), self.values(f"{second}.kernel")
        units = self.graph.new(kernel.shape[1])
        bias = self.values(f"{first}.bias")
        values = np.zeros(len(units)) if bias is None else bias.astype("float64")
        layer = self.inner(first)
        constants = apply(layer.activation, np.where((kernel == 0).all(0), values, np.nan), layer.compute_dtype)
        matrix = Matrix(self.graph, units, np.zeros(following.shape[1], int), following[None])
        # Without a bias only zeros can be left out: its layer decides for all blocks whether there is one.
        matrix.feed(units, constants, exact=self.inner(second).use_bias)
        return units, matrix

    def _even(self, kept) -> np.ndarray:
        """All blocks have one width, of at least one."""
        width = max(1, *(kept(units).sum() for units, _ in self.made))
        return np.concatenate([units[~kept(units)][: width - kept(units).sum()] for units, _ in self.made])

    def matrices(self):
        return [matrix for _, matrix in self.made]

    def slots(self):
        slots = []
        for (first, second), (units, matrix) in zip(self.pairs, self.made, strict=False):
            slots.append(Slot(f"{first}.kernel", {1: units}, (1,)))
            slots.append(Slot(f"{first}.bias", {0: units}, (0,)))
            slots.append(Slot(f"{second}.kernel", {0: units}))
            slots.append(Slot(f"{second}.bias", {}, (), lambda bias, matrix=matrix: bias + matrix.addend()))
        return slots

    def changes(self):
        return {self.argument: self.width(self.made[0][0])} if self.made else {}


@rule_for(
    "keras_hub.src.layers.modeling.transformer_encoder.TransformerEncoder",
    "keras_hub.src.layers.modeling.transformer_decoder.TransformerDecoder",
)
class TransformerRule(FeedforwardRule):
    argument = "intermediate_dim"

    def find(self):
        return [("_feedforward_intermediate_dense", "_feedforward_output_dense")]

    def changes(self):
        # As it is: not every function that a model of KerasHub brings comes back from a config.
        return {**super().changes(), "activation": self.layer.activation}


@rule_for("keras_hub.src.models.vit.vit_layers.ViTEncoder")
class ViTRule(FeedforwardRule):
    argument = "mlp_dim"

    def find(self):
        return [(f"encoder_layers.{n}.mlp.dense_1", f"encoder_layers.{n}.mlp.dense_2") for n in range(len(self.layer.encoder_layers))]
