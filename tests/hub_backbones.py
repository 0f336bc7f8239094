"""The backbones of KerasHub that build offline, as small as they come."""

import keras
from keras import ops


def backbones(heads=2):
    """Functions that make them, by name; with so many heads where queries have as many as keys."""
    import keras_hub

    H = keras_hub.models
    sizes = {"vocabulary_size": 30, "num_layers": 2, "num_heads": heads, "hidden_dim": 4 * heads, "intermediate_dim": 16}
    short = {**sizes, "max_sequence_length": 12}
    queries = {
        "vocabulary_size": 30,
        "num_layers": 2,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 24,
    }
    electra = {**short, "vocab_size": 30, "embedding_dim": 8}
    del electra["vocabulary_size"]
    falcon = {"vocabulary_size": 30, "num_layers": 2, "num_attention_heads": heads, "hidden_dim": 4 * heads, "intermediate_dim": 16}
    smol = {
        "vocabulary_size": 30,
        "hidden_dim": 16,
        "intermediate_dim": 24,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    smol |= {"attention_bias": False, "attention_dropout": 0.0, "rope_layer_enabled_list": [True, False], "layer_types": ["attention"] * 2}
    smol |= {"mlp_bias": False, "layer_norm_epsilon": 1e-5, "max_position_embeddings": 12, "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    capped = {"use_post_ffw_norm": True, "use_post_attention_norm": True, "attention_logit_soft_cap": 50.0, "final_logit_soft_cap": 30.0}
    return {
        "Albert": lambda: H.AlbertBackbone(**short, embedding_dim=6),
        "Bart": lambda: H.BartBackbone(**short),
        "Bert": lambda: H.BertBackbone(**short),
        "Bloom": lambda: H.BloomBackbone(**sizes),
        "DebertaV3": lambda: H.DebertaV3Backbone(**short, bucket_size=4),
        "DeiT": lambda: H.DeiTBackbone((32, 32, 3), (16, 16), 2, 2, 8, 16),
        "DistilBert": lambda: H.DistilBertBackbone(**short),
        "ESM": lambda: H.ESMBackbone(**short),
        "Electra": lambda: H.ElectraBackbone(**electra),
        "FNet": lambda: H.FNetBackbone(**{key: value for key, value in short.items() if key != "num_heads"}),
        "Falcon": lambda: H.FalconBackbone(**falcon),
        "GPT2": lambda: H.GPT2Backbone(**short),
        "GPTNeoX": lambda: H.GPTNeoXBackbone(**{**short, "hidden_dim": 8 * heads}),
        "Gemma": lambda: H.GemmaBackbone(30, 2, 4, 2, 16, 24, 4),
        "Gemma2": lambda: H.GemmaBackbone(30, 2, 4, 2, 16, 24, 4, **capped, use_sliding_window_attention=True, sliding_window_size=4),
        "Gemma3": lambda: H.Gemma3Backbone(30, 12, 2, 4, 2, 16, 24, 4),
        "GptOss": lambda: H.GptOssBackbone(**queries, head_dim=4, num_experts=2, top_k=1),
        "Llama": lambda: H.LlamaBackbone(**queries),
        "Llama3": lambda: H.Llama3Backbone(**queries),
        "Mistral": lambda: H.MistralBackbone(**queries, sliding_window=4),
        "Mixtral": lambda: H.MixtralBackbone(**queries, num_experts=2, sliding_window=4),
        "OPT": lambda: H.OPTBackbone(**short),
        "Phi3": lambda: H.Phi3Backbone(**queries),
        "Qwen": lambda: H.QwenBackbone(**queries),
        "Qwen3": lambda: H.Qwen3Backbone(**queries, head_dim=4),
        "QwenMoe": lambda: H.QwenMoeBackbone(**queries, moe_intermediate_dim=8, shared_expert_intermediate_dim=16, num_experts=2, top_k=1),
        "Roberta": lambda: H.RobertaBackbone(**short),
        "RoformerV2": lambda: H.RoformerV2Backbone(**sizes, head_size=4),
        "SmolLM3": lambda: H.SmolLM3Backbone(**smol),
        "T5": lambda: H.T5Backbone(**sizes),
        "T5 gated": lambda: H.T5Backbone(**sizes, use_gated_activation=True, activation="gelu", key_value_dim=3),
        "ViT": lambda: H.ViTBackbone((32, 32, 3), (16, 16), 2, 2, 8, 16),
        "Whisper": lambda: H.WhisperBackbone(**sizes, num_mels=4, max_encoder_sequence_length=10, max_decoder_sequence_length=10),
        "XLMRoberta": lambda: H.XLMRobertaBackbone(**short),
        "XLNet": lambda: H.XLNetBackbone(**sizes),
    }


def with_head(backbone):
    """A dense layer on all that a backbone gives, so that what is between its blocks may leave."""
    outputs = backbone(backbone.input)
    flat = [y for y in keras.tree.flatten(outputs) if len(y.shape) > 1]
    return keras.Model(backbone.input, [keras.layers.Dense(3, name=f"head_{number}")(y) for number, y in enumerate(flat)])


def inputs(model, random, length=7):
    """Examples that end early; numbers of segments and of tokens that all of them know."""

    def make(tensor):
        shape = (2, *(size or length for size in tensor.shape[1:]))
        if "mask" in tensor.name:
            return ops.convert_to_tensor([[1] * (length - 2) + [0] * 2] * 2, tensor.dtype)
        if "int" in tensor.dtype or "token" in tensor.name:
            low, high = (0, 1) if "segment" in tensor.name else (1, 9)
            return ops.convert_to_tensor(random.integers(low, high, shape, endpoint=True), tensor.dtype)
        return ops.convert_to_tensor(random.normal(size=shape), tensor.dtype)

    return keras.tree.map_structure(make, model.input)


def randomized(model, random):
    """Weights as after training: none of them one or zero."""
    for variable in model.weights:
        if variable.name in ("scale", "gamma", "weight"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(random.normal(size=variable.shape) * 0.5)
    return model


def kind_of(group):
    """What a group of structural slices is: hidden state, heads, or units of feedforward parts."""
    names = [part.layer.rsplit("/", 1)[-1] for part in group.slices]
    if any("embedding" in name for name in names):
        return "hidden"
    return "heads" if any(word in name for name in names for word in ("attention", "query", "mha", "q_dense", "q_proj")) else "units"
