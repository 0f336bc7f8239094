"""Networks as they are used, with random weights and a random half of their groups at zero: each smaller, each equal."""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras.src.applications import densenet, efficientnet, resnet  # whose public functions give no choice of the depth
from small_networks import check

from keras_reg.models import structural_groups
from keras_reg.models.compaction.groups import zero

BACKEND = keras.backend.backend()
A = keras.applications


def application(make, size):
    return lambda: make(input_shape=(size, size, 3), classes=10, weights=None)


def short_resnet(**options):
    """With two of its four stacks, each shorter."""

    def stacks(x):
        x = resnet.stack_residual_blocks_v1(x, 32, 2, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 64, 3, name="conv3")

    return resnet.ResNet(stacks, preact=False, use_bias=True, **options)


def tagger():
    x = keras.Input((None,), dtype="int32")
    y = L.Embedding(30, 24, mask_zero=True)(x)
    y = L.Bidirectional(L.LSTM(16, return_sequences=True))(y)
    y = L.LSTM(20, return_sequences=True)(y)
    return keras.Model(x, L.TimeDistributed(L.Dense(9, "softmax"))(y))


def unet():
    def block(y, width):
        for _ in range(2):
            y = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(y)))
        return y

    x = keras.Input((32, 32, 3))
    first = block(x, 8)
    second = block(L.MaxPooling2D()(first), 16)
    y = block(L.MaxPooling2D()(second), 32)
    y = block(L.Concatenate()([L.Conv2DTranspose(16, 2, strides=2)(y), second]), 16)
    y = block(L.Concatenate()([L.UpSampling2D(2, interpolation="bilinear")(y), first]), 8)
    return keras.Model(x, L.Conv2D(2, 1, activation="sigmoid")(y))


class Places(L.Layer):
    def build(self, shape):
        self.places = self.add_weight(shape=shape[1:], name="places")

    def call(self, x):
        return x + self.places


def vit():
    x = keras.Input((32, 32, 3))
    y = Places()(L.Reshape((16, 24))(L.Conv2D(24, 8, strides=8)(x)))
    for _ in range(2):
        normal = L.LayerNormalization()(y)
        y = y + L.MultiHeadAttention(4, 6)(normal, normal)
        y = y + L.Dense(24)(L.Dense(48, "gelu")(L.LayerNormalization()(y)))
    return keras.Model(x, L.Dense(10)(L.GlobalAveragePooling1D()(L.LayerNormalization()(y))))


def bert():
    """Its blocks are layers of KerasHub that hold theirs inside."""
    import keras_hub

    sizes = {"vocabulary_size": 30, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "intermediate_dim": 32, "num_segments": 5}
    return keras_hub.models.BertBackbone(**sizes, max_sequence_length=10)


def residual():
    x = keras.Input((16, 16, 3))
    y = L.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        z = L.Conv2D(8, 3, padding="same", use_bias=False)(L.ReLU()(L.BatchNormalization()(y)))
        y = y + L.Conv2D(8, 3, padding="same")(L.ReLU()(L.BatchNormalization()(z)))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(y)))))


# A small part of those of TensorFlow where the same takes much longer.
NETWORKS = {"bert": bert, **({"tagger": tagger, "unet": unet, "vit": vit} if BACKEND != "jax" else {"residual": residual})}
if BACKEND == "tensorflow":
    NETWORKS |= {
        "VGG16": lambda: A.VGG16(input_shape=(32, 32, 3), include_top=False, pooling="avg", weights=None),
        "ResNet": application(short_resnet, 32),
        "MobileNetV2": application(A.MobileNetV2, 32),
        "DenseNet": application(functools.partial(densenet.DenseNet, [2, 2, 3, 2]), 32),
        "EfficientNet": application(functools.partial(efficientnet.EfficientNet, 1.0, 0.4, 32), 32),
    }
elif BACKEND == "torch":
    NETWORKS |= {"MobileNetV2": application(A.MobileNetV2, 32)}


def trained(model, seed=0):
    """Statistics, scales and biases as after training; kernels as they were drawn, so that no signal grows or vanishes."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(random.normal(size=variable.shape) * 0.1)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_groups(name):
    model = trained(NETWORKS[name]())
    random = np.random.default_rng(0)
    groups = structural_groups(model)
    chosen = [group for group in groups if random.random() < 0.5]
    zero(chosen)
    assert all(group.norm() == 0 for group in chosen)
    small = check(model, fewer=True)
    freed = model.count_params() - small.count_params()
    # Together they free less than each alone, what two of them share being counted once, and half of all is a good part.
    assert 0.2 * sum(group.parameters for group in chosen) < freed <= sum(group.parameters for group in chosen)
