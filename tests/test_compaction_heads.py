"""Attention within KerasHub's blocks: whole heads and dimensions of heads leave, with what is made from their number."""

import math

import keras
import numpy as np
import pytest
from hub_backbones import backbones, inputs, kind_of, randomized, with_head
from small_networks import difference, outputs

from keras_reg.models import compact, compaction_plan, structural_groups, zero_groups

# KerasHub's own warnings, of T5, GptOss and RoformerV2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask"),
    pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis -1 of a tensor"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),
]
BACKEND = keras.backend.backend()
# How many groups of heads there are in two layers of four heads: in T5 those of the first layers stay for the others.
HEADS = {"Bloom": 8, "DebertaV3": 8, "ESM": 8, "Falcon": 8, "GPTNeoX": 8, "GptOss": 4, "RoformerV2": 8, "SmolLM3": 4, "T5": 16, "XLNet": 8}
# PyTorch has nothing to compile.
SOME = HEADS if BACKEND == "torch" else {name: HEADS[name] for name in (["Falcon"] if BACKEND == "jax" else ["Bloom", "XLNet"])}


def without(model, chosen, x):
    """What is left of a model without these groups: as planned, equal, and nothing else leaves."""
    zero_groups(chosen)
    plan, small = compaction_plan(model), compact(model)
    assert plan.total.parameters == (model.count_params(), small.count_params())
    assert small.count_params() < model.count_params()
    assert difference(outputs(model, x), outputs(small, x)) < 1e-5
    assert compaction_plan(small).total.parameters == (small.count_params(),) * 2
    return small


@pytest.mark.parametrize("name", SOME)
def test_whole_heads(name, tmp_path):
    random = np.random.default_rng(1)
    model = randomized(with_head(backbones(heads=4)[name]()), random)
    x = inputs(model, random)
    groups = structural_groups(model)
    heads, units = ([group for group in groups if kind_of(group) == kind] for kind in ("heads", "units"))
    assert len(heads) == HEADS[name]
    # Each as promised, alone.
    before = model.get_weights()
    heads[0].zero()
    assert compaction_plan(model).total.parameters == (model.count_params(), model.count_params() - heads[0].parameters)
    model.set_weights(before)
    # Other ones in each layer, not the last.
    small = without(model, [heads[0], *heads[len(heads) // 2 + 1 : -1 : 2], *units[::3]], x)
    # Once more, from what has fewer heads.
    heads = [group for group in structural_groups(small) if kind_of(group) == "heads"]
    smaller = without(small, heads[:1], x)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    assert difference(outputs(smaller, x), outputs(loaded, x)) == 0
    assert [(weight.name, weight.shape) for weight in loaded.weights] == [(weight.name, weight.shape) for weight in smaller.weights]


def first_attention(model, name):
    """The queries, keys and values of the first block, and the block."""
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    block = (backbone.encoder_transformer_layers if name == "T5" else backbone.transformer_layers)[0]
    path = {"T5": "self_attention", "Falcon": "attention_layer", "XLNet": "relative_attention"}.get(name, "_self_attention_layer")
    names = {"T5": "{}_projector", "Falcon": "{}_dense"}.get(name, "_{}_dense")
    return [getattr(getattr(block, path), names.format(part)) for part in ("query", "key", "value")], block


def close(weight, dimensions):
    """Sets dimensions of heads to zero, the same for every second one."""
    values = keras.ops.convert_to_numpy(weight).copy()
    cells = values.reshape(-1, 4, 4)
    cells[:, ::2, dimensions] = 0
    cells[:, 1::2, [dimension - 1 for dimension in dimensions]] = 0
    weight.assign(values)


@pytest.mark.parametrize("name", ["Bloom", "DebertaV3", "Falcon", "T5", "XLNet"] if BACKEND == "torch" else ["Bloom"])
def test_dimensions_of_heads(name):
    """Queries without one dimension, values without two: scores are as large as ever."""
    random = np.random.default_rng(2)
    model = randomized(with_head(backbones(heads=4)[name]()), random)
    (query, _, value), block = first_attention(model, name)
    for weight in query.weights:
        close(weight, [1])
    for weight in value.weights:
        close(weight, [2, 3])
    if name == "XLNet":  # which adds biases to its queries
        for part in ("content", "positional", "segment"):
            close(getattr(block, f"{part}_attention_bias"), [1])
    small = without(model, [], inputs(model, random))
    left = [math.prod(layer.kernel.shape[1:]) for layer in first_attention(small, name)[0]]
    assert left == [12, 12, 12 if name == "T5" else 8]


def test_what_stays_is_named():
    """Experts of GptOss stay, and so does what is in a cache that all layers share."""
    import keras_hub

    plan = compaction_plan(with_head(backbones()["GptOss"]()))
    assert any("told apart by their router" in blocker.reason for blocker in plan.blockers)
    task = keras_hub.models.BloomCausalLM(backbones()["Bloom"](), preprocessor=None)
    assert any("in a cache of its task" in blocker.reason for blocker in compaction_plan(task).blockers)
