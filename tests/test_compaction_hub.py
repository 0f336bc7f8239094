"""KerasHub's models: heads, hidden units, and where it is exact dimensions of the hidden state leave; classes and `generate` stay."""

import warnings

import keras
import numpy as np
import pytest
from hub_backbones import backbones, inputs, kind_of, randomized, with_head
from small_networks import arrays, difference, outputs

from keras_reg.models import compact, compaction_plan, structural_groups, zero_groups

BACKEND = keras.backend.backend()
# What leaves each; those of T5 take the time of all others. `benchmarks/compaction_hub.py` has all of them.
BACKBONES = {"Bert": {"heads", "units"}, "Gemma2": {"heads", "units", "hidden"}}
if BACKEND == "tensorflow":
    BACKBONES |= {
        "DebertaV3": {"heads", "units"},
        "DeiT": {"heads", "units"},
        "Mixtral": {"heads"},
        "Qwen3": {"heads", "units", "hidden"},
        "SmolLM3": {"heads", "units", "hidden"},
        "Whisper": {"heads", "units"},
    }


@pytest.fixture(autouse=True)
def warnings_of_keras_hub():
    """T5 hands masks to layers that do not know them, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layer .* was passed an input with a mask")
        yield


def halved(model, random):
    """With what produces a half of its groups at zero; returns these groups."""
    groups = [group for group in structural_groups(model) if random.random() < 0.5]
    zero_groups(groups)
    return groups


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name, tmp_path):
    random = np.random.default_rng(0)
    model = randomized(with_head(backbones()[name]()), random)
    groups = halved(model, random)
    assert {kind_of(group) for group in groups} == BACKBONES[name]
    x = inputs(model, random)
    plan, small = compaction_plan(model), compact(model)
    assert plan.total.parameters == (model.count_params(), small.count_params())
    assert small.count_params() < model.count_params()
    before = outputs(model, x)
    assert any(np.ptp(array, axis=(0, 1)).max() > 1e-3 for array in before)
    assert difference(before, outputs(small, x)) < 1e-5
    again = compact(small)
    assert again.count_params() == small.count_params()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert [type(layer).__name__ for layer in loaded.layers] == [type(layer).__name__ for layer in model.layers]
    assert difference(outputs(small, x), outputs(loaded, x)) == 0


def prompt(length=10):
    return {"token_ids": np.array([[3, 4, 5, 6] + [0] * (length - 4)] * 2), "padding_mask": np.array([[1] * 4 + [0] * (length - 4)] * 2)}


def tasks():
    import keras_hub

    both = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in prompt().items()}
    return {
        "Gemma": (keras_hub.models.GemmaCausalLM, prompt(), {"units", "hidden"}),
        "GPT2": (keras_hub.models.GPT2CausalLM, prompt(), {"units"}),
        "Bart": (keras_hub.models.BartSeq2SeqLM, both, {"units"}),
        "Bloom": (keras_hub.models.BloomCausalLM, prompt(), {"units"}),
        "Falcon": (keras_hub.models.FalconCausalLM, prompt(), {"units"}),
        "T5": (keras_hub.models.T5Seq2SeqLM, both, {"units", "hidden"}),
    }


# A rotary embedding and a head tied to the table; positions that are learned; an encoder. PyTorch has nothing to compile.
GENERATE = {"tensorflow": ["Gemma", "GPT2", "Bart"], "torch": ["Gemma", "Bloom", "Falcon", "T5"], "jax": ["Gemma"]}


@pytest.mark.parametrize("name", GENERATE[BACKEND])
def test_generated_text(name, tmp_path):
    kind, x, kinds = tasks()[name]
    random = np.random.default_rng(0)
    model = randomized(kind(backbones()[name](), preprocessor=None), random)
    model.compile(sampler="greedy")
    assert {kind_of(group) for group in halved(model, random)} == kinds
    small = compact(model)
    assert small.count_params() < model.count_params()
    assert difference(arrays(model(x)), arrays(small(x))) < 1e-5
    small.save(tmp_path / "small.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`compile..` was not called as part of model loading")
        loaded = keras.models.load_model(tmp_path / "small.keras")
    # The loaded one's outputs are those of the small one: compiling it to generate costs as much again.
    assert difference(arrays(small(x)), arrays(loaded(x))) == 0
    before, after = (one.generate(x, stop_token_ids=None) for one in (model, small))
    for key, value in before.items():
        np.testing.assert_array_equal(value, after[key])
    assert isinstance(small, kind)
    assert isinstance(loaded, kind)
    assert compact(loaded).count_params() == small.count_params()


def test_a_classifier_with_its_preprocessor():
    """It scales images before the network sees them: without it, outputs are off by far."""
    import keras_hub

    sizes = {"stackwise_num_filters": [64], "stackwise_num_blocks": [1], "stackwise_num_strides": [1], "block_type": "basic_block"}
    backbone = keras_hub.models.ResNetBackbone([64], [7], **sizes, image_shape=(32, 32, 3))
    converter = keras_hub.layers.ResNetImageConverter(image_size=(32, 32), scale=1 / 255.0)
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(converter)
    model = keras_hub.models.ResNetImageClassifier(backbone, num_classes=3, preprocessor=preprocessor)
    random = np.random.default_rng(0)
    halved(model, random)
    small = compact(model)
    assert type(small) is type(model)
    x = random.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    assert difference([model.predict(x, verbose=0)], [small.predict(x, verbose=0)]) < 1e-5
    assert small.count_params() < model.count_params()
