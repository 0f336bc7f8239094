"""Models that exist already: of Keras, of KerasHub and of a user's own, with random weights and small inputs.

The fresh processes of the tests import this file too: it registers the user's classes.
"""

import keras
import numpy as np
from keras import layers

SIZES = {"Xception": 71, "InceptionV3": 75}
APPLICATIONS = ("ConvNeXtTiny", "EfficientNetB0", "Xception")
"""The cheaper ones that have layers of different kinds; `benchmarks/attach_zoo.py` has a model of every family."""


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """Makes its layers itself, and has no argument for their regularizers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.widen, self.narrow = layers.Dense(2 * units, activation="relu"), layers.Dense(units)

    def build(self, shape):
        self.widen.build(shape)
        self.narrow.build((*shape[:-1], 2 * self.units))

    def call(self, x):
        return self.narrow(self.widen(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class OwnKernel(layers.Layer):
    """Has a weight of its own, and no argument for its regularizer."""

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3))

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = [layers.Dense(units, activation="relu") for _ in range(2)]
        self.block, self.out = Block(units), layers.Dense(2)

    def build(self, shape):
        for layer in (*self.hidden, self.block, self.out):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, x):
        for layer in (*self.hidden, self.block, self.out):
            x = layer(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class OfLayers(keras.Model):
    """A functional model with a class of its own, as `train_step` is overridden; saved as its layers are."""


def functional(shape, build, model=keras.Model):
    inputs = keras.Input(shape)
    return model(inputs, build(inputs))


def application(name):
    size = SIZES.get(name, 32)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=4)


def recurrent(x):
    x = layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True)(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    return layers.TimeDistributed(layers.Dense(2))(x)


def shared_and_nested(x):
    shared = layers.Dense(4, activation="relu", name="shared")
    nested = keras.Sequential([keras.Input((5, 4)), layers.Dense(6), Block(4)], name="nested")
    return nested(shared(nested(shared(x))))


def convolutions(x):
    x = layers.SeparableConv2D(4, 2, activation="relu")(layers.Conv2D(4, 2, activation="relu")(x))
    return layers.Conv2DTranspose(2, 2)(layers.BatchNormalization()(layers.DepthwiseConv2D(2)(x)))


def text(x):
    x = layers.Embedding(7, 4)(x)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3)(x, x))
    return layers.Dense(2)(layers.GroupQueryAttention(3, 2, 1)(x, x))


def bert_like():
    import keras_hub

    sizes = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = keras_hub.models.BertBackbone(**sizes, max_sequence_length=6, dropout=0.0)
    return keras.Model(backbone.input, layers.Dense(2)(backbone(backbone.input)["pooled_output"]))


def vit_like():
    import keras_hub

    sizes = {"image_shape": (16, 16, 3), "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    backbone = keras_hub.models.ViTBackbone(**sizes, dropout_rate=0.0)
    return keras.Model(backbone.input, layers.Dense(2)(backbone(backbone.input)))


def subclassed():
    model = Subclassed()
    model.build((None, 5, 4))
    return model


SMALL = {
    "dense": lambda: keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="relu"), layers.Dense(2)]),
    "convolutions": lambda: functional((8, 8, 3), convolutions),
    "recurrent": lambda: functional((5, 4), recurrent),
    "text": lambda: functional((5,), text),
    "shared and nested": lambda: functional((5, 4), shared_and_nested),
    "own layers": lambda: functional((5, 4), lambda x: OwnKernel()(Block(4)(x))),
    "subclassed": subclassed,
    "functional subclass": lambda: functional((5, 4), lambda x: layers.Dense(2)(Block(4)(x)), OfLayers),
    "BERT-like": bert_like,
    "ViT-like": vit_like,
}
if keras.backend.backend() != "jax":  # which takes half a minute to build it
    SMALL["MobileNetV3Small"] = lambda: application("MobileNetV3Small")


def data(model, batch=2):
    """Inputs and targets of the shapes of a model."""
    rng = np.random.default_rng(0)

    def some(tensor):
        shape = (batch, *(size or 6 for size in tensor.shape[1:]))
        if "int" in tensor.dtype or tensor.name in ("token_ids", "segment_ids", "padding_mask"):
            return rng.integers(1, 2, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    if not isinstance(getattr(model, "inputs", None), list):
        return rng.normal(size=(batch, 5, 4)).astype("float32"), rng.normal(size=(batch, 5, 2)).astype("float32")
    if any(isinstance(layer, layers.Embedding) for layer in model.layers):
        x = rng.integers(0, 7, (batch, 5)).astype("int32")
    else:
        x = keras.tree.map_structure(some, model.inputs[0] if isinstance(model, keras.Sequential) else model.input)
    return x, rng.normal(size=(batch, *model.outputs[0].shape[1:])).astype("float32")
