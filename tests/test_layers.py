"""Penalties wherever Keras takes a regularizer: layers, models, dtypes, compiled and not."""

import keras
import numpy as np
import pytest
from cases import CASES, IDS
from keras import layers, ops

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, MCP, SCAD, Grouped, GroupLasso, SparseGroupLasso, l1
from keras_reg.testing.autodiff import value_and_gradient

pytestmark = pytest.mark.filterwarnings("ignore:.*is proximal, but no optimizer")

BACKEND = keras.backend.backend()
KERAS = tuple(map(int, keras.__version__.split(".")[:2]))


def image(channels=3):
    return np.random.default_rng(0).normal(size=(2, 6, 6, channels)).astype("float32")


def sequence():
    return np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")


def volume():
    return np.random.default_rng(0).normal(size=(2, 4, 4, 4, 2)).astype("float32")


LAYERS = {
    "Dense": (lambda p: layers.Dense(3, kernel_regularizer=p), sequence),
    "Dense-bias": (lambda p: layers.Dense(3, bias_regularizer=p), sequence),
    "EinsumDense": (lambda p: layers.EinsumDense("abc,cde->abde", (None, 2, 3), kernel_regularizer=p), sequence),
    "Conv1D": (lambda p: layers.Conv1D(3, 2, kernel_regularizer=p), sequence),
    "Conv2D": (lambda p: layers.Conv2D(3, 2, kernel_regularizer=p), image),
    "Conv3D": (lambda p: layers.Conv3D(3, 2, kernel_regularizer=p), volume),
    "Conv2D-grouped": (lambda p: layers.Conv2D(4, 2, groups=2, kernel_regularizer=p), lambda: image(4)),
    "Conv1DTranspose": (lambda p: layers.Conv1DTranspose(3, 2, kernel_regularizer=p), sequence),
    "Conv2DTranspose": (lambda p: layers.Conv2DTranspose(3, 2, kernel_regularizer=p), image),
    "DepthwiseConv2D": (lambda p: layers.DepthwiseConv2D(2, depthwise_regularizer=p), image),
    "SeparableConv2D": (lambda p: layers.SeparableConv2D(4, 2, depthwise_regularizer=p, pointwise_regularizer=p), image),
    "Embedding": (lambda p: layers.Embedding(7, 3, embeddings_regularizer=p), lambda: np.arange(6).reshape(2, 3)),
    "BatchNormalization": (lambda p: layers.BatchNormalization(beta_regularizer=p, gamma_regularizer=p), image),
    "LayerNormalization": (lambda p: layers.LayerNormalization(beta_regularizer=p, gamma_regularizer=p), image),
    "PReLU": (lambda p: layers.PReLU(alpha_regularizer=p), image),
    "SimpleRNN": (lambda p: layers.SimpleRNN(3, kernel_regularizer=p, recurrent_regularizer=p, bias_regularizer=p), sequence),
    "LSTM": (lambda p: layers.LSTM(3, kernel_regularizer=p, recurrent_regularizer=p), sequence),
    "GRU": (lambda p: layers.GRU(3, kernel_regularizer=p, recurrent_regularizer=p, bias_regularizer=p), sequence),
    "Bidirectional": (lambda p: layers.Bidirectional(layers.LSTM(3, kernel_regularizer=p)), sequence),
    "TimeDistributed": (lambda p: layers.TimeDistributed(layers.Dense(3, kernel_regularizer=p)), sequence),
    "ConvLSTM1D": (
        lambda p: layers.ConvLSTM1D(2, 2, kernel_regularizer=p),
        lambda: np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype("float32"),
    ),
}
PENALTIES = {
    "L1": lambda: L1(0.1),
    "groups of the last axis": lambda: GroupLasso(0.1, axis=-1),
    "groups of the first axis": lambda: GroupLasso(0.1, axis=0),
    "MCP groups": lambda: Grouped(MCP(0.1), axis=0),
}


# A constraint has no gradient: without `Proximal` it is an error.
IN_THE_LOSS = [case for case in CASES if not getattr(case.make(), "constraint", False)]


def regularized(model):
    return [v for v in model.trainable_variables if v.regularizer is not None]


def total(model):
    return sum(float(ops.convert_to_numpy(loss)) for loss in model.losses)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, penalty):
    build, data = LAYERS[name]
    layer = build(PENALTIES[penalty]())
    layer(data())
    weights = regularized(layer)
    assert weights
    assert len(layer.losses) == len(weights)
    expected = sum(float(PENALTIES[penalty]()(ops.convert_to_numpy(v))) for v in weights)
    np.testing.assert_allclose(total(layer), expected, rtol=1e-5)


@pytest.mark.parametrize("attention", [layers.MultiHeadAttention, layers.GroupQueryAttention], ids=lambda c: c.__name__)
def test_attention(attention):
    heads = {"num_heads": 2} if attention is layers.MultiHeadAttention else {"num_query_heads": 2, "num_key_value_heads": 1}
    size = {"key_dim": 3} if attention is layers.MultiHeadAttention else {"head_dim": 3}
    # A kernel (inputs, heads, size): one group per head, and per input of the output projection.
    layer = attention(**heads, **size, kernel_regularizer=SparseGroupLasso(0.1, 0.2, axis=1))
    x = sequence()
    layer(x, x)
    weights = regularized(layer)
    assert len(weights) == 4
    expected = sum(float(SparseGroupLasso(0.1, 0.2, axis=1)(ops.convert_to_numpy(v))) for v in weights)
    np.testing.assert_allclose(total(layer), expected, rtol=1e-5)


@pytest.mark.parametrize("case", IN_THE_LOSS, ids=str)
def test_activity(case):
    penalty = case.make()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(4, activity_regularizer=penalty)(inputs))
    x = sequence().reshape(-1, 4)[:, :3]
    outputs = model(x)
    share = 1 / len(x) if KERAS >= (3, 14) else 1
    np.testing.assert_allclose(total(model), float(penalty(ops.convert_to_numpy(outputs))) * share, rtol=1e-5)
    if not case.name.endswith("hard"):
        model.compile("sgd", "mse")
        # The last batch is smaller: the size of the batch is unknown while the step is traced.
        model.fit(x, np.zeros((len(x), 4)), batch_size=4, verbose=0)


@pytest.mark.parametrize(
    ("build", "weights"),
    [
        (lambda: layers.Dense(3, kernel_regularizer=GroupLasso(0.1, axis=2)).build((None, 4)), r"dense\w*/kernel"),
        (lambda: layers.Dense(3, bias_regularizer=GroupLasso(0.1, axis=-2)).build((None, 4)), r"dense\w*/bias"),
        (lambda: layers.Conv2D(3, 2, kernel_regularizer=GroupLasso(0.1, axis=4)).build((None, 8, 8, 3)), r"conv2d\w*/kernel"),
        (lambda: layers.Dense(3, kernel_regularizer=Grouped(MCP(0.1), axis=(0, -2))).build((None, 4)), r"dense\w*/kernel"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=GroupLasso(0.1, axis=-3))]), r"dense\w*/kernel"),
    ],
)
def test_an_axis_that_the_weights_lack_is_an_error_at_build(build, weights):
    with pytest.raises(ValueError, match=rf"cannot act on '\S*{weights}' of shape \(.*Argument `axis` .*Received: axis="):
        build()


def test_other_regularizers_still_build():
    function = (lambda w: ops.sum(w)) if KERAS >= (3, 15) else None
    layer = layers.Dense(3, kernel_regularizer=keras.regularizers.L1(0.1), bias_regularizer=function)
    layer.build((None, 4))
    assert isinstance(layer.kernel.regularizer, keras.regularizers.L1)
    layer.kernel.regularizer = None
    assert layer.kernel.regularizer is None
    with pytest.raises(ValueError, match="regularizer"):
        layer.kernel.regularizer = "l1"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_dtypes(dtype, penalty):
    layer = layers.Dense(3, kernel_regularizer=PENALTIES[penalty](), dtype=dtype)
    layer(sequence())
    (loss,) = layer.losses
    assert keras.backend.standardize_dtype(loss.dtype) == layer.variable_dtype
    wide = PENALTIES[penalty]()(ops.convert_to_numpy(ops.cast(layer.kernel.value, "float32")))
    np.testing.assert_allclose(float(ops.convert_to_numpy(ops.cast(loss, "float32"))), float(wide), rtol=1e-2)


def everything():
    """One layer for each penalty of the table that has a gradient."""
    x = inputs = keras.Input((6,))
    for case in IN_THE_LOSS:
        if not case.name.endswith("hard"):
            x = layers.Dense(6, activation="tanh", kernel_regularizer=case.make().with_strength(0.01))(x)
    return keras.Model(inputs, x)


MODES = [{"run_eagerly": True}, {"jit_compile": False}] + [{"jit_compile": True}] * (BACKEND != "torch")


def test_a_step_is_the_same_eager_and_compiled():
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    results = []
    for mode in MODES:
        keras.utils.set_random_seed(0)
        model = everything()
        model.compile(keras.optimizers.SGD(0.1), "mse", **mode)
        first = model.train_on_batch(x, x)
        results.append([first, *(ops.convert_to_numpy(v) for v in model.trainable_variables)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


if BACKEND == "torch":

    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_torch_compile_in_one_graph(case):
        import torch

        torch._dynamo.reset()
        penalty, w = case.make(), torch.randn(4, 3)
        # The groups of a structure are numbered in NumPy.
        compiled_value = torch.compile(penalty.value, fullgraph=case.name != "StructuralGroupLasso", backend="aot_eager")
        expected = pytest.approx(float(penalty(w)), rel=1e-5)
        assert float(compiled_value(w)) == expected
        assert float(torch.compile(penalty, backend="aot_eager")(w)) == expected


def test_a_step_moves_by_the_gradient_of_the_penalty():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, use_bias=False, kernel_regularizer=SparseGroupLasso(0.1, 0.2))])
    before = ops.convert_to_numpy(model.layers[0].kernel)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    # Without inputs the data ask for nothing.
    loss = model.train_on_batch(np.zeros((2, 6)), np.zeros((2, 4)))
    value, gradient = value_and_gradient(SparseGroupLasso(0.1, 0.2), before)
    assert float(np.ravel(loss)[0]) == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(model.layers[0].kernel), before - 0.5 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", IN_THE_LOSS, ids=str)
def test_symbolic_tensors(case):
    w = keras.Input(batch_shape=(4, 3))
    penalised = keras.Model(w, case.make()(w))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    np.testing.assert_allclose(ops.convert_to_numpy(penalised(x)), case.formula(x.astype("float64")), rtol=1e-5)


class Twice(keras.Model):
    """Subclassed, with a shared layer and a nested model."""

    def __init__(self):
        super().__init__()
        self.shared = layers.Dense(4, kernel_regularizer=GroupLasso(0.1, axis=-2))
        self.nested = keras.Sequential([layers.Dense(4, activation="relu", kernel_regularizer=L2(0.1))])

    def call(self, x):
        return self.nested(self.shared(self.shared(x)))


def test_subclassed_nested_and_shared():
    model = Twice()
    x = np.ones((2, 4), "float32")
    model(x)
    assert len(model.losses) == 2
    kernels = [ops.convert_to_numpy(layer.kernel) for layer in (model.shared, model.nested.layers[0])]
    expected = float(GroupLasso(0.1, axis=-2)(kernels[0])) + float(L2(0.1)(kernels[1]))
    np.testing.assert_allclose(total(model), expected, rtol=1e-5)
    model.compile("adam", "mse")
    history = model.fit(x, x, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_the_line_a_new_user_writes(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(64, activation="relu", kernel_regularizer=l1(0.01)), layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model.fit(x, x[:, :1], epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), reloaded.predict(x, verbose=0))
    assert reloaded.layers[0].kernel_regularizer.get_config() == {"l1": 0.01, "proximal": False}


@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize(
    "make", [SCAD, GroupLasso, lambda s, **named: SparseGroupLasso(s, s, **named)], ids=["SCAD", "GroupLasso", "SparseGroupLasso"]
)
def test_large_weights_have_the_same_step_eager_and_compiled(make, proximal):
    side = 256
    x = np.random.default_rng(0).normal(size=(8, side)).astype("float32")
    trained = []
    for eagerly in (True, False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((side,)), layers.Dense(side, kernel_regularizer=make(0.02, proximal=proximal), name="dense")])
        inner = keras.optimizers.Adam(0.01)
        model.compile(Proximal(inner) if proximal else inner, "mse", run_eagerly=eagerly, jit_compile=False)
        losses = [float(np.asarray(model.train_on_batch(x, x))) for _ in range(3)]
        trained.append((losses, model.get_weights()[0]))
    np.testing.assert_allclose(trained[0][0], trained[1][0], rtol=1e-5)
    np.testing.assert_allclose(trained[0][1], trained[1][1], atol=1e-5)
    np.testing.assert_array_equal(trained[0][1] == 0, trained[1][1] == 0)
