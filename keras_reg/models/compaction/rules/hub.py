"""The transformers of KerasHub: heads and their dimensions, units of feedforward parts, and where it is exact those between blocks."""

import keras

from keras_reg.models.compaction.activations import register_activation
from keras_reg.models.compaction.rules.blocks import BlockRule, signals_of
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for

_MODELS = "keras_hub.src.models."
_LAYERS = "keras_hub.src.layers.modeling."


@rule_for(f"{_LAYERS}transformer_encoder.TransformerEncoder", f"{_MODELS}whisper.whisper_encoder.WhisperEncoder")
class EncoderRule(BlockRule):
    paths = ("_self_attention_layer._output_dense", "_feedforward_intermediate_dense", "_feedforward_output_dense")

    def refusal(self, kwargs):
        return "returns the scores of all heads" if kwargs.get("return_attention_scores") else None

    def run(self, x, kwargs, shapes):
        x = self.around("_self_attention_layer_norm", x, lambda y: self.attention("_self_attention_layer", y, y))
        return [self.around("_feedforward_layer_norm", x, self.transformed)]

    def around(self, norm: str, x: Signal, part) -> Signal:
        """A residual part, with the normalization before it or after the sum."""
        if self.layer.normalize_first:
            return self.add(part(self.norm(norm, x)), x)
        return self.norm(norm, self.add(part(x), x))

    def transformed(self, x: Signal) -> Signal:
        return self.feedforward("_feedforward_intermediate_dense", "_feedforward_output_dense", x)


@rule_for(f"{_LAYERS}transformer_decoder.TransformerDecoder", f"{_MODELS}whisper.whisper_decoder.WhisperDecoder")
class DecoderRule(EncoderRule):
    follows = ("encoder_sequence",)

    def run(self, x, kwargs, shapes):
        source = signals_of(kwargs, "encoder_sequence")
        x = self.around("_self_attention_layer_norm", x, lambda y: self.attention("_self_attention_layer", y, y))
        if self.layer._cross_attention_layer is not None:
            x = self.around("_cross_attention_layer_norm", x, lambda y: self.attention("_cross_attention_layer", y, source))
        return [self.around("_feedforward_layer_norm", x, self.transformed)]


def _images(first: str, second: str) -> type:
    """The rule for a transformer of images whose feedforward parts have these names."""

    class ImagesRule(BlockRule):
        paths = ("encoder_layers.0.mha._output_dense", f"encoder_layers.0.{first}", f"encoder_layers.0.{second}", "layer_norm")

        def refusal(self, kwargs):
            return "returns more than its output" if kwargs.get("output_hidden_states") or kwargs.get("return_attention_scores") else None

        def run(self, x, kwargs, shapes):
            for number in range(len(self.layer.encoder_layers)):
                block = f"encoder_layers.{number}"
                y = self.norm(f"{block}.layer_norm_1", x)
                x = self.add(self.attention(f"{block}.mha", y, y), x)
                x = self.add(self.feedforward(f"{block}.{first}", f"{block}.{second}", self.norm(f"{block}.layer_norm_2", x)), x)
            return [self.norm("layer_norm", x)]

    return ImagesRule


rule_for(f"{_MODELS}vit.vit_layers.ViTEncoder")(_images("mlp.dense_1", "mlp.dense_2"))
rule_for(f"{_MODELS}deit.deit_layers.DeiTEncoder")(_images("mlp.dense", "output_layer.dense"))


def _gated_decoder(attention: str, dense: tuple, before: str, after: str, gate: tuple) -> type:
    """The rule for a decoder with these names for its parts; `dense` are those of the attention."""

    class GatedDecoderRule(BlockRule):
        paths = (*(f"{attention}.{name}" for name in dense), *gate, before, after)

        def run(self, x, kwargs, shapes):
            x = self.add(self.heads(attention, self.norm(before, x), dense), x)
            return [self.add(self.gated(*gate, self.norm(after, x), self.layer.activation), x)]

    return GatedDecoderRule


_DENSE = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
_OPEN = tuple(name.lstrip("_") for name in _DENSE)
_GATE = ("_feedforward_gate_dense", "_feedforward_intermediate_dense", "_feedforward_output_dense")
rule_for(
    f"{_MODELS}llama.llama_decoder.LlamaTransformerDecoder",
    f"{_MODELS}mistral.mistral_transformer_decoder.MistralTransformerDecoder",
    f"{_MODELS}qwen.qwen_decoder.QwenTransformerDecoder",
    f"{_MODELS}qwen3.qwen3_decoder.Qwen3TransformerDecoder",
)(_gated_decoder("_self_attention_layer", _DENSE, "_self_attention_layernorm", "_feedforward_layernorm", _GATE))
rule_for(f"{_MODELS}phi3.phi3_decoder.Phi3Decoder")(
    _gated_decoder("attention", _OPEN, "pre_attention_layernorm", "post_attention_layernorm", tuple(name.lstrip("_") for name in _GATE))
)


def _experts(dense: tuple) -> type:
    """The rule for a decoder with experts, which keep their width, as does what is between the blocks."""

    class ExpertsRule(BlockRule):
        paths = (*(f"_self_attention_layer.{name}" for name in dense), "_self_attention_layernorm")

        def run(self, x, kwargs, shapes):
            x = self.add(self.heads("_self_attention_layer", self.norm("_self_attention_layernorm", x), dense), x)
            x.pin(self.graph, self.name, "has experts, which are not looked into")
            return [Signal(shapes[0])]

    return ExpertsRule


rule_for(f"{_MODELS}mixtral.mixtral_decoder.MixtralTransformerDecoder")(_experts(_OPEN))
rule_for(f"{_MODELS}qwen_moe.qwen_moe_decoder.QwenMoeTransformerDecoder")(_experts((*_OPEN[:3], "_output_dense")))


def _gelu(x):
    return keras.activations.gelu(x, approximate=True)


register_activation(_gelu)


@rule_for(f"{_MODELS}gemma.gemma_decoder_block.GemmaDecoderBlock", f"{_MODELS}gemma3.gemma3_decoder_block.Gemma3DecoderBlock")
class GemmaRule(BlockRule):
    paths = (*(f"attention.{name}" for name in _OPEN), "gating_ffw", "gating_ffw_2", "ffw_linear", "pre_attention_norm", "pre_ffw_norm")

    def run(self, x, kwargs, shapes):
        y = self.heads("attention", self.norm("pre_attention_norm", x), _OPEN)
        x = self.add(x, self.norm("post_attention_norm", y) if self.layer.use_post_attention_norm else y)
        y = self.gated("gating_ffw", "gating_ffw_2", "ffw_linear", self.norm("pre_ffw_norm", x), _gelu)
        return [self.add(self.norm("post_ffw_norm", y) if self.layer.use_post_ffw_norm else y, x)]


@rule_for(f"{_MODELS}smollm3.smollm3_layers.SmolLM3DecoderLayer")
class SmolLM3Rule(BlockRule):
    """Its heads come from one axis: they stay."""

    paths = (*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down")), "input_layernorm")

    def run(self, x, kwargs, shapes):
        y = self.norm("input_layernorm", x)
        for name in "qkv":
            self.dense(f"self_attn.{name}_proj", y).pin(self.graph, self.name, "has heads along one axis")
        attention = self.layer.self_attn
        y = self.dense("self_attn.o_proj", Signal((*x.shape[:-1], attention.num_attention_heads, attention.head_dim)))
        x = self.add(x, y)
        y = self.norm("post_attention_layernorm", x)
        return [self.add(x, self.gated("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", y, keras.activations.silu))]


@rule_for(f"{_MODELS}t5.t5_transformer_layer.T5TransformerLayer")
class T5Rule(BlockRule):
    """All layers of a stack share what the first says of the places of heads: these stay."""

    follows = ("encoder_hidden_states",)
    paths = ("self_attention.query_projector", "self_attention.output_projector", "input_projector", "output_projector", "layer_norm")

    def run(self, x, kwargs, shapes):
        x = self.add(self.projected("self_attention", self.norm("self_attention_layer_norm", x)), x)
        if self.layer.is_decoder:
            y = self.norm("cross_attention_layer_norm", x)
            x = self.add(self.projected("cross_attention", y, signals_of(kwargs, "encoder_hidden_states")), x)
        y = self.norm("layer_norm", x)
        if not self.layer.use_gated_activation:
            return [self.add(self.feedforward("input_projector", "output_projector", y), x)]
        hidden = self.multiply(self.dense("input_projector", y), self.dense("gate_projector", y))
        return [self.add(self.dense("output_projector", hidden), x)]

    def projected(self, path: str, x: Signal, source: Signal | None = None) -> Signal:
        source = x if source is None else source
        made = [self.dense(f"{path}.{name}_projector", x if name == "query" else source) for name in ("query", "key", "value")]
        for signal in made:
            signal.pin(self.graph, self.name, "has heads that are told apart by their places")
        return self.dense(f"{path}.output_projector", Signal(made[0].shape))


class FeedforwardOnly(BlockRule):
    """Attention is not looked into, and normalization holds what is between the blocks: hidden units leave."""

    pair: tuple[str, str]
    between = None

    def run(self, x, kwargs, shapes):
        x.pin(self.graph, self.name, "has attention that is not looked into")
        between = self.inner(self.between) if isinstance(self.between, str) else self.between
        y = self.feedforward(*self.pair, Signal(x.shape), between)
        y.pin(self.graph, self.name, "normalizes over its channels")
        return [Signal(shape) for shape in shapes]


def _feedforward_only(pair: tuple[str, str], activation=None) -> type:
    attributes = {"pair": pair, "paths": pair, "between": staticmethod(activation) if callable(activation) else activation}
    return type("FeedforwardOnlyRule", (FeedforwardOnly,), attributes)


_INTERMEDIATE = ("feedforward_intermediate_dense", "feedforward_output_dense")
rule_for(f"{_MODELS}bloom.bloom_decoder.BloomDecoder")(_feedforward_only(("_mlp_intermediate_dense", "_mlp_output_dense"), _gelu))
rule_for(f"{_MODELS}falcon.falcon_transformer_decoder.FalconTransformerDecoder")(_feedforward_only(("dense_h_to_4h", "dense_4h_to_h")))
rule_for(f"{_LAYERS}f_net_encoder.FNetEncoder")(_feedforward_only(("_intermediate_dense", "_output_dense")))
rule_for(
    f"{_MODELS}gpt_neo_x.gpt_neo_x_decoder.GPTNeoXDecoder",
    f"{_MODELS}deberta_v3.disentangled_attention_encoder.DisentangledAttentionEncoder",
)(_feedforward_only(tuple(f"_{name}" for name in _INTERMEDIATE)))
rule_for(f"{_MODELS}esm.esm_encoder.ESMEncoder", f"{_MODELS}roformer_v2.roformer_v2_encoder.RoformerV2Encoder")(
    _feedforward_only(_INTERMEDIATE)
)
rule_for(f"{_MODELS}xlnet.xlnet_encoder.XLNetEncoder")(_feedforward_only(_INTERMEDIATE, "activation_function_ff"))
