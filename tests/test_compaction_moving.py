"""compact where tensors are padded, turned, split, stacked, compared or multiplied with each other, and where norms go by channel."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from small_networks import check, difference, outputs, scatter

from keras_reg.models import compact, compaction_plan, structural_groups


def glu(x, cut):
    one, other = cut(L.Dense(12)(x))
    return one * ops.sigmoid(other)


def cross_stage(x):
    y = L.Dense(8, "relu")(x)
    return L.Concatenate()([y[..., :3], L.Dense(4, "relu")(y[..., 3:])])


def windows(x):
    y = ops.reshape(x, (-1, 2, 3, 8))
    return ops.reshape(L.Dense(5, "relu")(ops.reshape(y, (-1, 3, 8))), (-1, 6, 5))


def by_einsum(x):
    q, k, v = (L.EinsumDense("abc,cde->abde", (6, 2, 4), bias_axes="de")(x) for _ in range(3))
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    return L.EinsumDense("abcd,cde->abe", (6, 5), bias_axes="e")(ops.einsum("bhqk,bkhd->bqhd", scores, v))


def by_dot(x):
    q, k, v = (L.Dense(7)(x) for _ in range(3))
    return L.Dot(axes=(2, 1))([L.Softmax()(L.Dot(axes=2)([q, k])), v])


def by_matmul(x):
    q, k, v = (L.Dense(7)(x) for _ in range(3))
    return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v)


def by_layer(x, parts=3):
    return L.Attention(use_scale=True)([L.Dense(7)(x) for _ in range(parts)])


def heads(x, number=2):
    """Its units as heads, these before the steps of the sequence."""
    return ops.transpose(ops.reshape(x, (-1, 6, number, 4)), (0, 2, 1, 3))


def joined(y):
    return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, 6, 8))


def by_heads(x):
    q, k, v = (heads(L.Dense(8)(x)) for _ in range(3))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0, axis=-1)
    return joined(ops.matmul(scores, v))


def by_heads_at_once(x):
    """All three projections in one, taken apart along the first axis, which is not that of the examples."""
    three = ops.transpose(ops.reshape(L.Dense(24)(x), (-1, 6, 3, 2, 4)), (2, 0, 3, 1, 4))
    scores = ops.where(np.tri(6) > 0, ops.matmul(three[0] * 0.5, ops.swapaxes(three[1], -2, -1)), -np.inf)
    return joined(ops.matmul(L.Softmax()(scores), three[2]))


def by_heads_unstacked(x):
    q, k, v = ops.unstack(ops.reshape(L.Dense(24)(x), (-1, 6, 3, 2, 4)), axis=2)
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k), axis=-1)
    return ops.reshape(ops.einsum("bhqk,bkhd->bqhd", scores, v), (-1, 6, 8))


def by_heads_with_norms(x):
    q, k, v = (L.Reshape((6, 2, 4))(L.Dense(8)(x)) for _ in range(3))
    q, k = L.LayerNormalization()(q), L.UnitNormalization()(k)
    q, k, v = (L.Permute((2, 1, 3))(y) for y in (q, k, v))
    scores = ops.softmax(ops.matmul(q, L.Permute((1, 3, 2))(k)) + np.tri(6, dtype="float32"))
    return L.Reshape((6, 8))(L.Permute((2, 1, 3))(ops.matmul(L.Dropout(0.1)(scores), v)))


def by_function(x):
    q, k, v = (ops.reshape(L.Dense(8)(x), (-1, 6, 2, 4)) for _ in range(3))
    mask = x[:, None, None, :, 0] > -10.0
    return ops.reshape(ops.dot_product_attention(q, k, v, mask=mask), (-1, 6, 8))


def by_sums(x):
    return L.AdditiveAttention()([L.Dense(7)(x) for _ in range(3)])


def shuffled(x):
    """The channels of two branches alternate."""
    y = L.Concatenate()([L.Dense(4, "relu")(x), x])
    y = ops.reshape(ops.transpose(ops.reshape(y, (-1, 6, 3, 4)), (0, 1, 3, 2)), (-1, 6, 12))
    return ops.concatenate([y[..., 6:], L.Dense(5)(y[..., :6])], axis=-1)


def deeper(x):
    """From channels to places."""
    y = ops.transpose(ops.reshape(x, (-1, 2, 3, 2, 2, 2)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(y, (-1, 24, 2))


def image(function):
    return lambda x: ops.reshape(function(ops.reshape(x, (-1, 3, 2, 8))), (-1, 24, 2))


def both_directions(x):
    y, *states = L.Bidirectional(L.GRU(3, return_sequences=True, return_state=True))(x)
    return L.Bidirectional(L.GRU(3, return_sequences=True))(y, initial_state=states)


VALUES = np.linspace(0.5, 2, 8).astype("float32")
# What is done to 8 units, and how many groups leave.
KINDS = {
    "pad": (lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0]]), 8),
    "pad by itself": (lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0]], mode="reflect"), 8),
    "pad with a number": (lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0]], constant_values=1.0), 0),
    "pad units": (lambda x: ops.pad(x, [[0, 0], [0, 0], [0, 2]]), 0),
    "flip": (lambda x: ops.flip(x, axis=1), 8),
    "flip units": (lambda x: ops.flip(x, axis=-1), 8),
    "roll": (lambda x: ops.roll(x, 1, axis=1), 8),
    "roll units": (lambda x: ops.roll(x, 1, axis=2), 0),
    "cumsum": (lambda x: ops.cumsum(x, axis=1), 8),
    "repeat": (lambda x: ops.repeat(x, 2, axis=1), 8),
    "repeat units": (lambda x: ops.repeat(x, 2, axis=2), 8),
    "tile": (lambda x: ops.tile(x, (1, 2, 2)), 8),
    "variance": (lambda x: ops.var(x, axis=1), 8),
    "deviation": (lambda x: ops.std(x, axis=1, keepdims=True), 8),
    "swap": (lambda x: ops.swapaxes(ops.swapaxes(x, 1, 2), 2, 1), 8),
    "move": (lambda x: ops.moveaxis(ops.moveaxis(x, 2, 1), 1, 2), 8),
    "stack": (lambda x: ops.max(ops.stack([L.Dense(4)(x), L.Dense(4)(x)], axis=1), axis=1), 12),
    "split": (lambda x: glu(x, lambda y: ops.split(y, 2, axis=-1)), 14),
    "split by indices": (lambda x: ops.concatenate(ops.split(x, [1, 5], axis=-1)[::-1], axis=-1), 7),
    "split in time": (lambda x: ops.add(*ops.split(x, 2, axis=1)), 8),
    "slices": (lambda x: glu(x, lambda y: (y[..., :6], y[:, :, 6:])), 14),
    "slices from the end": (lambda x: ops.concatenate([x[..., -3:], x[:, :, :-3]], axis=-1), 8),
    "slices with steps": (lambda x: ops.concatenate([x[..., ::3], x[..., 1::3], x[..., 2::3]], axis=-1), 8),
    "one unit by its number": (lambda x: x * x[..., 2:3] * ops.expand_dims(x[:, :, 5], -1), 6),
    "units by numbers": (lambda x: ops.take(x, [7, -8, 3, 3, 4, 1, 2, 5, 6], axis=-1), 8),
    "steps by numbers": (lambda x: ops.take(x, np.array([0, 5, 2]), axis=1), 8),
    "units by a table of numbers": (lambda x: ops.reshape(ops.take(x, np.arange(8).reshape(4, 2), axis=2), (-1, 6, 8)), 4),
    "new axes": (lambda x: x[:, None, ..., None, :][:, 0, :, 0], 8),
    "shuffle": (shuffled, 9),
    "depth to space by hand": (deeper, 2),
    "resized": (lambda x: ops.reshape(L.Resizing(2, 3)(ops.reshape(x, (-1, 3, 2, 8))), (-1, 6, 8)), 8),
    "resized by a function": (lambda x: ops.reshape(ops.image.resize(ops.reshape(x, (-1, 3, 2, 8)), (2, 3)), (-1, 6, 8)), 8),
    "gated linear units": (lambda x: ops.glu(L.Dense(10)(x)), 13),
    "softmax in time": (lambda x: ops.softmax(x, axis=1), 8),
    "cross stage": (cross_stage, 20),
    "windows": (windows, 13),
    "where": (lambda x: ops.where(x > 0.5, L.Dense(8)(x), 0.25), 8),
    "where of several": (lambda x: ops.where(ops.logical_and(x > 0.5, L.Dense(8)(x) <= 3.0), x, 0.0), 8),
    "where by one": (lambda x: ops.where(L.Dense(1)(x) > 0.5, x, 0.0), 8),
    "where by one, or a number": (lambda x: ops.where(L.Dense(1)(x) > 0.5, x, 0.25), 0),
    "where by an array": (lambda x: ops.where(np.outer(np.arange(6), VALUES) > 2.5, x, L.Dense(8)(x)), 8),
    "comparison": (lambda x: ops.cast(ops.logical_and(x > 0.5, ops.logical_not(x > 2.0)), "float32"), 8),
    "rounded": (lambda x: ops.round(x), 8),
    "array": (lambda x: x * VALUES, 8),
    "array in places": (lambda x: x * ops.convert_to_tensor(np.outer(np.arange(6), VALUES), "float32"), 8),
    "sum with an array": (lambda x: ops.add(VALUES, x), 8),
    "quotient by an array in places": (lambda x: x / np.outer(np.arange(1, 7), VALUES).astype("float32"), 8),
    "sums over time by an array": (lambda x: ops.matmul(np.tri(6, dtype="float32"), x), 8),
    "sums over time by an equation": (lambda x: ops.einsum("btc,st->bsc", x, ops.convert_to_tensor(np.tri(6), "float32")), 8),
    "sums over units by an array": (lambda x: ops.matmul(x, np.outer(VALUES, VALUES[:5])), 0),
    "states of both directions": (both_directions, 11),
    "array of infinities": (lambda x: ops.maximum(x, np.where(VALUES > 1, -np.inf, 0).astype("float32")), 0),
    "rescaling": (lambda x: L.Rescaling(VALUES, VALUES / 2)(x), 8),
    "normalization": (lambda x: L.Normalization(mean=VALUES, variance=VALUES)(x), 8),
    "unit normalization": (lambda x: L.UnitNormalization()(x), 8),
    "instance normalization": (lambda x: L.GroupNormalization(-1)(x), 8),
    "group normalization": (lambda x: L.GroupNormalization(4, center=False)(x), 4),
    "layer normalization": (lambda x: L.LayerNormalization()(x), 0),
    "attention by einsum": (by_einsum, 15),
    "attention by matmul": (by_matmul, 22),
    "attention by dot": (by_dot, 22),
    "attention": (by_layer, 22),
    "attention without keys": (lambda x: by_layer(x, 2), 15),
    "attention by sums": (by_sums, 22),
    "attention by heads": (by_heads, 10),
    "attention by heads at once": (by_heads_at_once, 10),
    "attention by heads unstacked": (by_heads_unstacked, 10),
    "attention by heads with norms": (by_heads_with_norms, 10),
    "attention by function": (by_function, 9),
}

if hasattr(ops, "depth_to_space"):  # since Keras 3.13
    KINDS |= {
        "places to depth": (lambda x: ops.reshape(ops.space_to_depth(ops.reshape(x, (-1, 2, 3, 8))[:, :, :2], 2), (-1, 1, 32)), 8),
        "depth to places": (image(lambda x: ops.depth_to_space(x, 2)), 2),
    }


# Some of them where each has to be compiled.
@pytest.mark.parametrize("name", list(KINDS)[:: 4 if keras.backend.backend() == "jax" else 1])
def test_kinds(name):
    function, expected = KINDS[name]
    x = keras.Input((6, 5))
    y = function(L.Dense(8, "relu", name="first")(x))
    model = scatter(keras.Model(x, L.Dense(3)(L.Dense(5, "relu", name="last")(y))), dead=0.0)
    # But for those of the layer after it.
    groups = [group for group in structural_groups(model) if not any(part.layer == "last" and part.produces for part in group.slices)]
    assert len(groups) == expected
    if not expected and name != "pad with a number":
        assert compaction_plan(model).blockers
    before = compaction_plan(model).total.parameters[1]
    for group in groups[::2]:
        group.zero()
        assert compaction_plan(model).total.parameters[1] < before
        before = compaction_plan(model).total.parameters[1]
    check(model, fewer=bool(expected))


def test_a_slice_in_a_model_called_twice():
    """One operation in two places: what is before the part, and the part, are the same in both."""
    x = keras.Input((8,))
    inner = keras.Model(x, x[:, 2:6], name="inner")
    x = keras.Input((5,))
    one, other = L.Dense(8, "relu", name="one")(x), L.Dense(8, "relu", name="other")(x)
    model = scatter(keras.Model(x, L.Dense(3)(L.Concatenate()([inner(one), inner(other)]))), dead=0.0)
    for name, dead in (("one", [0, 2, 3]), ("other", [0, 3, 7])):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:, dead] = bias[dead] = 0
        model.get_layer(name).set_weights([kernel, bias])
    small = check(model, fewer=True)
    assert [small.get_layer(name).units for name in ("one", "other")] == [3, 3]


def test_the_last_layer_is_named():
    """Nothing leaves, since it works along another axis."""
    x = keras.Input((6, 5))
    model = keras.Model(x, L.Dense(3, name="last")(L.Permute((2, 1))(L.Dense(8)(x))))
    assert [blocker.layer for blocker in compaction_plan(model).blockers] == ["last"]
    assert compact(model).count_params() == model.count_params()


def test_dimensions_of_heads_by_hand():
    """Those of queries and keys leave where no head that stays needs them, and those of values where nothing reads them in any head."""
    x = keras.Input((6, 5))
    q, k, v = (heads(L.Dense(8, name=name)(x)) for name in "qkv")
    y = joined(ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, 2, 3)) / 2.0), v))
    model = scatter(keras.Model(x, L.Dense(3, name="last")(y)), dead=0.0)

    def zero(name, columns=None, rows=None):
        kernel, *bias = model.get_layer(name).get_weights()
        if columns is not None:
            kernel[:, columns] = bias[0][columns] = 0
        else:
            kernel[rows] = 0
        model.get_layer(name).set_weights([kernel, *bias])

    def widths():
        small = check(model)
        return [small.get_layer(name).units for name in "qkv"]

    zero("q", columns=[1])
    zero("k", columns=[5])
    zero("last", rows=[2, 3, 6])
    # The second dimension, of queries or of keys in each head; the third of values.
    assert widths() == [6, 6, 6]
    zero("last", rows=[4, 5, 7])
    # Without the second head its dimensions count no more.
    zero("q", columns=[3])
    assert widths() == [2, 2, 2]


def test_features_that_a_normalization_has_seen():
    """Those that nothing reads leave with their means and variances."""
    random = np.random.default_rng(0)
    for arguments in ({}, {"invert": True}, {"axis": None}):
        normalization = L.Normalization(**arguments)
        normalization.adapt(random.normal(3.0, 2.0, (50, 6)) * np.arange(1, 7))
        x = keras.Input((6,))
        model = scatter(keras.Model(x, L.Dense(3, name="last")(normalization(x))), dead=0.0)
        kernel, bias = model.get_layer("last").get_weights()
        kernel[[1, 4]] = 0
        model.get_layer("last").set_weights([kernel, bias])
        check(model, fewer=False)
        small, (features,) = compact(model, inputs=True)
        assert features.tolist() == [0, 2, 3, 5]
        numbers = random.normal(size=(4, 6)).astype("float32")
        assert difference(outputs(model, numbers), outputs(small, numbers[:, features])) < 1e-5
        assert compaction_plan(model, inputs=True).total.parameters[1] == small.count_params()
