"""Where a wrong model would be easy to make: it is right, or nothing is taken out and the plan says why, or there is an error."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from small_networks import check, examples, outputs, scatter

from keras_reg.models import compact, compaction_plan, compaction_rule, structural_groups
from keras_reg.models.compaction.activations import entrywise
from keras_reg.models.compaction.rule import Rule

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def inner(*layers):
    return keras.Sequential([keras.Input((6,)), *layers])


def vector(function, *shape):
    x = keras.Input(shape or (6,))
    return keras.Model(x, L.Dense(3)(function(x)))


@case
def arguments_by_name():
    x = keras.Input((5, 6))
    y = L.Dense(8, "relu")(inputs=x)
    return keras.Model(x, L.Dense(3)(L.MultiHeadAttention(2, 3)(query=y, value=y)))


@case
def states_as_arrays():
    states = [np.ones((3, 8), "float32"), np.ones((3, 8), "float32")]
    return vector(lambda x: L.LSTM(8)(x, initial_state=states), 5, 6)


@case
def scores_of_attention():
    x = keras.Input((5, 6))
    y, scores = L.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True)
    return keras.Model(x, [L.Dense(3)(y), scores])


@case
def batch_statistics():
    return vector(lambda x: L.BatchNormalization()(L.Dense(8)(x), training=True))


@case
def nested_batch_statistics():
    layers = inner(L.Dense(7), L.BatchNormalization(), L.Dense(6))
    return vector(lambda x: layers(x) + layers(x * 2.0, training=True))


@case
def nested_batch_statistics_first():
    layers = inner(L.Dense(7), L.BatchNormalization(), L.Dense(6))
    return vector(lambda x: layers(layers(x * 2.0, training=True)))


@case
def batch_statistics_of_a_shared_layer():
    dense, normalization = L.Dense(8), L.BatchNormalization()
    return vector(lambda x: L.Concatenate()([normalization(dense(x), training=True), normalization(dense(x * 2.0))]))


@case
def distributed_batch_statistics():
    return vector(lambda x: L.TimeDistributed(inner(L.Dense(7), L.BatchNormalization()))(x, training=True), 5, 6)


@case
def a_layer_within_and_without_a_wrapper():
    dense = L.Dense(8, "relu")
    x, z = keras.Input((5, 6)), keras.Input((6,))
    return keras.Model([x, z], [L.Dense(3)(L.TimeDistributed(dense)(x)), L.Dense(3)(dense(z))])


@case
def inputs_by_name_in_another_order():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    within = keras.Model({"b": b, "a": a}, L.Dense(3)(L.Dense(8, "relu")(a) + L.Dense(8)(b)))
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    return keras.Model({"x": x, "y": y}, within({"a": L.Dense(4, "relu")(y), "b": L.Dense(4)(x)}))


@case
def sums_over_an_axis_that_the_kernel_lacks():
    return vector(lambda x: L.EinsumDense("abc,cd->ad", 8, bias_axes="d")(L.Dense(5, "sigmoid")(x)), 4, 6)


@case
def a_bias_along_an_axis_before_the_last():
    return vector(lambda x: L.EinsumDense("abc,bd->adc", (5, 6), bias_axes="d")(x), 4, 6)


@case
def einsum_along_two_axes():
    dense = L.EinsumDense("abc,cd->abd", (6, 6))
    return vector(lambda x: dense(L.Dense(6)(x)) + dense(L.Permute((2, 1))(L.Dense(6)(x))), 6, 6)


@case
def statistics_beside_the_variables():
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(50, 6)))
    return vector(lambda x: L.Dense(8, "relu")(normalization(x)))


@case
def states_kept_between_calls():
    x = keras.Input(batch_shape=(3, 5, 6))
    return keras.Model(x, L.Dense(3)(L.LSTM(8, stateful=True)(x)))


@case
def arrays_within_operations():
    return vector(lambda x: ops.clip(L.Dense(8)(x), np.full(8, -0.1, "float32"), np.ones(8, "float32")))


@case
def arrays_as_operands():
    return vector(lambda x: L.Dense(8)(x) + np.linspace(-1, 1, 8, dtype="float32"))


@case
def a_start_for_a_maximum():
    return vector(lambda x: ops.max(L.Dense(8)(x), axis=1, initial=0.2), 4, 6)


@case
def squeezed_where_one_unit_is_left():
    x = keras.Input(batch_shape=(3, 6))
    return keras.Model(x, L.Dense(3)(ops.squeeze(ops.expand_dims(L.Dense(2, "relu")(x), 1))))


@case
def one_unit_spread_over_others():
    return vector(lambda x: L.Dense(8)(x) * L.Dense(1)(x) + L.Dense(1)(x))


@case
def a_slope_along_two_axes():
    slope = L.PReLU()
    return vector(lambda x: slope(L.Dense(6)(x)) + slope(L.Permute((2, 1))(L.Dense(6)(x))), 6, 6)


@case
def numbers_for_units_that_are_held_elsewhere():
    rescaling = L.Rescaling(np.linspace(0.5, 2, 8).tolist())
    return vector(lambda x: L.Concatenate()([rescaling(L.Dense(8)(x)), rescaling(L.LayerNormalization()(L.Dense(8)(x)))]))


@case
def numbers_along_another_axis():
    rescaling = L.Rescaling(np.linspace(0.5, 2, 6).tolist())
    return vector(lambda x: L.Permute((2, 1))(rescaling(L.Permute((2, 1))(L.Dense(6, "relu")(x)))), 6, 6)


def split_twice(second):
    """One operation on units that may leave, and on others."""
    x = keras.Input((8, 8))
    split = keras.Model(x, ops.split(x, 2, axis=-1)).operations[-1]
    x = keras.Input((8, 6))
    (one, other), (three, four) = split(L.Dense(8, "relu")(x)), split(second(L.Dense(8, "relu")(x)))
    return keras.Model(x, L.Dense(3)(one * other + three * four))


CASES["parts along two axes"] = lambda: split_twice(L.Permute((2, 1)))
CASES["parts of units that are held"] = lambda: split_twice(L.LayerNormalization())


@case
def a_shape_for_two_widths():
    flat = L.Reshape((-1,))
    x, y = keras.Input((8,)), keras.Input((4, 6))
    return keras.Model([x, y], [L.Dense(3)(flat(L.Dense(5, "relu")(x))), L.Dense(3)(flat(L.Dense(5, "relu")(y)))])


@case
def a_shape_for_a_width_that_is_held():
    shape = L.Reshape((4, 1, 8))
    return vector(lambda x: shape(L.Dense(8, "relu")(x)) + shape(L.LayerNormalization()(L.Dense(8, "relu")(x))), 4, 8)


@case
def functions_nobody_can_look_into():
    factor = 2.0
    return vector(lambda x: L.Lambda(lambda y: ops.sin(y) * factor)(L.Dense(8)(x)))


class Tripled(keras.Model):
    def call(self, *arguments, **keywords):
        return super().call(*arguments, **keywords) * 3.0


@case
def a_nested_model_with_its_own_call():
    x = keras.Input((6,))
    return vector(Tripled(x, L.Dense(5)(L.Dense(8, "relu")(x))))


@case
def a_shape_of_noise():
    return vector(lambda x: L.Dropout(0.5, noise_shape=(None, 1, 8))(L.Dense(8, "relu")(x)), 4, 6)


@case
def noise_in_predictions():
    return vector(lambda x: L.Dropout(0.5, seed=3)(L.Dense(8, "relu")(x), training=True))


@case
def low_rank_updates():
    layer = L.Dense(8, "relu")
    model = vector(lambda x: layer(L.Dense(7, "relu")(x)))
    layer.enable_lora(2)
    return model


@case
def parts_of_the_units():
    def parts(x):
        y = L.Dense(8)(x)
        one, other = ops.split(y, 2, axis=-1)
        return one * other + y[:, :4] + ops.take(y, [1, 3, 3, 0], axis=1)

    return vector(parts)


@case
def means_over_the_batch():
    def centred(x):
        y = L.Dense(8, "relu")(x)
        return y - ops.mean(y, axis=0, keepdims=True)

    return vector(centred)


@case
def pooling_along_the_units():
    return vector(lambda x: L.MaxPooling1D(3, 1, "same", data_format="channels_first")(L.Dense(8, "relu")(x)), 5, 6)


@case
def cells():
    return vector(lambda x: L.RNN([L.LSTMCell(4), L.GRUCell(5)])(L.Dense(7)(x)), 5, 6)


@case
def inputs_and_hidden_units_as_outputs():
    x = keras.Input((6,))
    y = L.Dense(8, "relu")(x)
    return keras.Model(x, [x, L.Dense(3)(y), y, y])


# What is handed on beside the first argument


def with_mask(layer, mask=lambda x: ops.cast(L.Dense(6, "relu")(x), "bool"), **arguments):
    """`layer` on an input of shape `(6, 5)`, with a mask that a dense layer makes; each of its units says more than that it is there."""
    x = keras.Input((6, 5))
    return keras.Model(x, L.Dense(3)(layer(x, mask(x))))


MASKED = {
    "attention": lambda x, m: L.MultiHeadAttention(2, 3)(x, x, attention_mask=m),
    "grouped attention": lambda x, m: L.GroupQueryAttention(3, 2, 1)(x, x, attention_mask=m),
    "pooling": lambda x, m: L.GlobalAveragePooling1D()(x, mask=m[:, 0]),
    "LSTM": lambda x, m: L.LSTM(4)(x, mask=m[:, 0]),
    "GRU": lambda x, m: L.GRU(4)(x, mask=m[:, 0]),
    "SimpleRNN": lambda x, m: L.SimpleRNN(4)(x, mask=m[:, 0]),
    "Bidirectional": lambda x, m: L.Bidirectional(L.LSTM(4))(x, mask=m[:, 0]),
    "TimeDistributed": lambda x, m: L.TimeDistributed(L.Dense(4))(x, mask=m[:, 0]),
}


def within(layer):
    """The same in a nested model that is given the mask."""

    def call(x, m):
        inside = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in (x, m)]
        return keras.Model(inside, layer(*inside))([x, m])

    return call


for _name, _layer in MASKED.items():
    CASES[f"a mask for {_name}"] = lambda layer=_layer: with_mask(layer)
    CASES[f"a mask for {_name} within"] = lambda layer=_layer: with_mask(within(layer))
CASES["a mask of numbers"] = lambda: with_mask(
    lambda x, m: L.MultiHeadAttention(2, 3)(x, x, attention_mask=m), lambda x: L.Dense(6, "relu")(x)
)


@case
def maxima_of_what_is_masked():
    x = keras.Input((6,), dtype="int32")
    one, other = (L.Embedding(9, 5, mask_zero=True)(y) for y in (x, ops.maximum(x - 2, 0)))
    return keras.Model(x, [L.Dense(3)(kind()([L.Dense(8)(one), L.Dense(8)(other)])) for kind in (L.Maximum, L.Minimum, L.Multiply)])


@case
def layers_called_on_lists():
    def several(x):
        a, b = L.Dense(8)(x), L.Dense(8, "relu")(x)
        a, b = L.Identity()([a, b])
        return a * b

    return vector(several)


def test_a_layer_that_does_not_run_on_lists():
    """It makes a list of outputs when the model is built, and one tensor when it runs: an error of Keras's, and none of ours."""
    x = keras.Input((6,))
    model = keras.Model(x, L.Activation("relu")([L.Dense(8)(x), L.Dense(8)(x)]))
    assert compaction_plan(scatter(model)).total.parameters == (112, 112)
    assert compact(model).count_params() == 112


class Weighted(L.Layer):
    """Takes its tensors as they come."""

    def call(self, *tensors, scale=None, **more):
        total = sum(tensors) + sum(more.values())
        return total if scale is None else total * scale


@case
def tensors_in_any_order():
    return vector(lambda x: Weighted()(L.Dense(8)(x), L.Dense(8)(x), scale=L.Dense(8)(x), more=L.Dense(8)(x)))


@case
def a_second_call_in_training_mode():
    attention = L.MultiHeadAttention(2, 3)
    return vector(lambda x: attention(x, x) + attention(x, x, training=True), 5, 6)


@case
def low_rank_updates_of_attention():
    attention = L.MultiHeadAttention(2, 3)
    model = vector(lambda x: attention(L.Dense(7)(x), x), 5, 6)
    for part in (attention._query_dense, attention._output_dense):
        part.enable_lora(2)
    return model


class Uncountable:
    """Compares as equal to all of its kind, and so has no hash."""

    def __eq__(self, other):
        return isinstance(other, Uncountable)

    def __call__(self, x):
        return ops.softmax(x * 2.0)


@case
def activations_of_every_kind():
    from functools import partial

    def several(x):
        for activation in (Uncountable(), partial(keras.activations.relu, max_value=1.0), partial(keras.activations.softmax, axis=-1)):
            x = L.Activation(activation)(L.Dense(8, activation)(x))
        return x

    return vector(several)


# Jumps: another order of a sum would be on the other side


def jump(function):
    """What is zero up to rounding goes through a function that jumps there."""
    x = keras.Input((6,))
    one, other, three = (L.Dense(4, name=name)(x) for name in ("one", "other", "three"))
    model = keras.Model(x, L.Dense(3)(L.Concatenate()([function(one + other), three])))

    def constant():
        for name, value in (("one", 0.1), ("other", 0.2)):
            layer = model.get_layer(name)
            layer.set_weights([np.zeros((6, 4)), np.full(4, value)])
        return model

    return model, constant


JUMPS = {
    "sign": lambda x: ops.sign(x - 0.3),
    "threshold": lambda x: L.ReLU(threshold=0.3)(x),
    "shrink": lambda x: ops.hard_shrink(x, 0.3),
    "remainder": lambda x: ops.mod(x, 0.3),
    "whole": lambda x: ops.floor_divide(x, 0.3),
    "pole": lambda x: ops.reciprocal(x - 0.3 + 1e-6),
    "quotient": lambda x: 1e-6 / (x - 0.3 + 1e-7),
    "index": lambda x: ops.cast(ops.cast(x * 10.0, "int32"), "float32"),
}


@pytest.mark.parametrize("name", JUMPS)
def test_constants_where_functions_jump(name):
    model, constant = jump(JUMPS[name])
    scatter(model, dead=0.0)
    check(constant())


# Equations of every kind; where Keras on TensorFlow adds a bias along another axis, nothing is cut


EQUATIONS = {
    ("ab,bcd->acd", (2, 4), (6,)): (None, "c", "d", "cd"),
    ("abc,cd->abd", (5, 7), (5, 6)): (None, "b", "d", "bd"),
    ("abc,cde->abde", (5, 2, 4), (5, 6)): (None, "d", "e", "de", "be"),
    ("abc,cde->abed", (5, 4, 2), (5, 6)): (None, "d", "e", "de"),
    ("abc,cde->aebd", (4, 5, 2), (5, 6)): (None, "e", "ed"),
    ("abcd,cde->abe", (5, 7), (5, 3, 6)): (None, "e"),
    ("ab...,bc->ac...", (4,), (6, 5)): (None, "c"),
    ("...ab,bc->...ac", (6, 7), (5, 6, 6)): (None, "c"),
    ("abc,bd->adc", (5, 6), (4, 6)): (None, "d"),
}


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda equation: equation[0])
def test_equations(equation):
    pattern, shape, inputs = equation
    for number, axes in enumerate(EQUATIONS[equation]):
        x = keras.Input(inputs)
        y = L.EinsumDense(pattern, shape, bias_axes=axes, activation="sigmoid")(L.Dense(inputs[-1], "relu")(x))
        model = scatter(keras.Model(x, L.Dense(3)(L.Flatten()(y))), number)
        structural_groups(model)
        check(model)


def test_a_bias_that_keras_adds_along_another_axis():
    """With five units the bias of one axis is as long as the last axis: it must not come to that by a cut."""
    x = keras.Input((4, 5))
    model = keras.Model(x, L.EinsumDense("abc,bd->adc", (6, 5), bias_axes="d", name="a")(x))
    model = scatter(keras.Model(x, L.Dense(2, name="b")(L.Permute((2, 1))(model(x)))), dead=0.0)
    kernel, bias = model.get_layer("b").get_weights()
    kernel[2] = 0
    model.get_layer("b").set_weights([kernel, bias])
    check(model, fewer=False)
    kernel[1] = 0
    model.get_layer("b").set_weights([kernel, bias])
    check(model, fewer=True)


class Scaled(L.Dense):
    def call(self, x):
        return super().call(x) * 2.0


@case
def a_layer_of_another_class():
    return vector(lambda x: Scaled(8, "relu")(L.Dense(7)(x)))


@pytest.mark.parametrize("name", CASES)
# On JAX every shape of every network is compiled.
@pytest.mark.parametrize("seed", range(1 if keras.backend.backend() == "jax" else 3))
def test_equal_all_the_same(name, seed):
    check(scatter(CASES[name](), seed), constant=True)


def test_weights_that_are_not_numbers():
    """Zero times infinity is not zero: what reads a constant by it cannot do without."""
    model = scatter(inner(L.Dense(6, "relu", name="a"), L.Dense(3, name="b")), dead=0.0)
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        if layer.name == "b":
            kernel[0, 1], kernel[2, 0] = np.inf, np.nan
        else:
            kernel[:, [0, 2]] = 0
            bias[[0, 2]] = 0, 0.5
        layer.set_weights([kernel, bias])
    x = examples(model)
    with np.errstate(all="ignore"):
        before, after = outputs(model, x)[0], outputs(compact(model), x)[0]
    np.testing.assert_array_equal(np.isnan(before), np.isnan(after))


def test_lengths_that_are_not_known():
    """The other operand has one row or four when the model runs: so four stay."""
    a, b = keras.Input((4, 5)), keras.Input((None, 5))
    y = L.Permute((2, 1))(L.Dense(4)(L.Permute((2, 1))(a)))
    model = keras.Model([a, b], L.Dense(2)(y * L.Dense(5)(b)))
    for seed in range(3):
        scatter(model, seed)
        for length in (4, 1):
            check(model, inputs=examples(model, length=length), constant=True)
    free, held = keras.Input((None, 8)), keras.Input((4,))
    model = keras.Model([free, held], [L.Reshape((-1, 4))(L.Dense(8, "relu")(free)), L.Dropout(0.1)(held)])
    check(scatter(model, 1), fewer=False)
    assert compaction_plan(model).total.parameters[0] == 72


class Plain(keras.Model):
    def call(self, x):
        return x


def test_errors():
    x = keras.Input((6,))
    subclassed = Plain()
    subclassed.build((None, 3))
    for call in (compact, compaction_plan, structural_groups):
        with pytest.raises(TypeError, match=r"Argument `model` must be a Keras model. Received: model=3"):
            call(3)
        with pytest.raises(ValueError, match="Argument `model` must be built"):
            call(keras.Sequential([L.Dense(3)]))
        with pytest.raises(ValueError, match="a subclassed Plain: only its own code knows"):
            call(subclassed)
        with pytest.raises(ValueError, match="a subclassed Tripled"):
            call(Tripled(x, L.Dense(5)(x)))


class Cube(L.Layer):
    def call(self, x):
        return x**3


def test_rules_of_ones_own():
    model = scatter(vector(lambda x: Cube(name="cube")(L.Dense(8, "relu", name="a")(x))), 1)
    assert {blocker.reason for blocker in compaction_plan(model).blockers} == {"there is no rule for Cube"}
    check(model, fewer=False)
    compaction_rule(Cube, "entrywise")
    assert compaction_plan(model).blockers == ()
    check(model, fewer=True)
    with pytest.raises(TypeError, match="Argument `layer_class` must be a class of Keras layers"):
        compaction_rule(Cube())
    with pytest.raises(TypeError, match=r"Argument `rule` must be 'entrywise' or a subclass of Rule. Received: rule='channelwise'"):
        compaction_rule(Cube, "channelwise")


def squared_relu(x):
    return ops.square(ops.relu(x))


class Swished:
    """An activation with a setting."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return x * ops.sigmoid(self.slope * x)


def test_activations_of_ones_own():
    def activated(activation):
        return scatter(vector(lambda x: L.Dense(5, activation)(L.Activation(activation)(L.Dense(8, name="a")(x)))), 1)

    for activation, told in ((squared_relu, squared_relu), (Swished(2.0), Swished)):
        model = activated(activation)
        assert all("not known to" in blocker.reason for blocker in compaction_plan(model).blockers)
        check(model, fewer=False)
        compaction_rule(told)
        assert compaction_plan(model).blockers == ()
        check(model, fewer=True)
    # Functions that Keras does not have, or layers around them: it is known what they do.
    for activation in (L.Activation("tanh"), L.LeakyReLU(0.3)):
        check(activated(activation), fewer=True)
    with pytest.raises(TypeError, match=r"an activation function or a class of such. Received: layer_class=<"):
        compaction_rule(Swished(1.0))
    with pytest.raises(TypeError, match=r"must be 'entrywise' for what is no layer. Received: rule=<class"):
        compaction_rule(squared_relu, Rule)


def test_activations_of_the_backends():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        functions, mixing = (tf.nn.relu, tf.nn.swish, tf.math.tanh), tf.nn.softmax
    elif backend == "jax":
        import jax

        functions, mixing = (jax.nn.relu, jax.nn.gelu, jax.numpy.tanh), jax.nn.softmax
    else:
        import torch

        functions, mixing = (torch.nn.functional.relu, torch.nn.functional.silu, torch.tanh), torch.softmax
    for function in functions:
        assert entrywise(function)
    assert not entrywise(mixing)
    check(scatter(inner(L.Dense(8, functions[0]), L.Dense(3)), 1), fewer=True)


def test_a_weight_that_an_operation_takes_is_still_the_layers():
    x = keras.Input((5, 4))
    hidden = keras.layers.Dense(6, name="hidden")
    y = keras.layers.Dense(4, name="back")(hidden(x))
    y = keras.ops.matmul(y, hidden.kernel) + hidden.bias
    model = keras.Model(x, keras.layers.Dense(2, name="last")(y))
    kernel, bias = hidden.get_weights()
    kernel[:, 2] = bias[2] = 0
    hidden.set_weights([kernel, bias])
    small = compact(model)
    blockers = {blocker.layer: blocker.reason for blocker in compaction_plan(model).blockers}
    assert blockers["hidden"] == "has a weight that matmul takes, too"
    numbers = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    before = model.predict(numbers, verbose=0)
    np.testing.assert_allclose(small.predict(numbers, verbose=0), before, rtol=1e-5)
    # What is done to the new layer's weights is done to what the operations take, and the old model has nothing to do with it.
    hidden.set_weights([2 * kernel, bias + 1])
    other = model.predict(numbers, verbose=0)
    hidden.set_weights([kernel, bias])
    small.get_layer("hidden").set_weights([2 * kernel, bias + 1])
    np.testing.assert_allclose(small.predict(numbers, verbose=0), other, rtol=1e-5)
    np.testing.assert_allclose(model.predict(numbers, verbose=0), before, rtol=1e-5)
