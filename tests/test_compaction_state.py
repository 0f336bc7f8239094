"""What a compacted model keeps beside its outputs: names, dtypes, flags, penalties, how it was compiled, and what its optimizer knew."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L
from small_networks import arrays, check, difference, examples, outputs, scatter
from steps import OPTIMIZERS as STEPS

import keras_reg
from keras_reg.models import compact
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import GroupLasso

KERAS = tuple(map(int, keras.__version__.split(".")[:2]))


def network(**arguments):
    x = keras.Input((5,), name="features")
    y = L.Dense(6, "relu", name="a", **arguments)(x)
    y = L.BatchNormalization(name="n")(y)
    inside = keras.Input((6,))
    inner = keras.Model(inside, L.Dense(4, "tanh", name="within")(inside), name="inner")
    return keras.Model(x, L.Dense(3, name="b")(inner(y)), name="whole")


def dead(model, units=(1, 2)):
    """Of the first layer; whatever reads them, too, so that training keeps them dead."""
    scatter(model, dead=0.0)
    kernel, bias = model.get_layer("a").get_weights()
    kernel[..., list(units)] = 0
    bias[list(units)] = -1
    model.get_layer("a").set_weights([kernel, bias])
    return model


def test_names_paths_and_structure():
    model = dead(network())
    small = compact(model)
    assert small.name == model.name
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert [tensor.name for tensor in small.inputs] == ["features"]
    assert small.output_names == model.output_names
    assert [weight.path for weight in small.weights] == [weight.path for weight in model.weights]
    assert small.get_layer("inner").get_layer("within").input.shape == (None, 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_dtypes(dtype):
    layers = [L.Dense(6, "relu", dtype=dtype, name="a"), L.Dense(3, dtype=dtype)]
    model = dead(keras.Sequential([keras.Input((5,)), *layers]))
    # Eleven bits of a float16 and eight of a bfloat16 hold the constants that are folded.
    small = check(model, tolerance=1e-2 if dtype.endswith("bfloat16") else 2e-3)
    assert small.layers[0].units == 4
    for old, new in zip(model.layers, small.layers, strict=True):
        assert old.dtype_policy.name == new.dtype_policy.name == dtype
        assert [weight.dtype for weight in old.weights] == [weight.dtype for weight in new.weights]


def test_trainable_flags():
    model = dead(network())
    model.get_layer("inner").get_layer("within").trainable = False
    model.get_layer("n").trainable = False
    model.get_layer("b").bias.trainable = False
    small = check(model)
    assert [weight.path for weight in small.trainable_weights] == [weight.path for weight in model.trainable_weights]
    model.trainable = False
    assert compact(model).trainable_weights == []
    assert not compact(model).trainable


def test_penalties():
    model = dead(network(kernel_regularizer=keras.regularizers.L2(0.1), bias_regularizer=keras_reg.regularizers.L1(0.2)))
    model.get_layer("b").kernel.regularizer = GroupLasso(0.3)  # on the variable alone
    small = check(model)
    found = {weight.path: weight.regularizer for weight in small.weights if weight.regularizer is not None}
    assert {path: type(penalty).__name__ for path, penalty in found.items()} == {"a/kernel": "L2", "a/bias": "L1", "b/kernel": "GroupLasso"}
    assert found["b/kernel"].strength == 0.3
    # The zeros that left had no penalty; biases of -1 had 0.2 each.
    small_losses, losses = (sum(float(keras.ops.stop_gradient(loss)) for loss in one.losses) for one in (small, model))
    np.testing.assert_allclose(small_losses, losses - 2 * 0.2, rtol=1e-4)


def test_constraints_and_fixed_initial_values():
    start = np.arange(30.0).reshape(5, 6).tolist()
    model = dead(network(kernel_initializer=keras.initializers.Constant(start), kernel_constraint=keras.constraints.MaxNorm(2.0, axis=0)))
    small = check(model)
    assert small.get_layer("a").kernel.constraint.max_value == 2.0
    assert keras.models.clone_model(small).get_layer("a").units == 4


def data(number=32):
    random = np.random.default_rng(0)
    return random.normal(size=(number, 5)).astype("float32"), random.normal(size=(number, 3)).astype("float32")


# Compiling takes longer than the steps, but on JAX, which compiles each operation then.
EAGER = keras.backend.backend() != "jax"

OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "Adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    # On JAX a second `fit` with an average fails in Keras itself.
    "AdamW": lambda: keras.optimizers.AdamW(0.01, clipvalue=1.0, use_ema=EAGER),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "Lion": lambda: keras.optimizers.Lion(0.001),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.02, 1, 0.5), momentum=0.9),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "Proximal": lambda: Proximal(keras.optimizers.SGD(0.01, momentum=0.9)),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_it_would_have(name):
    """Units that are dead on both sides have no gradients: what is left of the large model trains as the small one does."""
    x, y = data()
    penalty = {"kernel_regularizer": GroupLasso(1e-3, size_weights=False, proximal=True)} if name == "Proximal" else {}
    layers = [L.Dense(6, "relu", name="a"), L.Dense(3, name="b", **penalty)]
    model = dead(keras.Sequential([keras.Input((5,)), *layers]))
    kernel, bias = model.get_layer("b").get_weights()
    kernel[[1, 2]] = 0
    model.get_layer("b").set_weights([kernel, bias])
    model.compile(OPTIMIZERS[name](), "mse", metrics=["mae"], run_eagerly=EAGER)
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    small = compact(model)
    assert small.count_params() == 39
    assert type(small.optimizer) is type(model.optimizer)
    assert small.optimizer is not model.optimizer
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) > 0
    logs = [one.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history for one in (model, small)]
    for key in ("loss", "mae"):
        np.testing.assert_allclose(logs[0][key], logs[1][key], rtol=2e-4)
    kept = [0, 3, 4, 5]
    (kernel, bias, following, last), found = model.get_weights(), small.get_weights()
    for old, new in zip((kernel[:, kept], bias[kept], following[kept], last), found, strict=True):
        np.testing.assert_allclose(old, new, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Adafactor", *(["Muon"] if "Muon" in STEPS else [])])
def test_state_of_another_form_starts_anew(kind):
    x, y = data()
    model = dead(network())
    model.compile(getattr(keras.optimizers, kind)(0.001), "mse", run_eagerly=EAGER)
    model.fit(x, y, verbose=0)
    small = compact(dead(model))
    assert small.count_params() < model.count_params()
    assert np.isfinite(small.fit(x, y, verbose=0).history["loss"][0])


def test_compile_state():
    model = dead(network())
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.Huber(delta=0.5),
        metrics=[keras.metrics.MeanAbsoluteError(name="error"), "mse"],
        run_eagerly=True,
        steps_per_execution=1,
    )
    x, y = data()
    small = compact(model)
    assert small.run_eagerly
    assert float(small.optimizer.learning_rate) == pytest.approx(0.02)
    before, after = (one.evaluate(x, y, verbose=0, return_dict=True) for one in (model, small))
    assert before.keys() == after.keys() == {"loss", "error", "mse"}
    np.testing.assert_allclose(list(before.values()), list(after.values()), rtol=1e-5)
    assert not compact(dead(network())).compiled


class Doubled(keras.Model):
    def train_step(self, *arguments, **keywords):
        self.steps_taken = getattr(self, "steps_taken", 0) + 1
        return super().train_step(*arguments, **keywords)


class Listed(keras.Sequential):
    pass


class Special(Doubled):
    def __init__(self, size, **arguments):
        x = keras.Input((5,))
        super().__init__(x, L.Dense(3, name="b")(L.Dense(size, "relu", name="a")(x)), **arguments)


def test_own_classes():
    x = keras.Input((5,))
    model = dead(Doubled(x, L.Dense(3)(L.Dense(6, "relu", name="a")(x))))
    model.compile("sgd", "mse", run_eagerly=True)
    small = check(model)
    assert isinstance(small, Doubled)
    small.fit(*data(), verbose=0)
    assert small.steps_taken
    assert type(check(dead(Listed([keras.Input((5,)), L.Dense(6, "relu", name="a"), L.Dense(3)])))) is Listed


def test_a_class_with_its_own_constructor_is_lost_with_a_warning():
    model = dead(Special(6))
    with pytest.warns(UserWarning, match="becomes a plain keras.Model without the train_step of Special"):
        small = compact(model)
    x = examples(model)
    assert difference(outputs(model, x), outputs(small, x)) < 1e-6


LOADING = """
import sys
import numpy as np
import keras
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
found = keras.ops.convert_to_numpy(model(data["x"]))
assert np.abs(found - data["y"]).max() <= 1e-5 * np.abs(data["y"]).max(), np.abs(found - data["y"]).max()
model.fit(data["x"], data["y"], epochs=2, verbose=0)
"""


def test_saved_and_loaded_in_a_fresh_process(tmp_path):
    x = keras.Input((6, 6, 2))
    y = L.Conv2D(5, 3, activation="sigmoid", name="a")(x)
    y = L.Conv2D(4, 1, use_bias=False)(L.BatchNormalization()(y)) * 2.0
    y = L.Reshape((-1, 4))(y)
    y = L.MultiHeadAttention(2, 3)(y, y) + y
    model = dead(keras.Model(x, L.Dense(2)(L.Bidirectional(L.GRU(3))(y))))
    model.compile("adam", "mse")
    small = check(model, fewer=True)
    inputs = examples(model)
    small.save(tmp_path / "small.keras")
    np.savez(tmp_path / "data.npz", x=arrays(inputs)[0], y=outputs(model, inputs)[0])
    arguments = [sys.executable, "-c", LOADING, str(tmp_path / "small.keras"), str(tmp_path / "data.npz")]
    subprocess.run(arguments, check=True, timeout=300)
    again = keras.models.model_from_json(small.to_json())
    again.set_weights(small.get_weights())
    assert difference(outputs(small, inputs), outputs(again, inputs)) == 0


# State that is neither config nor variable


def discretized():
    x = keras.Input((5,))
    layer = L.Discretization(num_bins=4)
    layer.adapt(np.random.default_rng(0).normal(size=(100, 5)))
    return keras.Model(x, L.Dense(3)(L.Embedding(4, 6)(layer(x))))


def looked_up(layer, data, dtype="string"):
    layer.adapt(data)
    x = keras.Input((), dtype=dtype)
    return keras.Model(x, L.Dense(3)(L.Dense(6, "relu")(layer(x))))


@keras.saving.register_keras_serializable("tests")
class Remembering(L.Layer):
    """Keeps in attributes what its config does not have, and a layer within does as well."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.factor = 1.0
        self.within = L.Discretization(num_bins=3)

    def build(self, shape):
        self.weight = self.add_weight(shape=shape[1:], name="weight")

    def call(self, x):
        place = keras.ops.cast(self.within(keras.ops.stop_gradient(x)), x.dtype)
        return x * keras.ops.convert_to_tensor(self.factor, x.dtype) + self.weight + place


def remembering():
    x = keras.Input((5,))
    layer = Remembering()
    model = keras.Model(x, L.Dense(3)(layer(L.Dense(6, "relu")(x)))) if layer.within.adapt(np.arange(9.0)) is None else None
    layer.factor = np.linspace(1, 2, 6).astype("float32")
    return model


WORDS = np.array(["a", "b", "c", "d", "b", "c"])
STATES = {"a layer of the user's": remembering, "Discretization": discretized}
if keras.backend.backend() == "tensorflow":
    STATES |= {
        "StringLookup": lambda: looked_up(L.StringLookup(output_mode="one_hot"), WORDS),
        "IntegerLookup": lambda: looked_up(L.IntegerLookup(output_mode="one_hot"), np.array([5, 7, 9, 7]), "int64"),
        "TextVectorization": lambda: looked_up(L.TextVectorization(output_mode="tf_idf"), WORDS),
    }


@pytest.mark.parametrize("name", STATES)
def test_state_beside_config_and_variables(name, tmp_path):
    model = dead_units(STATES[name]())
    x = examples(model) if model.inputs[0].dtype != "string" else keras.ops.convert_to_tensor(["a", "d", "?"])
    small = check(model, inputs=x, constant=True)
    if name == "TextVectorization" and KERAS < (3, 14):  # which does not load what it counts by
        return
    small.save(tmp_path / "small.keras")
    if name != "a layer of the user's":  # which Keras does not keep either
        assert difference(outputs(model, x), outputs(keras.models.load_model(tmp_path / "small.keras"), x)) < 1e-6


def dead_units(model):
    for layer in model.layers:
        if isinstance(layer, L.Dense):
            kernel, bias = layer.get_weights()
            kernel[:, 1] = bias[1] = 0
            layer.set_weights([kernel, bias])
    return model


def test_a_feature_space():
    if keras.backend.backend() != "tensorflow":  # which its layers need
        return
    import tensorflow as tf

    space = keras.utils.FeatureSpace({"word": "string_categorical", "number": "float_discretized"}, output_mode="concat")
    data = {"word": WORDS, "number": np.linspace(0, 1, 6).astype("float32")}
    space.adapt(tf.data.Dataset.from_tensor_slices(data))
    model = dead_units(keras.Model(dict(space.get_inputs()), L.Dense(3)(L.Dense(6, "relu")(space.get_encoded_features()))))
    x = {key: keras.ops.convert_to_tensor(value)[:, None] for key, value in data.items()}
    check(model, inputs=x, fewer=True)


# What belongs to the old model stays its own


def everything():
    x = keras.Input((6, 5))
    y = L.Dropout(0.3, seed=1)(L.LayerNormalization()(L.Dense(6, "relu", name="a")(x)))
    normal = L.Normalization()
    normal.adapt(np.random.default_rng(0).normal(size=(20, 6)))
    y = L.MultiHeadAttention(2, 3, dropout=0.1, seed=2)(y, y) + normal(y)
    y = L.LSTM(4, dropout=0.1, seed=3)(L.BatchNormalization()(y))
    return keras.Model(x, L.Dense(3)(L.GaussianNoise(0.1, seed=4)(y)))


def test_nothing_is_shared_with_the_old_model():
    """On JAX, training and predicting give the memory of variables away: what two models share, the second finds deleted."""
    x, y = np.random.default_rng(0).normal(size=(4, 6, 5)).astype("float32"), np.zeros((4, 3), "float32")
    model = everything()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, verbose=0)
    small = compact(model)
    for one, other in ((model, small), (small, model)):
        one.fit(x, y, verbose=0)
        other.predict(x, verbose=0)
        one.predict(x, verbose=0)
        other.fit(x, y, verbose=0)
    mine, theirs = ([*m.variables, *m.optimizer.variables] for m in (model, small))
    assert not {id(variable.value) for variable in mine} & {id(variable.value) for variable in theirs}


# What no registry knows


class Doubling(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 2.0 * keras.ops.sum(x)


class Halving(keras.constraints.Constraint):
    def __call__(self, x):
        return 0.5 * x


class Bent(L.Layer):
    def call(self, x):
        return keras.ops.abs(x)


def test_objects_that_are_not_registered():
    kinds = {
        "kernel_regularizer": Doubling(),
        "bias_constraint": Halving(),
        "kernel_initializer": lambda shape, dtype: keras.ops.ones(shape),
    }
    model = dead(network(**kinds))
    small = check(model)
    assert isinstance(small.get_layer("a").kernel.regularizer, Doubling)
    assert isinstance(small.get_layer("a").bias.constraint, Halving)
    x = keras.Input((4, 5))
    y = L.MultiHeadAttention(2, 3, kernel_regularizer=Doubling(), bias_constraint=Halving())(x, x)
    y = L.LSTM(4, activation=lambda z: keras.ops.tanh(z) * 0.5, recurrent_constraint=Halving())(y)
    small = check(scatter(keras.Model(x, L.Dense(3, activation=Bent())(y)), 1))
    assert isinstance(small.layers[1]._query_dense.kernel.regularizer, Doubling)
    assert isinstance(small.layers[-1].activation, Bent)


class Refusing(L.Layer):
    def call(self, x):
        return x

    def get_config(self):
        raise AttributeError("this layer has no config")


def test_a_config_that_raises():
    x = keras.Input((5,))
    model = keras.Model(x, Refusing(name="refusing")(L.Dense(4)(x)))
    with pytest.raises(ValueError, match="Layer 'refusing' cannot be made again from its own config: AttributeError: this layer has no"):
        compact(model)


# What several layers share


@keras.saving.register_keras_serializable("tests")
class Tied(L.Layer):
    """Reads by the table of an embedding."""

    def __init__(self, embedding, **arguments):
        super().__init__(**arguments)
        self.embedding = embedding

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))

    def get_config(self):
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "embedding": keras.saving.deserialize_keras_object(config["embedding"])})


def test_layers_within_layers_stay_shared(tmp_path):
    x = keras.Input((4,), dtype="int32")
    embedding = L.Embedding(9, 6, name="e")
    model = scatter(keras.Model(x, Tied(embedding)(L.Dense(6, name="d")(embedding(x)))), 1)
    small = check(model, fewer=False)
    small.save(tmp_path / "small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").count_params() == model.count_params() == 96
    x = keras.Input((5,))
    slope = L.PReLU(name="slope")
    model = keras.Model(x, L.Dense(6, activation=slope)(L.Dense(6, activation=slope)(x)))
    model(np.ones((1, 5), "float32"))  # which builds the layer within
    small = check(scatter(model, 1))
    assert small.layers[1].activation is small.layers[2].activation
    assert small.layers[1].activation is not slope


# What the optimizer knew of which weight


def wide():
    layers = [L.Dense(6, "relu", name="a"), L.Dense(6, "relu", name="c"), L.Dense(3, name="b")]
    model = keras.Sequential([keras.Input((5,)), *layers])
    return dead(model)


def name_of(weight):
    return "/".join(weight.path.split("/")[-2:])


def momenta(model):
    """By the path of the weight, if the optimizer has any."""
    optimizer = model.optimizer
    known = optimizer._trainable_variables
    return {name_of(weight): np.array(keras.ops.convert_to_numpy(optimizer.momentums[i])) for i, weight in enumerate(known)}


def test_momenta_go_with_their_weights():
    """Not with their places, which freezing moves."""
    x, y = data()
    model = wide()
    model.get_layer("a").trainable = False
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", run_eagerly=EAGER)
    model.fit(x, y, verbose=0)
    before = momenta(model)
    model.get_layer("a").trainable, model.get_layer("c").trainable = True, False
    after = momenta(compact(model))
    assert before.keys() == {"c/kernel", "c/bias", "b/kernel", "b/bias"}
    assert after.keys() == {"a/kernel", "a/bias", "b/kernel", "b/bias"}
    for path in ("b/kernel", "b/bias"):
        np.testing.assert_array_equal(after[path], before[path])
        assert np.any(after[path])
    assert not np.any(after["a/kernel"])


def test_exclusions_from_weight_decay():
    model = wide()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("c").kernel], var_names=["bias"])
    model.compile(optimizer, "mse", run_eagerly=EAGER)
    for fitted in (False, True):
        if fitted:
            model.fit(*data(), verbose=0)
        small = compact(model)
        used = {name_of(weight) for weight in small.trainable_weights if small.optimizer._use_weight_decay(weight)}
        assert used == {"a/kernel", "b/kernel"}


def test_both_halves_of_factored_slots():
    """Adafactor keeps means over rows and over columns: each is cut along the axes that it has."""
    x, y = data()
    model = wide()
    model.compile(keras.optimizers.Adafactor(0.01), "mse", run_eagerly=EAGER)
    model.fit(x, y, verbose=0)
    kept = [0, 3, 4, 5]
    small = compact(dead(model))
    for name in ("_r", "_c", "_v"):
        before, after = ([np.array(slot) for slot in getattr(m.optimizer, name)] for m in (model, small))
        np.testing.assert_array_equal(after[2], before[2][kept] if name in ("_r", "_v") else before[2])
        np.testing.assert_array_equal(after[0], before[0] if name == "_r" else before[0][..., kept])
    small.fit(x, y, verbose=0)
