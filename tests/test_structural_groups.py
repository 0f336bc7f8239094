"""structural_groups: zeros where a group produces its unit let compact take out that unit, and what it said that frees."""

import keras
import numpy as np
import pytest
from keras import layers as L
from small_networks import check, scatter

from keras_reg.models import compact, compaction_plan, structural_groups
from keras_reg.models.compaction.groups import zero


def residual():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(6, 3, padding="same")(x)
    z = L.Conv2D(5, 3, padding="same", activation="relu")(L.ReLU()(L.BatchNormalization()(y)))
    y = y + L.Conv2D(6, 3, padding="same")(z)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y))), 6 + 5


def mobile():
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(L.ReLU(6.0)(L.Conv2D(7, 1)(x))))
    y = L.Conv2D(5, 1)(L.ReLU(6.0)(y))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y))), 7 + 5


def attention():
    x = keras.Input((5, 6))
    return keras.Model(x, L.Dense(4)(L.MultiHeadAttention(3, 4, output_shape=7)(x, x))), 3 + 7


def recurrent():
    x = keras.Input((5, 6))
    return keras.Model(x, L.Dense(4)(L.LSTM(7)(x))), 7


MODELS = (residual, mobile, attention, recurrent)


@pytest.mark.parametrize("make", MODELS)
def test_each_group_alone_frees_what_it_says(make):
    model, number = make()
    scatter(model, dead=0.0)
    groups = structural_groups(model)
    assert len(groups) == number
    weights = model.get_weights()
    before = compaction_plan(model).total
    for group in groups:
        assert group.norm() > 0
        zero([group])
        assert group.norm() == 0
        after = compaction_plan(model).total
        assert before.parameters[0] - after.parameters[1] == group.parameters, group
        assert before.macs[0] - after.macs[1] == group.macs, group
        model.set_weights(weights)


@pytest.mark.parametrize("make", MODELS)
def test_groups_are_disjoint(make):
    groups = structural_groups(make()[0])
    marked = {}
    for group in groups:
        for part in group.slices:
            if part.produces:
                mask = np.zeros(part.variable.shape, bool)
                part.mark(mask)
                marked.setdefault(part.variable.path, []).append(mask)
    assert marked
    for path, masks in marked.items():
        assert np.sum(masks, 0).max() == 1, path


@pytest.mark.parametrize("make", MODELS)
def test_any_of_them_together(make):
    for seed in range(2):
        model = scatter(make()[0], seed, dead=0.0)
        groups = structural_groups(model)
        random = np.random.default_rng(seed)
        zero([group for group in groups if random.random() < 0.4])
        small = check(model, fewer=True)
        assert len(structural_groups(small)) == sum(group.norm() > 0 for group in groups)
        assert compact(small).count_params() == small.count_params()
