"""The transformers of KerasHub: heads and their dimensions, units of feedforward parts, and where it is exact those between blocks."""

import keras
import numpy as np

from keras_reg.models.compaction.activations import register_activation
from keras_reg.models.compaction.rules.blocks import BlockRule, signals_of
from keras_reg.models.compaction.rules.heads import HeadsRule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Slot
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import FIXED, Read

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
class SmolLM3Rule(HeadsRule):
    paths = (*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down")), "input_layernorm")

    def run(self, x, kwargs, shapes):
        attention = self.layer.self_attn
        heads, groups = attention.num_attention_heads, attention.num_key_value_heads
        y = self.attend_whole("self_attn", [f"{name}_proj" for name in "qkvo"], self.norm("input_layernorm", x), heads, groups)
        number = self.number("self_attn")
        self.numbers["self_attn"] = {"num_key_value_heads": number, "num_attention_heads": lambda: heads // groups * number()}
        x = self.add(x, y)
        y = self.norm("post_attention_layernorm", x)
        return [self.add(x, self.gated("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", y, keras.activations.silu))]


@rule_for(f"{_MODELS}gpt_oss.gpt_oss_decoder.GptOssTransformerDecoder")
class GptOssRule(BlockRule):
    """A hidden unit leaves all experts of a block or none; experts stay, since whoever is chosen is chosen among them."""

    paths = (*(f"self_attention_layer.{name}" for name in (*_OPEN, "sinks")), "input_layernorm", "post_attention_layernorm")
    paths += tuple(f"sparse_moe_block.experts.{name}" for name in ("gate_up_proj", "gate_up_proj_bias", "down_proj"))
    hidden: np.ndarray | None = None

    def run(self, x, kwargs, shapes):
        path = "self_attention_layer"
        x = self.add(self.heads(path, self.norm("input_layernorm", x), _OPEN), x)
        if heads := self.numbers.get(path):
            self.cuts["sinks"] = Slot(f"{path}.sinks", {0: heads["num_query_heads"]})
        x.pin(self.graph, self.name, "has experts, which all read the same and are told apart by their router")
        self.experts("sparse_moe_block.experts", x)
        return [Signal(shapes[0])]

    def experts(self, path: str, x: Signal) -> None:
        into, bias, out = (self.values(f"{path}.{name}") for name in ("gate_up_proj", "gate_up_proj_bias", "down_proj"))
        for name in ("gate_up_proj", "down_proj"):
            self.count(f"{path}.{name}", x.shape[1:-1])
        if self.hidden is not None:
            return
        self.hidden = units = self.graph.new(out.shape[1])
        # Even entries are gates: where one is zero, so is what it lets through.
        dead = (into[..., ::2] == 0).all(1) & (bias[..., ::2] == 0)
        if not self.graph.trial:
            dead |= (out == 0).all(2)
        uses = ~dead.all(0)[:, None]
        self.graph.reads.append(Read(units, np.array([FIXED]), lambda: uses, lambda: np.zeros(len(units), bool)))
        self.graph.never_empty.append(units)
        self.numbers[path] = {"intermediate_dim": units}
        for name, axis, produced in (("gate_up_proj", 2, True), ("gate_up_proj_bias", 1, True), ("down_proj", 1, False)):
            own = np.repeat(units, 2) if produced else units
            self.cuts[name] = Slot(f"{path}.{name}", {axis: own}, (axis,) if produced else ())


@rule_for(f"{_MODELS}t5.t5_transformer_layer.T5TransformerLayer")
class T5Rule(HeadsRule):
    """The first layer of a stack makes the biases of positions, for all heads of the stack: it keeps those that another layer has."""

    follows = ("encoder_hidden_states", "position_bias")
    paths = ("self_attention.query_projector", "self_attention.output_projector", "input_projector", "output_projector", "layer_norm")

    def run(self, x, kwargs, shapes):
        x = self.add(self.attended("self_attention", self.norm("self_attention_layer_norm", x)), x)
        bias = self.biases("self_attention", signals_of(kwargs, "position_bias"), shapes[1])
        if self.layer.is_decoder:
            y = self.norm("cross_attention_layer_norm", x)
            x = self.add(self.attended("cross_attention", y, signals_of(kwargs, "encoder_hidden_states")), x)
        y = self.norm("layer_norm", x)
        if not self.layer.use_gated_activation:
            return [self.add(self.feedforward("input_projector", "output_projector", y), x), bias]
        hidden = self.multiply(self.dense("input_projector", y), self.dense("gate_projector", y))
        return [self.add(self.dense("output_projector", hidden), x), bias]

    def attended(self, path: str, x: Signal, source: Signal | None = None) -> Signal:
        names = [f"{name}_projector" for name in ("query", "key", "value", "output")]
        y = self.attend(path, names, self.inner(path).num_heads, x, source, alike=True)
        self.numbers[path] = {
            "num_heads": self.number(path),
            "key_value_dim": self.dimensions(path),
            "inner_dim": self.all_dimensions(path),
        }
        return y

    def biases(self, path: str, given: Signal | None, shape: tuple) -> Signal:
        """Those for the next layer."""
        heads = self.attentions[path].own
        if given is None:
            if self.inner(path).use_relative_attention_bias:
                self.cuts[path] = Slot(f"{path}.relative_attention_bias", {1: heads})
            return Signal(shape, 1, heads)
        places = list(getattr(self.inner(path), "own_heads", range(len(heads))))
        units = given.followed.get(1, np.full(shape[1], FIXED))
        uses = np.arange(len(units))[:, None] == np.array(places)
        self.graph.reads.append(Read(units, heads, lambda: uses, lambda: np.zeros(len(units), bool)))

        def chosen():
            new = np.cumsum(self.graph.kept(units)) - 1
            own = [int(new[places[row]]) for row in self.rows(path)]
            return None if own == list(range(self.width(units))) and not hasattr(self.inner(path), "own_heads") else own

        self.numbers[path]["own_heads"] = chosen
        return given.like(shape)


@rule_for(f"{_MODELS}bloom.bloom_decoder.BloomDecoder")
class BloomRule(HeadsRule):
    """The slopes of linear biases stay with their heads."""

    paths = (*(f"_self_attention_layer.{name}" for name in (*_DENSE, "_alibi_layer")), "_mlp_intermediate_dense", "_mlp_output_dense")

    def run(self, x, kwargs, shapes):
        path = "_self_attention_layer"
        number, slopes = self.inner(path).num_heads, self.inner(f"{path}._alibi_layer")._get_slopes
        x = self.add(self.attend(path, _DENSE, number, self.norm("_pre_attention_layernorm", x)), x)
        self.numbers[path] = {"num_heads": self.number(path), "head_dim": self.dimensions(path)}
        self.numbers[f"{path}._alibi_layer"] = {"slopes": self.chosen(path, lambda: slopes(number))}
        y = self.norm("_post_attention_layernorm", x)
        return [self.add(self.feedforward("_mlp_intermediate_dense", "_mlp_output_dense", y, _gelu), x)]


@rule_for(f"{_MODELS}falcon.falcon_transformer_decoder.FalconTransformerDecoder")
class FalconRule(HeadsRule):
    """The same; the block makes the biases for as many heads as ever."""

    paths = (*(f"attention_layer.{name}" for name in _OPEN), "dense_h_to_4h", "dense_4h_to_h", "input_layernorm")

    def run(self, x, kwargs, shapes):
        path = "attention_layer"
        attention = self.inner(path)
        x = self.add(self.attend(path, _OPEN, attention.num_heads, self.norm("input_layernorm", x)), x)
        places = list(getattr(attention, "own_heads", range(attention.num_heads)))
        self.numbers[path] = {"num_heads": self.number(path), "head_dim": self.dimensions(path)}
        self.numbers[path]["own_heads"] = self.chosen(path, lambda: places)
        return [self.add(self.feedforward("dense_h_to_4h", "dense_4h_to_h", self.norm("post_attention_layernorm", x)), x)]


_INTERMEDIATE = ("feedforward_intermediate_dense", "feedforward_output_dense")


@rule_for(f"{_MODELS}deberta_v3.disentangled_attention_encoder.DisentangledAttentionEncoder")
class DebertaRule(HeadsRule):
    """Queries and keys of positions come of the same layers as those of what is read."""

    paths = (*(f"_self_attention_layer.{name}" for name in _DENSE), *(f"_{name}" for name in _INTERMEDIATE), "_feedforward_layer_norm")

    def run(self, x, kwargs, shapes):
        path = "_self_attention_layer"
        x.pin(self.graph, self.name, "projects positions as it does its inputs")
        y = self.attend(path, _DENSE, self.inner(path).num_heads, Signal(x.shape))
        for name in _DENSE[:2]:
            self.project(f"{path}.{name}", self.attentions[path].keyed, Signal(signals_of(kwargs, "rel_embeddings").shape))
        self.numbers[path] = {"num_heads": self.number(path), "hidden_dim": self.all_dimensions(path)}
        x = self.norm("_self_attention_layer_norm", self.add(y, x))
        y = self.feedforward(*(f"_{name}" for name in _INTERMEDIATE), x)
        return [self.norm("_feedforward_layer_norm", self.add(y, x))]


@rule_for(f"{_MODELS}xlnet.xlnet_encoder.XLNetEncoder")
class XLNetRule(HeadsRule):
    """Scores add up from what is read, where it is and whether it is in the same segment, each with a bias of the block's."""

    paths = (*(f"relative_attention.{name}" for name in (*_DENSE, "_encoding_dense")), *_INTERMEDIATE, "segment_encoding", "layer_norm")

    def run(self, x, kwargs, shapes):
        path = "relative_attention"
        x.pin(self.graph, self.name, "reads two streams alike")
        opaque, number = Signal(x.shape), self.inner(path).num_heads
        heads = self.new_heads(path, number, "_key_dense", "_value_dense")
        positions = Signal(signals_of(kwargs, "pos_emb").shape)
        query, key = (self.project(f"{path}.{name}", heads.keyed, opaque) == 0 for name in _DENSE[:2])
        values = self.project(f"{path}._value_dense", heads.carried, opaque)
        place = self.project(f"{path}._encoding_dense", heads.keyed, positions) == 0
        segment = (self.values("segment_encoding") == 0).all(0)
        biases = [f"{name}_attention_bias" for name in ("content", "positional", "segment")]
        pairs = zip(biases, (key, place, segment), strict=True)
        self.score(heads, np.all([query & (self.values(bias) == 0) | other for bias, other in pairs], axis=0))
        for bias in biases:
            self.cuts[bias] = Slot(bias, {(0, 1): heads.keyed})
        self.cuts["segment_encoding"] = Slot("segment_encoding", {(1, 2): heads.keyed})
        self.numbers[path] = {"_num_heads": self.number(path)}
        x = self.norm("layer_norm", self.add(self.read(f"{path}._output_dense", heads.carried, values, x), x))
        return [self.norm("layer_norm_ff", self.add(self.feedforward(*_INTERMEDIATE, x, self.layer.activation_function_ff), x))]


class _RotatedRule(HeadsRule):
    """Whole heads."""

    paths = (*(f"attention_layer.{name}_dense" for name in "qkvo"), *_INTERMEDIATE, "attention_norm", "feedforward_norm")

    def attended(self, x: Signal) -> Signal:
        self.numbers["attention_layer"] = {"heads": self.number("attention_layer")}
        return self.attend_whole("attention_layer", [f"{name}_dense" for name in "qkvo"], x, self.inner("attention_layer").heads)


@rule_for(f"{_MODELS}roformer_v2.roformer_v2_encoder.RoformerV2Encoder")
class RoformerRule(_RotatedRule):
    def run(self, x, kwargs, shapes):
        x = self.norm("attention_norm", self.add(x, self.attended(x)))
        return [self.norm("feedforward_norm", self.add(x, self.feedforward(*_INTERMEDIATE, x)))]


@rule_for(f"{_MODELS}esm.esm_encoder.ESMEncoder")
class ESMRule(_RotatedRule):
    def run(self, x, kwargs, shapes):
        x = self.add(x, self.attended(self.norm("attention_norm", x)))
        return [self.add(x, self.feedforward(*_INTERMEDIATE, self.norm("feedforward_norm", x)))]


@rule_for(f"{_MODELS}gpt_neo_x.gpt_neo_x_decoder.GPTNeoXDecoder")
class GPTNeoXRule(HeadsRule):
    """Queries, keys and values come of one layer."""

    paths = (*(f"_self_attention_layer.{name}" for name in ("_qkv_dense", "_output_dense")), *(f"_{name}" for name in _INTERMEDIATE))

    def run(self, x, kwargs, shapes):
        path = "_self_attention_layer"
        attention, width = self.inner(path), self.inner(path).attn_head_size
        cells = np.repeat(self.whole_heads(path, attention.num_heads)[:, None], 3 * width, 1)
        made = self.project(f"{path}._qkv_dense", cells, self.norm("_self_attention_layer_norm", x))
        attended = self.read(f"{path}._output_dense", cells[:, :width], made[:, 2 * width :], x)
        self.numbers[path] = {"num_heads": self.number(path), "hidden_dim": lambda: width * self.number(path)()}
        y = self.feedforward(*(f"_{name}" for name in _INTERMEDIATE), self.norm("_feedforward_layer_norm", x))
        return [self.add(y, attended, x)]


@rule_for(f"{_LAYERS}f_net_encoder.FNetEncoder")
class FNetRule(BlockRule):
    """Everything is mixed but the hidden units of feedforward parts."""

    paths = ("_intermediate_dense", "_output_dense")

    def run(self, x, kwargs, shapes):
        x.pin(self.graph, self.name, "mixes its channels")
        y = self.feedforward(*self.paths, Signal(x.shape))
        y.pin(self.graph, self.name, "normalizes over its channels")
        return [Signal(shapes[0])]
