"""Normalizations by the root of the mean square, and tables of embeddings that are read backwards."""

import math

import numpy as np
from keras import layers

from keras_reg.models.compaction.narrowed import unnarrowed_kind
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.rules.dense import EmbeddingRule
from keras_reg.models.compaction.rules.merging import of_zeros
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import FIXED, Read

_MODELS = "keras_hub.src.models."
_GEMMA = (f"{_MODELS}gemma.rms_normalization", f"{_MODELS}gemma3.gemma3_layers")


@rule_for(
    *([layers.RMSNormalization] if hasattr(layers, "RMSNormalization") else []),
    f"{_MODELS}llama.llama_layernorm.LlamaLayerNorm",
    f"{_MODELS}mistral.mistral_layer_norm.MistralLayerNormalization",
    f"{_MODELS}mixtral.mixtral_layer_norm.MixtralLayerNormalization",
    f"{_MODELS}qwen.qwen_layernorm.QwenLayerNorm",
    f"{_MODELS}qwen_moe.qwen_moe_layernorm.QwenMoeLayerNorm",
    f"{_MODELS}qwen3.qwen3_layernorm.Qwen3LayerNorm",
    f"{_MODELS}phi3.phi3_layernorm.Phi3LayerNorm",
    *(f"{module}.RMSNormalization" for module in _GEMMA),
    f"{_MODELS}t5.t5_layer_norm.T5LayerNorm",
    f"{_MODELS}roformer_v2.roformer_v2_attention.RoformerNorm",
    f"{_MODELS}gpt_oss.gpt_oss_layer_norm.GptOssLayerNormalization",
)
class RootMeanSquareRule(Rule):
    """`x / sqrt(mean(x**2) + epsilon) * scale`: channels that are zero leave, and exactly so.

    With `n` of `m` channels left, all others zero, the mean of squares is `m / n` times as large: `epsilon` becomes `epsilon * m / n`,
    and the scale `scale * sqrt(m / n)`.
    """

    grids = True
    units: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        signal = args[0]
        axes = getattr(self.layer, "axis", -1)
        axes = [axis % len(signal.shape) for axis in (axes if isinstance(axes, (list, tuple)) else [axes])]
        if others := [axis for axis in signal.followed if axis not in axes]:
            # Along these each place is by itself; the scales are as many as ever.
            self.barred = self.barred or "normalizes over its channels"
            return [of_zeros(signal.only(others, self.graph, self.name, "normalizes over its channels"), shapes[0])]
        if axes != [signal.axis] or axes != [len(signal.shape) - 1] or getattr(self.layer, "head_dim", None):
            return self.barrier(args, kwargs, shapes, "normalizes over its channels")
        if self.units is None:
            self.units, self.zero = signal.units, np.ones(len(signal.units), bool)
            everything = np.ones((len(signal.units), len(signal.units)), bool)
            self.graph.reads.append(Read(self.units, self.units, lambda: everything, lambda: self.zero))
        else:
            self.graph.unite(signal.units, self.units)
        self.zero &= signal.constants == 0
        scale = self.scale()
        closed = np.zeros(len(signal.units), bool) if scale is None else scale + self.offset == 0
        return [signal.like(shapes[0], constants=np.where((signal.constants == 0) | closed, 0.0, np.nan))]

    def scale(self) -> np.ndarray | None:
        return self.values(self.path)

    @property
    def path(self) -> str:
        return "scale" if hasattr(self.layer, "scale") else "weight"

    @property
    def offset(self) -> float:
        """What Gemma adds to its scales."""
        return 1.0 if unnarrowed_kind(self.layer).__module__ in _GEMMA else 0.0

    def ratio(self) -> float:
        return len(self.units) / self.width(self.units)

    def slots(self):
        if self.units is None:
            return []
        return [Slot(self.path, {0: self.units}, (), lambda scale: (scale + self.offset) * math.sqrt(self.ratio()) - self.offset)]

    def changes(self):
        return {} if self.units is None or self.ratio() == 1 else {"epsilon": self.layer.epsilon * self.ratio()}


@rule_for(layers.UnitNormalization)
class UnitNormalizationRule(RootMeanSquareRule):
    """By the root of the sum of squares, to which zeros add nothing; it has no weights."""

    def scale(self):
        return None

    def slots(self):
        return []

    def changes(self):
        return {}


@rule_for(
    *([layers.ReversibleEmbedding] if hasattr(layers, "ReversibleEmbedding") else []),
    "keras_hub.src.layers.modeling.reversible_embedding.ReversibleEmbedding",
)
class ReversibleEmbeddingRule(EmbeddingRule):
    """Read backwards it gives the products of what it is called on with the rows of its table, or of another."""

    matrix: Matrix | None = None

    def call(self, args, kwargs, shapes):
        if not kwargs.get("reverse"):
            return super().call(args, kwargs, shapes)
        if getattr(self.layer, "lora_enabled", None) or getattr(self.layer, "quantization_mode", None):
            return self.barrier(args, kwargs, shapes, "has LoRA enabled or is quantized")
        units, constants = args[0].along(-1, self.graph, self.name)
        if self.outputs is None:
            self.outputs = self.graph.new(len(units))
        self.graph.unite(units, self.outputs)
        if self.matrix is None:
            kernel = self.values("embeddings").T if self.layer.tie_weights else self.values("reverse_embeddings")
            self.matrix = Matrix(self.graph, self.outputs, np.full(kernel.shape[1], FIXED), kernel[None])
        self.count("embeddings", args[0].shape[1:-1])
        self.matrix.feed(self.outputs, constants, exact=False)
        return [Signal(shapes[0])]

    def slots(self):
        slots = super().slots()
        if self.outputs is not None and not self.layer.tie_weights:
            slots.append(Slot("reverse_embeddings", {0: self.outputs}))
        return slots

    def matrices(self):
        return [] if self.matrix is None else [self.matrix]
