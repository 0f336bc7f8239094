"""compact: equal outputs on networks put together at random, and on small ones the widths that follow by hand."""

import keras
import numpy as np
import pytest
from keras import layers as L
from random_networks import architectures
from small_networks import check, difference, examples, outputs, scatter

from keras_reg.models import compact, compaction_plan

BACKEND = keras.backend.backend()
# Of each step of `architectures` at least one network; more where operations need no compiling.
SEEDS = {"tensorflow": 2, "torch": 2, "jax": 1}[BACKEND]
# In float64 Keras multiplies in float32 on PyTorch and, unless JAX is told otherwise from the start, on JAX.
TOLERANCES = {"float32": 1e-5} | ({"float64": 1e-12} if BACKEND == "tensorflow" else {})


@pytest.fixture
def floatx(request):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def networks():
    for number in range(SEEDS):
        for family in ("images", "sequences", "volumes", "masked"):
            # TensorFlow pools volumes in float32 only.
            dtype = "float64" if number and family != "volumes" and "float64" in TOLERANCES else "float32"
            made = list(architectures(family, number).items())
            if BACKEND == "jax":
                made = made[:1]
            for name, make in made:
                yield pytest.param(make, number, dtype, id=f"{family}-{dtype}-{name}")


@pytest.mark.parametrize(("make", "seed", "floatx"), list(networks()), indirect=["floatx"])
def test_random_networks(make, seed, floatx):
    model = make()
    for number in (seed, *range(100, 104)):  # weights that leave something of the inputs
        scatter(model, number)
        if any(np.ptp(array) > 1e-6 for array in outputs(model, examples(model))):
            break
    small = check(model, TOLERANCES[floatx])
    assert small.count_params() <= model.count_params()


@pytest.mark.parametrize("family", ["images", "sequences"])
def test_nothing_dead(family):
    make = next(iter(architectures(family, 3).values()))
    model = scatter(make(), dead=0.0)
    small = check(model)
    assert small.count_params() == model.count_params()


# Small networks of which it can be said by hand what stays


def assert_widths(model, **layers):
    """What the plan and the smaller model say of these layers."""
    plan = {row.name: row.width[1] for row in compaction_plan(model).layers if row.width}
    small = check(model)
    for name, expected in layers.items():
        assert plan[name] == expected, name
        assert small.get_layer(name).output.shape[small.get_layer(name).output.shape.index(expected)] == expected
    return small


def change(model, layer, weight, index, value=0.0):
    variable = next(v for v in model.get_layer(layer).weights if v.path.endswith(weight))
    values = np.array(keras.ops.convert_to_numpy(variable))
    values[index] = value
    variable.assign(values)


def dense(activation="relu", **arguments):
    model = keras.Sequential([keras.Input((5,)), L.Dense(6, activation, name="a", **arguments), L.Dense(3, name="b")])
    return scatter(model, dead=0.0)


def reasons(model):
    return {blocker.layer: blocker.reason for blocker in compaction_plan(model).blockers}


def test_constant_units_go_into_the_bias():
    model = dense()
    change(model, "a", "kernel", np.s_[:, [1, 2]])
    change(model, "a", "bias", [1, 2], [-1.0, 0.7])
    small = assert_widths(model, a=4)
    kernel, bias = model.get_layer("b").get_weights()
    np.testing.assert_allclose(small.get_layer("b").get_weights()[1], bias + 0.7 * kernel[2], rtol=1e-6)
    np.testing.assert_array_equal(small.get_layer("b").get_weights()[0], kernel[[0, 3, 4, 5]])


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "exponential"])
def test_an_activation_that_is_not_zero_at_zero(name):
    model = dense(name)
    change(model, "a", "kernel", np.s_[:, 1])
    change(model, "a", "bias", 1)
    small = assert_widths(model, a=5)
    kernel, bias = model.get_layer("b").get_weights()
    value = {"sigmoid": 0.5, "softplus": np.log(2), "exponential": 1.0}[name]
    np.testing.assert_allclose(small.get_layer("b").get_weights()[1], bias + value * kernel[1], rtol=1e-6)


def test_units_that_nothing_reads():
    model = dense("tanh")
    change(model, "b", "kernel", np.s_[[0, 5]])
    assert_widths(model, a=4)


def test_a_layer_without_bias_gets_one():
    model = keras.Sequential([keras.Input((5,)), L.Dense(6, "sigmoid", name="a"), L.Dense(3, use_bias=False, name="b")])
    scatter(model, dead=0.0)
    change(model, "a", "kernel", np.s_[:, 1])
    small = assert_widths(model, a=5)
    assert small.get_layer("b").use_bias
    change(model, "a", "bias", 1, -np.inf)
    small = compact(model)
    assert not small.get_layer("b").use_bias


def test_until_nothing_more_falls():
    """The last layer's zeros free a unit, whose zero weights free another, up to the first layer."""
    sizes = [L.Dense(4, "tanh", name=name) for name in "abc"]
    model = scatter(keras.Sequential([keras.Input((5,)), *sizes, L.Dense(2, name="d")]), dead=0.0)
    change(model, "d", "kernel", np.s_[0])
    for name in "bc":
        change(model, name, "kernel", np.s_[0, 1:])
    assert_widths(model, a=3, b=3, c=3)


def test_a_whole_layer_keeps_one_unit():
    model = dense()
    change(model, "b", "kernel", np.s_[:])
    change(model, "a", "kernel", np.s_[:])
    plan = compaction_plan(model)
    assert next(row for row in plan.layers if row.name == "a").width == (6, 1)
    check(model, constant=True)


def convolutions(padding, **arguments):
    first = L.Conv2D(6, 3, activation="relu", name="a")
    layers = [keras.Input((9, 8, 2)), first, L.Conv2D(4, 3, padding=padding, name="b", **arguments), L.Flatten(), L.Dense(2)]
    model = scatter(keras.Sequential(layers), dead=0.0)
    change(model, "a", "kernel", np.s_[..., [1, 2]])
    change(model, "a", "bias", [1, 2], [0.5, -0.5])
    return model


def test_convolutions_fold_where_nothing_is_padded():
    model = convolutions("valid")
    small = assert_widths(model, a=4)
    kernel, bias = model.get_layer("b").get_weights()
    np.testing.assert_allclose(small.get_layer("b").get_weights()[1], bias + 0.5 * kernel[:, :, 1].sum((0, 1)), rtol=1e-5)
    assert reasons(model) == {}


def test_at_a_border_only_zeros_go():
    model = convolutions("same")
    assert_widths(model, a=5)
    assert reasons(model) == {"b": "no bias can stand for a constant at the border of its padding"}
    # Strides of three on nine rows and one column of eight: what "same" then pads is nothing but at the columns.
    assert_widths(convolutions("same", strides=3), a=5)


def test_transposed_convolutions_take_zeros_only():
    layers = [keras.Input((5, 5, 2)), L.Conv2D(6, 2, activation="relu", name="a"), L.Conv2DTranspose(3, 3, strides=2, name="b")]
    model = scatter(keras.Sequential(layers), dead=0.0)
    change(model, "a", "kernel", np.s_[..., [1, 2]])
    change(model, "a", "bias", [1, 2], [0.5, -0.5])
    assert_widths(model, a=5)


def test_batch_normalization_makes_constants():
    layers = [keras.Input((5,)), L.Dense(6, use_bias=False, name="a"), L.BatchNormalization(name="n"), L.Dense(3, name="b")]
    model = scatter(keras.Sequential(layers), dead=0.0)
    change(model, "a", "kernel", np.s_[:, 1])
    change(model, "n", "gamma", 4)
    small = assert_widths(model, a=4, n=4)
    gamma, beta, mean, variance = model.get_layer("n").get_weights()
    kernel, bias = model.get_layer("b").get_weights()
    constant = beta[1] - gamma[1] * mean[1] / np.sqrt(variance[1] + 1e-3)
    np.testing.assert_allclose(small.get_layer("b").get_weights()[1], bias + constant * kernel[1] + beta[4] * kernel[4], rtol=1e-5)


def test_members_of_a_sum_stay_together():
    x = keras.Input((5,))
    total = L.Add()([L.Dense(4, "relu", name="a")(x), L.Dense(4, "relu", name="b")(x)])
    model = scatter(keras.Model(x, L.Dense(2)(total)), dead=0.0)
    for name, units in (("a", [0, 1]), ("b", [1, 2])):
        change(model, name, "kernel", np.s_[:, units])
        change(model, name, "bias", units)
    assert_widths(model, a=3, b=3)


def test_a_closed_gate():
    """What a gate of zero multiplies is zero, and an open gate of a constant value is not."""
    x = keras.Input((6, 6, 2))
    y = L.Conv2D(5, 3, name="a")(x)
    gate = L.Dense(5, "relu", name="gate")(L.Dense(4, "relu", name="squeeze")(L.GlobalAveragePooling2D()(y)))
    y = L.Multiply()([y, L.Reshape((1, 1, 5))(gate)])
    model = scatter(keras.Model(x, L.Dense(2)(L.GlobalMaxPooling2D()(y))), dead=0.0)
    change(model, "gate", "kernel", np.s_[:, [0, 1]])
    change(model, "gate", "bias", [0, 1], [-1.0, 1.0])
    # The squeeze reads all five: so that the closed one may leave, nothing may read it there.
    change(model, "squeeze", "kernel", np.s_[0])
    assert_widths(model, a=4, gate=4, squeeze=4)


def test_depthwise_channels_go_with_their_filters():
    layers = [L.Conv2D(5, 2, name="a"), L.DepthwiseConv2D(2, depth_multiplier=2, name="d"), L.Conv2D(3, 1, name="b")]
    model = scatter(keras.Sequential([keras.Input((6, 6, 2)), *layers]), dead=0.0)
    change(model, "d", "kernel", np.s_[:, :, 0])  # both filters, constant from here on
    change(model, "d", "kernel", np.s_[:, :, 1, 0])  # one of two
    change(model, "b", "kernel", np.s_[:, :, 4:6])  # both filters of the third are read by nothing
    assert_widths(model, a=3, d=6)


def test_grouped_convolutions_lose_whole_groups():
    layers = [L.Conv2D(8, 2, name="a"), L.Conv2D(12, 2, groups=4, name="g"), L.Conv2D(3, 1, name="b")]
    model = scatter(keras.Sequential([keras.Input((6, 6, 2)), *layers]), dead=0.0)
    change(model, "b", "kernel", np.s_[:, :, 0:5])  # the first group, and two of three of the second
    small = assert_widths(model, a=6, g=9)
    assert small.get_layer("g").groups == 3


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU, L.SimpleRNN])
def test_recurrent_units_that_are_silent_or_unread(kind):
    layers = [keras.Input((4, 3)), kind(6, name="a", return_sequences=True), kind(5, name="b"), L.Dense(2, name="c")]
    model = scatter(keras.Sequential(layers), dead=0.0)
    candidate = {L.LSTM: 2, L.GRU: 2, L.SimpleRNN: 0}[kind] * 6
    for weight in ("/kernel", "recurrent_kernel", "bias"):
        change(model, "a", weight, np.s_[..., candidate + 1])
    # The third reads the second, so it is silent only together with it; the fourth reads another.
    for weight in ("/kernel", "bias"):
        change(model, "a", weight, np.s_[..., [candidate + 2, candidate + 3]])
    recurrent = np.zeros((6, 2))
    recurrent[1, 0] = recurrent[5, 1] = 1.0
    change(model, "a", "recurrent_kernel", np.s_[:, [candidate + 2, candidate + 3]], recurrent)
    change(model, "c", "kernel", np.s_[0])
    change(model, "b", "recurrent_kernel", np.s_[0])
    assert_widths(model, a=4, b=4)


def test_recurrent_units_with_states_from_elsewhere():
    x, state = keras.Input((4, 3)), keras.Input((2,))
    y = L.SimpleRNN(5, name="a")(x, initial_state=L.Dense(5, name="s")(state))
    model = scatter(keras.Model([x, state], L.Dense(2)(y)), dead=0.0)
    for weight in ("/kernel", "recurrent_kernel", "bias"):
        change(model, "a", weight, np.s_[..., [1, 2]])
    assert_widths(model, a=5, s=5)


def test_both_directions_keep_equally_many():
    x = keras.Input((4, 3))
    model = scatter(keras.Model(x, L.Dense(2, name="c")(L.Bidirectional(L.LSTM(5), name="a")(x))), dead=0.0)
    change(model, "c", "kernel", np.s_[[0, 1, 2, 5]])  # three of the forward layer and one of the backward one
    for layer, units in ((model.get_layer("a").forward_layer, [0, 1, 2]), (model.get_layer("a").backward_layer, [0])):
        kernel, recurrent, bias = layer.get_weights()
        recurrent[units] = 0
        layer.set_weights([kernel, recurrent, bias])
    small = check(model)
    assert small.get_layer("a").forward_layer.units == small.get_layer("a").backward_layer.units == 4


def test_states_of_both_directions():
    """The first is for the layer that goes forward: its second unit leaves, and the third of the other."""
    x, z = keras.Input((4, 3)), keras.Input((2,))
    states = [L.Dense(5, name=name)(z) for name in ("f", "b")]
    model = scatter(keras.Model([x, z], L.Dense(2, name="c")(L.Bidirectional(L.SimpleRNN(5), name="a")(x, initial_state=states))), dead=0.0)
    change(model, "c", "kernel", np.s_[[1, 5 + 2]])
    for layer, unit in ((model.get_layer("a").forward_layer, 1), (model.get_layer("a").backward_layer, 2)):
        kernel, recurrent, bias = layer.get_weights()
        recurrent[unit] = 0
        layer.set_weights([kernel, recurrent, bias])
    small = check(model)
    assert [small.get_layer(name).units for name in ("f", "b")] == [4, 4]


def attention(mask=False, **arguments):
    x = keras.Input((4, 6))
    given = {"attention_mask": keras.Input((4, 4), dtype="bool")} if mask else {}
    y = L.MultiHeadAttention(3, 4, name="a", **arguments)(x, x, **given)
    return scatter(keras.Model([x, *given.values()], L.Dense(2)(y)), dead=0.0)


def test_heads_that_nothing_reads_or_that_say_the_same():
    for mask in (False, True):
        model = attention(mask)
        change(model, "a", "attention_output/kernel", np.s_[0])
        assert compact(model).get_layer("a").num_heads == 2
        # Its values are its bias: a constant, unless a mask may hide all of them.
        change(model, "a", "value/kernel", np.s_[:, 1])
        assert compact(model).get_layer("a").num_heads == (2 if mask else 1)
        check(model)
        change(model, "a", "value/bias", np.s_[1])
        assert compact(model).get_layer("a").num_heads == 1
        check(model)


def test_dimensions_of_heads():
    model = attention()
    change(model, "a", "query/kernel", np.s_[:, 0, 1])
    change(model, "a", "query/bias", np.s_[0, 1])
    assert compact(model).get_layer("a").key_dim == 4
    for head, dimension in ((1, 0), (2, 3)):
        change(model, "a", "key/kernel", np.s_[:, head, dimension])
        change(model, "a", "key/bias", np.s_[head, dimension])
    change(model, "a", "attention_output/kernel", np.s_[:, 2])
    small = check(model).get_layer("a")
    assert (small.num_heads, small.key_dim, small.value_dim) == (3, 3, 3)
    change(model, "a", "attention_output/kernel", np.s_[1])
    assert check(model).get_layer("a").num_heads == 2


def test_key_value_heads_go_with_their_queries():
    x = keras.Input((4, 6))
    model = scatter(keras.Model(x, L.Dense(2)(L.GroupQueryAttention(4, 6, 3, name="a")(x, x))), dead=0.0)
    change(model, "a", "attention_output/kernel", np.s_[[0, 1, 2]])
    small = check(model).get_layer("a")
    assert (small.num_query_heads, small.num_key_value_heads) == (4, 2)


def test_dimensions_of_an_embedding():
    x = keras.Input((4,), dtype="int32")
    model = scatter(keras.Model(x, L.Dense(2, name="b")(L.Embedding(9, 6, name="a")(x))), dead=0.0)
    change(model, "a", "embeddings", np.s_[:, [1, 2]], [0.7, 0.0])
    change(model, "b", "kernel", np.s_[3])
    assert_widths(model, a=3)
    assert not compaction_plan(model).blockers
    change(model, "a", "embeddings", np.s_[[4, 7]])
    (blocker,) = compaction_plan(model).blockers
    assert (blocker.layer, blocker.width, blocker.constant) == ("a", 9, 2)
    assert "rows" in blocker.reason


def test_parts_of_a_concatenation():
    x = keras.Input((5,))
    y = L.Concatenate()([L.Dense(4, "relu", name="a")(x), L.Dense(3, "relu", name="b")(x)])
    model = scatter(keras.Model(x, L.Dense(2, name="c")(y)), dead=0.0)
    change(model, "c", "kernel", np.s_[[0, 1, 4]])
    assert_widths(model, a=2, b=2)


def test_flatten_and_permute():
    x = keras.Input((4, 3, 2))
    y = L.Permute((2, 1, 3))(L.Conv2D(5, 2, activation="relu", name="a")(x))
    model = scatter(keras.Model(x, L.Dense(2, name="b")(L.Flatten()(y))), dead=0.0)
    change(model, "b", "kernel", np.s_[2::5])
    change(model, "b", "kernel", np.s_[3:8:5])  # at one place of many
    assert_widths(model, a=4)


def test_prelu():
    model = keras.Sequential([keras.Input((3, 5)), L.Dense(6, name="a"), L.PReLU(name="p"), L.Dense(2)])
    scatter(model, dead=0.0)
    change(model, "a", "kernel", np.s_[:, [0, 1, 2]])
    change(model, "a", "bias", [0, 1, 2], [1.0, -1.0, -1.0])
    change(model, "p", "alpha", np.s_[:, 1], 0.3)  # the same slope at all places
    assert_widths(model, a=4, p=4)


def test_barriers_hold_and_are_named():
    model = keras.Sequential(
        [keras.Input((5,)), L.Dense(6, "relu", name="a"), L.LayerNormalization(name="n"), L.Dense(4, name="b"), L.Dense(2, name="c")]
    )
    scatter(model, dead=0.0)
    change(model, "a", "kernel", np.s_[:, 1])
    change(model, "c", "kernel", np.s_[1])
    assert_widths(model, a=6, b=3)
    (blocker,) = compaction_plan(model).blockers
    assert (blocker.layer, blocker.width, blocker.constant, blocker.reason) == ("n", 6, 1, "normalizes over its channels")
    assert "n keeps 6 units, 1 of them constant: normalizes over its channels." in str(compaction_plan(model))


def test_inputs_that_nothing_reads():
    a, b = keras.Input((5,), name="a"), keras.Input((4,), name="b")
    y = L.Concatenate()([L.Dense(3, name="one")(a), b])
    model = scatter(keras.Model([a, b], L.Dense(2, name="two")(y)), dead=0.0)
    change(model, "one", "kernel", np.s_[[1, 3]])
    change(model, "two", "kernel", np.s_[3])
    assert compaction_plan(model).unread_inputs == {"a": (1, 3), "b": (0,)}
    assert [tensor.shape[1] for tensor in compact(model).inputs] == [5, 4]
    small, features = compact(model, inputs=True)
    assert [list(kept) for kept in features] == [[0, 2, 4], [1, 2, 3]]
    x = examples(model)
    cut = [keras.ops.take(tensor, kept, axis=1) for tensor, kept in zip(x, features, strict=True)]
    assert difference(outputs(model, x), outputs(small, cut)) < 1e-6
    assert compaction_plan(model, inputs=True).total.parameters[1] == small.count_params() == model.count_params() - 8


def test_an_input_of_which_nothing_is_read_keeps_one_feature():
    model = dense()
    change(model, "a", "kernel", np.s_[:])
    small, (kept,) = compact(model, inputs=True)
    assert len(kept) == 1
    x = examples(model)
    assert difference(outputs(model, x), outputs(small, x[:, :1])) < 1e-6


def test_channels_first():
    if BACKEND == "tensorflow":  # which on a CPU has no such convolution
        return
    kwargs = {"data_format": "channels_first"}
    layers = [L.Conv2D(6, 3, padding="same", activation="relu", name="a", **kwargs), L.BatchNormalization(axis=1, name="n")]
    layers += [L.DepthwiseConv2D(2, **kwargs), L.MaxPooling2D(2, padding="same", **kwargs), L.Conv2D(5, 2, name="b", **kwargs)]
    model = keras.Sequential([keras.Input((3, 9, 8)), *layers, L.Flatten(**kwargs), L.Dense(2, name="c")])
    scatter(model, dead=0.0)
    change(model, "a", "kernel", np.s_[..., 2])
    change(model, "c", "kernel", np.s_[1::5])
    assert_widths(model, a=5, n=5, b=4)


def test_plan_as_plain_values():
    model = dense()
    change(model, "a", "kernel", np.s_[:, 1])
    plan = compaction_plan(model).to_dict()
    assert plan["total"] == {
        "name": "total",
        "kind": None,
        "width": None,
        "parameters": [57, 48],
        "macs": [48, 40],
        "bytes": [228, 192],
    }
    assert plan["layers"][0] == {
        "name": "a",
        "kind": "Dense",
        "width": [6, 5],
        "parameters": [36, 30],
        "macs": [30, 25],
        "bytes": [144, 120],
    }
