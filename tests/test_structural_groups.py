"""structural_groups: zeros where a group produces its unit let compact take out that unit, and what it said that frees."""

import keras
import numpy as np
import pytest
from keras import layers as L
from random_networks import architectures
from small_networks import check, scatter

from keras_reg.models import compact, compaction_plan, structural_groups, zero_groups


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
        zero_groups([group])
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
        zero_groups([group for group in groups if random.random() < 0.4])
        small = check(model, fewer=True)
        # One may be the last of its kind now.
        alive = sum(group.norm() > 0 for group in groups)
        assert alive - 1 <= len(structural_groups(small)) <= alive
        assert compact(small).count_params() == small.count_params()


def test_what_are_no_groups():
    model = residual()[0]
    groups, before = structural_groups(model), model.get_weights()
    for wrong in (groups[0], 3, [groups[0], "conv2d"], groups[0].slices):
        with pytest.raises(TypeError, match="must be some of what `structural_groups` found"):
            zero_groups(wrong)
    zero_groups([])
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def encoder_and_decoder(kind):
    def make():
        x, y = keras.Input((4, 3)), keras.Input((5, 3))
        _, *states = kind(6, return_state=True)(x)
        return keras.Model([x, y], L.Dense(2)(kind(6)(y, initial_state=states)))

    return make


def heads(axes, biases=("sigmoid", None)):
    def make():
        x = keras.Input((4, 6))
        y = L.EinsumDense("abc,cde->abde", (4, 3, 5), bias_axes=axes, activation=biases[0])(x)
        return keras.Model(x, L.EinsumDense("abde,def->abf", (4, 2), bias_axes=biases[1])(y))

    return make


def spread_by_itself(function):
    """The one unit comes of the several: zero they are only all together."""

    def make():
        x = keras.Input((6,))
        y = L.Dense(5, "relu")(x)
        return keras.Model(x, L.Dense(2)(function(y, L.Dense(1)(y))))

    return make


def spread(function, one=True):
    """A tensor of one unit beside one of several, in either order."""

    def make():
        x = keras.Input((6,))
        y, z = L.Dense(5, "relu")(x), L.Dense(1)(x)
        return keras.Model(x, L.Dense(2)(function(y, z) if one else function(z, y)))

    return make


SPREAD = {"sum": lambda y, z: y + z, "gate": lambda y, z: y * z}
# How many groups there are: units of states; dimensions of heads whose bias can be zero, so that zero comes out; what is not added to.
PROMISES = {kind.__name__: (encoder_and_decoder(kind), 6) for kind in (L.LSTM, L.GRU, L.SimpleRNN)}
PROMISES |= {f"{name} {one}": (spread(function, one), 5 * (name == "gate")) for one in (True, False) for name, function in SPREAD.items()}
PROMISES |= {f"{name} by itself": (spread_by_itself(function), 5 * (name == "gate")) for name, function in SPREAD.items()}
PROMISES |= {
    "one unit": (lambda: keras.Sequential([keras.Input((3,)), L.Dense(1), L.Dense(4), L.Dense(2)]), 4),
    "one head": (lambda: (lambda x: keras.Model(x, L.Dense(2)(L.MultiHeadAttention(1, 3)(x, x))))(keras.Input((4, 6))), 6),
}
PROMISES |= {f"heads {axes} relu": (heads(axes, ("relu", "f")), 5) for axes in ("de", "e", "d")}
PROMISES |= {f"heads {axes} sigmoid": (heads(axes, ("sigmoid", None)), None) for axes in ("de", "e", "d")}


def assert_promises_are_kept(model, number=None):
    """Each group, or some at random, leaves once what produces it is zero, and takes with it what it says at most."""
    scatter(model, dead=0.0)
    weights, groups = model.get_weights(), structural_groups(model)
    before = compaction_plan(model).total.parameters[1]
    random = np.random.default_rng(0)
    for group in groups if number is None else random.permutation(np.array(groups, object))[:number]:
        zero_groups([group])
        assert compaction_plan(model).total.parameters[1] < before, group
        model.set_weights(weights)
    return groups


@pytest.mark.parametrize("name", PROMISES)
def test_promises(name):
    make, expected = PROMISES[name]
    groups = assert_promises_are_kept(make())
    assert expected is None or len(groups) == expected


@pytest.mark.parametrize("family", ["images", "sequences", "masked"])
def test_promises_of_random_networks(family):
    for make in architectures(family, 5).values():
        assert_promises_are_kept(make(), 3)


def test_outer_products():
    """One side is followed, and the same one again where it has come down to one unit."""
    x = keras.Input((6,))
    one, other = L.Reshape((5, 1))(L.Dense(5, name="a")(x)), L.Reshape((1, 4))(L.Dense(4, name="b")(x))
    for product in (one * other, other * one, L.Multiply()([one, other])):
        model = scatter(keras.Model(x, L.Dense(2, name="c")(L.Flatten()(product))), dead=0.0)
        for name in "ab":
            kernel, bias = model.get_layer(name).get_weights()
            kernel[:, 1:] = bias[1:] = 0
            model.get_layer(name).set_weights([kernel, bias])
        check(model, fewer=True)
