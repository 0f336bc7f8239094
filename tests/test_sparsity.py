"""The sparsity report against counts by hand."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_reg.models import sparsity
from keras_reg.regularizers import L1, GroupLasso


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, kernel_regularizer=GroupLasso(0.1, axis=-2), name="conv"),
            layers.Flatten(),
            layers.Dense(5, kernel_regularizer=keras.regularizers.L2(0.5), name="dense"),
            layers.Dense(3, kernel_regularizer=L1(0.2), trainable=False, name="frozen"),
        ],
        name="net",
    )
    conv = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype("float32")
    conv[:, :, 1, :] = 0
    dense = np.full((144, 5), 0.5, "float32")
    dense[:, 2] = 0
    dense[7, 0] = -1e-4
    model.get_layer("conv").set_weights([conv, np.zeros(4)])
    model.get_layer("dense").set_weights([dense, np.ones(5)])
    return model


def test_rows(model):
    report = sparsity(model)
    rows = {row.name: row for row in report.weights}
    conv, dense, bias, frozen = (rows[name] for name in ("conv/kernel", "dense/kernel", "dense/bias", "frozen/kernel"))
    weights = {name: np.asarray(keras.ops.convert_to_numpy(model.get_layer(name).kernel)) for name in ("conv", "dense")}
    assert (conv.parameters, conv.zeros, conv.groups, conv.zero_groups, conv.group_axis) == (72, 36, 2, 1, -2)
    assert (dense.zeros, dense.near_zeros, dense.groups, dense.zero_groups, dense.group_axis) == (144, 145, 5, 1, -1)
    assert (bias.groups, bias.group_axis, bias.penalty) == (0, None, None)
    np.testing.assert_allclose(conv.l1_norm, np.abs(weights["conv"]).sum(), rtol=1e-6)
    np.testing.assert_allclose(dense.l2_norm, np.linalg.norm(weights["dense"]), rtol=1e-6)
    np.testing.assert_allclose(conv.penalty, 0.1 * 6 * np.linalg.norm(weights["conv"][:, :, 0]), rtol=1e-6)
    np.testing.assert_allclose(dense.penalty, 0.5 * np.sum(weights["dense"] ** 2), rtol=1e-6)
    # Keras leaves frozen weights out of the loss.
    assert frozen.penalty is None
    assert (conv.dense_bytes, conv.compressed_bytes) == (288, 9 + 36 * 4)
    assert bias.compressed_bytes == bias.dense_bytes == 20


def test_total(model):
    report = sparsity(model)
    total = report.total
    assert total.parameters == model.count_params()
    for field in ("zeros", "near_zeros", "groups", "zero_groups", "l1_norm", "dense_bytes", "compressed_bytes"):
        assert getattr(total, field) == sum(getattr(row, field) for row in report.weights)
    values = np.concatenate([weight.ravel() for weight in model.get_weights()])
    np.testing.assert_allclose(total.l2_norm, np.linalg.norm(values), rtol=1e-6)
    np.testing.assert_allclose(total.penalty, sum(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses), rtol=1e-6)
    assert total.zeros == np.sum(values == 0)


def test_choice(model):
    assert [row.name for row in sparsity(model, include="*/kernel", exclude=model.get_layer("conv")).weights] == [
        "dense/kernel",
        "frozen/kernel",
    ]
    with pytest.raises(ValueError, match=r"`include` holds '\*/gamma', which no weight .* conv/kernel"):
        sparsity(model, include="*/gamma")
    with pytest.raises(TypeError, match="`include` must hold layer types, patterns"):
        sparsity(model, include=3)
    with pytest.raises(ValueError, match="`near_zero` must be at least 0"):
        sparsity(model, near_zero=-1)


def test_dict_is_plain(model):
    figures = sparsity(model).to_dict()
    assert json.loads(json.dumps(figures)) == figures
    assert figures["total"]["zeros"] == sparsity(model).total.zeros
    assert "make nothing faster" in figures["note"]


def test_table_and_notebook(model):
    report = sparsity(model)
    text = str(report)
    (line,) = [line for line in text.splitlines() if "dense/kernel" in line]
    assert re.search(r"720\s+144\s+20%\s+145\s+20%\s+1 of 5\s", line)
    assert "frozen/bias" in text
    assert "make nothing faster" in text
    assert max(map(len, text.splitlines()[:-2])) < 120
    page = report._repr_html_()
    assert page.count("<tr>") == len(report.weights) + 2
    assert "<td>dense/kernel</td>" in page
    assert "make nothing faster" in page


def test_non_finite_is_shown(model):
    assert "not finite" not in str(sparsity(model))
    model.get_layer("dense").set_weights([np.full((144, 5), np.nan), np.ones(5)])
    report = sparsity(model)
    assert report.total.non_finite == 720
    assert "not finite" in str(report)


def test_bfloat16_and_nested_models():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, dtype="bfloat16")], name="inner")
    outer = keras.Sequential([keras.Input((3,)), inner, layers.Dense(2)], name="outer")
    report = sparsity(outer)
    assert len({row.name for row in report.weights}) == len(outer.weights)
    assert report.total.parameters == outer.count_params()
    assert report.weights[0].dtype == "bfloat16"
    assert report.weights[0].dense_bytes == 24
