"""Networks put together at random from every layer and operation that compaction has a rule for, and from some that it has none for."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

ACTIVATIONS = ("relu", "sigmoid", "tanh", "softplus", "exponential", "gelu", "silu", "elu", "hard_sigmoid", "linear", "softmax")
MERGES = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)


def activation(r):
    return str(r.choice(ACTIVATIONS))


def width(x):
    return x.shape[-1]


def residual(x, r, layer):
    merge = MERGES[r.integers(len(MERGES))]
    return merge()([x, layer(x)] if r.random() < 0.5 else [layer(x), x])


def batch_normalization(x, r):
    return L.BatchNormalization(scale=bool(r.integers(2)), center=bool(r.integers(2)))(x)


def operators(x, r):
    return ops.tanh(x * 0.5 + 0.25) - 2.0 / (ops.sigmoid(x) + 1) + abs(x)


def activations(x, r):
    kinds = [L.Activation(activation(r)), L.ReLU(max_value=2.0, threshold=0.1), L.LeakyReLU(), L.ELU(), L.Softmax()]
    return kinds[r.integers(len(kinds))](x)


def prelu(x, r):
    return L.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) if r.random() < 0.5 else None)(x)


def noise(x, r):
    return L.GaussianNoise(0.1)(L.Dropout(0.3)(L.ActivityRegularization(l2=0.1)(x)))


def barrier(x, r):
    kinds = [L.LayerNormalization, L.UnitNormalization, L.RMSNormalization, lambda: L.GroupNormalization(groups=1)]
    return kinds[r.integers(len(kinds))]()(x)


def einsum(x, r):
    axes = "bhwc"[: len(x.shape) - 1]
    kind = r.integers(3)
    equation = ["...f,fd->...d", f"{axes}f,fd->{axes}d", f"{axes}f,df->{axes}d"][kind]
    dense = L.EinsumDense(
        equation, (*(x.shape[1:-1] if kind else ()), 6), bias_axes="d" if r.random() < 0.6 else None, activation=activation(r)
    )
    return dense(x)


def dense(x, r):
    return L.Dense(int(r.integers(4, 8)), activation(r), use_bias=bool(r.integers(2)))(x)


def shared(x, r):
    layer = L.Dense(width(x), activation(r))
    return layer(layer(x)) + x


def nested(x, r):
    inside = keras.Input(x.shape[1:])
    y = L.Dense(7, activation(r))(inside)
    inner = keras.Model(inside, [L.Dense(width(x), "tanh")(y), y])
    first, _ = inner(x)
    second, hidden = inner(first * 0.5)
    return L.Concatenate()([first + second, hidden])


def nested_sequential(x, r):
    return L.Dropout(0.1)(keras.Sequential([keras.Input(x.shape[1:]), L.Dense(7, activation(r)), L.Dense(5, use_bias=False)])(x))


def rescaling(x, r):
    return L.Rescaling(0.5, 0.3)(x)


def literal(x, r):
    return x + ops.convert_to_tensor(np.linspace(-1, 1, width(x)), x.dtype)


def unknown(x, r):
    """A layer that no rule is for, and one whose function nobody can look into."""
    return L.Normalization(mean=0.3, variance=2.0)(x) if r.random() < 0.5 else L.Lambda(lambda y: ops.sin(y), output_shape=x.shape[1:])(x)


def arrays(x, r):
    """Numbers that are the same for all examples."""
    numbers = r.normal(size=(*x.shape[1:-1], width(x))).astype("float32")
    kind = r.integers(4)
    if kind == 0:
        return ops.where(numbers > 0, x, L.Dense(width(x), activation(r))(x))
    if kind == 1:
        return x / (1 + np.abs(numbers))
    if kind == 2:
        return ops.where(x > 0.2, numbers, 0.5)
    return ops.cast(x > 0.2, x.dtype) + ops.round(x) * numbers


def picked(x, r):
    """All units, in another order or by parts, one of them twice."""
    kind = r.integers(3)
    if kind == 0:
        return L.Concatenate()([x[..., 1::2], x[..., ::2]])
    if kind == 1:
        return ops.take(x, r.permutation(width(x)), axis=-1)
    return ops.take(x, [0, *range(width(x))], axis=-1) * x[..., :1]


def split(x, r):
    y = L.Dense(8, activation(r))(x)
    if r.random() < 0.5:
        one, other = ops.split(y, 2, axis=-1)
        return one * ops.sigmoid(other)
    one, other, third = ops.split(y, [3, 5], axis=-1)
    return L.Concatenate()([third, L.Dense(4)(one), other])


def norms(x, r):
    y = L.Dense(6, activation(r))(x)
    kinds = [L.GroupNormalization(-1), L.GroupNormalization(3), L.UnitNormalization()]
    return kinds[r.integers(3)](y)


COMMON = {
    f.__name__: f
    for f in (
        *(batch_normalization, operators, activations, prelu, noise, barrier, einsum, dense, shared, nested, nested_sequential),
        *(rescaling, literal, unknown, arrays, picked, split, norms),
    )
}

# Images


def conv(x, r):
    small = min(x.shape[1:3]) < 5
    padding = "same" if small or r.random() < 0.5 else "valid"
    strided = r.random() < 0.3 and not small
    arguments = {"strides": 2} if strided else {"dilation_rate": int(r.integers(1, 3))}
    size = (int(r.integers(1, 4)), 2 if padding == "same" else 1)
    return L.Conv2D(int(r.integers(4, 8)), size, padding=padding, activation=activation(r), use_bias=bool(r.integers(2)), **arguments)(x)


def grouped(x, r):
    return L.Conv2D(9, 3, padding="same", groups=3, activation=activation(r))(L.Conv2D(6, 1, activation="relu")(x))


def depthwise(x, r):
    return L.DepthwiseConv2D(3, padding="same", depth_multiplier=int(r.integers(1, 3)), activation=activation(r))(x)


def separable(x, r):
    return L.SeparableConv2D(6, 2, padding="same", depth_multiplier=2, activation=activation(r), use_bias=bool(r.integers(2)))(x)


def transposed(x, r):
    return L.MaxPooling2D()(L.Conv2DTranspose(5, int(r.integers(1, 4)), strides=2, padding="same", activation=activation(r))(x))


def pooling(x, r):
    kind = (L.MaxPooling2D, L.AveragePooling2D)[r.integers(2)]
    return kind(3, strides=int(r.integers(1, 3)) if min(x.shape[1:3]) > 4 else 1, padding="same")(x)


def borders(x, r):
    return L.Cropping2D(((0, 1), (1, 0)))(L.ZeroPadding2D(1)(x)) if r.random() < 0.7 else L.Cropping2D((1, 0))(L.ZeroPadding2D((1, 0))(x))


def upsampling(x, r):
    return L.AveragePooling2D(2)(L.UpSampling2D(2, interpolation=("nearest", "bilinear")[r.integers(2)])(x))


def image_residual(x, r):
    return residual(x, r, lambda y: L.Conv2D(width(x), 3, padding="same", activation=activation(r))(L.BatchNormalization()(y)))


def image_concatenate(x, r):
    axis = int(r.choice([1, -1]))
    return L.Concatenate(axis=axis)([x, L.Conv2D(width(x), 1, activation=activation(r))(x)])


def excite(x, r):
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(width(x), 1, activation="sigmoid")(L.Conv2D(3, 1, activation="relu")(gate))
    return L.Multiply()([x, gate])


def excite_flat(x, r):
    gate = ops.mean(x, axis=(1, 2)) if r.random() < 0.5 else L.GlobalMaxPooling2D()(x)
    gate = L.Dense(width(x), "sigmoid")(gate)
    return x * (L.Reshape((1, 1, -1))(gate) if r.random() < 0.5 else ops.expand_dims(ops.expand_dims(gate, 1), 1))


def image_reshape(x, r):
    height, breadth, channels = x.shape[1:]
    y = L.Reshape((-1, channels))(x) if r.random() < 0.5 else ops.reshape(x, (-1, height * breadth, channels))
    y = L.Conv1D(6, 2, padding="same", activation=activation(r))(y)
    return L.Reshape((height, breadth, 6))(y)


def permuted(x, r):
    y = L.Permute((2, 1, 3))(x) if r.random() < 0.5 else ops.transpose(x, (0, 2, 1, 3))
    return L.Permute((2, 1, 3))(L.Conv2D(5, 2, padding="same", activation=activation(r))(y))


def channels_to_rows(x, r):
    """The units go to the middle axis, and one dense layer works along another."""
    y = L.Permute((3, 1, 2))(x)
    return L.Permute((2, 3, 1))(L.Dense(x.shape[2], activation(r))(y))


def sliced(x, r):
    return ops.concatenate([x[:, 1:], x[:, :1]], axis=1) + ops.max(x, axis=2, keepdims=True)


def half_of_the_channels(x, r):
    return x[..., : width(x) // 2 + 1]


def shuffled(x, r):
    """Channels of groups alternate."""
    height, breadth = x.shape[1:3]
    y = L.Concatenate()([L.Conv2D(4, 1, activation=activation(r))(x), L.Conv2D(4, 1, activation=activation(r))(x)])
    groups = int(r.choice([2, 4]))
    y = ops.transpose(ops.reshape(y, (-1, height, breadth, groups, 8 // groups)), (0, 1, 2, 4, 3))
    y = L.Reshape((height, breadth, 8))(y)
    return L.Concatenate()([y[..., :3], L.Conv2D(4, 1)(y[..., 3:])]) if r.random() < 0.5 else L.DepthwiseConv2D(2, padding="same")(y)


def to_places(x, r):
    """From channels to places, by hand or not, and back."""
    height, breadth = x.shape[1:3]
    y = L.Conv2D(12, 1, activation=activation(r))(x)
    if hasattr(ops, "depth_to_space") and r.random() < 0.5:
        y = ops.depth_to_space(y, 2)
    else:
        y = ops.transpose(ops.reshape(y, (-1, height, breadth, 2, 2, 3)), (0, 1, 3, 2, 4, 5))
        y = ops.reshape(y, (-1, 2 * height, 2 * breadth, 3))
    return L.MaxPooling2D(2)(y) if r.random() < 0.5 else L.Resizing(height, breadth)(y)


def windows(x, r):
    height, breadth, channels = x.shape[1:]
    y = ops.reshape(x, (-1, breadth, channels))
    return ops.reshape(L.Dense(6, activation(r))(L.Conv1D(5, 2, padding="same")(y)), (-1, height, breadth, 6))


def steps(x, r):
    return L.TimeDistributed(L.Conv1D(5, 2, padding="same", activation=activation(r)))(x)


IMAGES = {
    f.__name__: f
    for f in (
        *(conv, grouped, depthwise, separable, transposed, pooling, borders, upsampling, image_residual, image_concatenate, excite),
        *(excite_flat, image_reshape, permuted, channels_to_rows, sliced, half_of_the_channels, steps, shuffled, to_places, windows),
    )
}

# Sequences


def lstm(x, r):
    return L.LSTM(6, return_sequences=True, use_bias=bool(r.integers(2)))(x)


def gru(x, r):
    return L.GRU(6, return_sequences=True, reset_after=bool(r.integers(2)), use_bias=bool(r.integers(2)), go_backwards=bool(r.integers(2)))(
        x
    )


def simple_rnn(x, r):
    return L.SimpleRNN(6, return_sequences=True, activation=str(r.choice(["tanh", "relu", "sigmoid"])))(x)


def states(x, r):
    _, *state = L.LSTM(5, return_state=True)(x)
    return L.LSTM(5, return_sequences=True)(x, initial_state=state)


def bidirectional(x, r):
    mode = [None, "concat", "sum", "mul", "ave"][r.integers(5)]
    kind = (L.LSTM, L.GRU, L.SimpleRNN)[r.integers(3)]
    y = L.Bidirectional(kind(4, return_sequences=True), merge_mode=mode)(x)
    return L.Concatenate()(y) if mode is None else y


def states_of_both(x, r):
    _, *state = L.Bidirectional(L.GRU(4, return_state=True))(x)
    return L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode=["concat", "sum"][r.integers(2)])(x, initial_state=state)


def attention(x, r):
    # Keras on JAX takes keys and values of one width only.
    wide = 4 if keras.backend.backend() == "jax" else int(r.integers(2, 5))
    layer = L.MultiHeadAttention(3, 4, value_dim=wide, use_bias=bool(r.integers(2)))
    return residual(x, r, lambda y: layer(y, y, use_causal_mask=bool(r.integers(2))))


def cross_attention(x, r):
    value, key = L.Dense(5, activation(r))(x), L.Dense(4, activation(r))(x)
    return L.MultiHeadAttention(2, 3, output_shape=6)(x, value=value, key=key)


def masked_attention(x, r):
    mask = ops.mean(x, axis=-1, keepdims=True) > -10.0
    return L.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)


def grouped_attention(x, r):
    return L.GroupQueryAttention(4, 4, 2, use_bias=bool(r.integers(2)))(x, x)


def einsum_heads(x, r):
    heads = L.EinsumDense("btf,fhd->bthd", (x.shape[1], 3, 4), bias_axes=("hd", "d", None)[r.integers(3)])(x)
    return L.EinsumDense("bthd,hdo->bto", (x.shape[1], 5), bias_axes="o")(heads)


def causal(x, r):
    return L.Conv1D(6, 3, padding="causal", dilation_rate=int(r.integers(1, 3)), activation=activation(r))(x)


def conv_1d(x, r):
    y = L.SeparableConv1D(6, 2, padding="same", activation=activation(r))(x)
    y = L.DepthwiseConv1D(2, padding="same")(y)
    return L.AveragePooling1D(2)(L.Conv1DTranspose(5, 3, strides=2, padding="same", activation=activation(r))(y))


def borders_1d(x, r):
    y = L.UpSampling1D(2)(L.Cropping1D(1)(L.ZeroPadding1D(1)(L.SpatialDropout1D(0.2)(x))))
    return L.MaxPooling1D(2)(y)


def distributed(x, r):
    inner = keras.Sequential([keras.Input((width(x),)), L.Dense(6, activation(r)), L.Dense(5)])
    return L.TimeDistributed(inner if r.random() < 0.5 else L.Dense(5, activation(r)))(x)


def repeated(x, r):
    y = L.Dense(5, activation(r))(L.GlobalAveragePooling1D()(x))
    return L.Concatenate()([x, L.RepeatVector(x.shape[1])(y)])


def joined_in_time(x, r):
    return L.AveragePooling1D(2)(L.Concatenate(axis=1)([x, L.Dense(width(x), activation(r))(x)]))


def sequence_residual(x, r):
    return residual(x, r, lambda y: L.Dense(width(x), activation(r))(L.Dense(6, activation(r))(y)))


def products(x, r):
    return ops.matmul(ops.softmax(ops.matmul(x, ops.transpose(x, (0, 2, 1)))), x)


def mixed_in_time(x, r):
    """By a fixed matrix."""
    numbers = np.tri(x.shape[1], dtype="float32") / x.shape[1]
    return ops.matmul(numbers, x) if r.random() < 0.5 else ops.einsum("bsf,st->btf", x, ops.convert_to_tensor(numbers, x.dtype))


def attention_by_hand(x, r):
    """Heads by a reshape."""
    steps = x.shape[1]
    q, k, v = (L.Dense(6, use_bias=bool(r.integers(2)))(x) for _ in range(3))
    if r.random() < 0.5:
        q, k, v = (ops.transpose(ops.reshape(y, (-1, steps, 3, 2)), (0, 2, 1, 3)) for y in (q, k, v))
        scores = ops.where(np.tri(steps) > 0, ops.matmul(q, ops.swapaxes(k, 2, 3)) * 0.5, -1e9)
        scores = L.Softmax()(scores + np.tri(steps, dtype="float32"))
        y = L.Permute((2, 1, 3))(ops.matmul(L.Dropout(0.1)(scores), v))
    else:
        q, k, v = (L.Reshape((steps, 2, 3))(y) for y in (q, k, v))
        scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", L.LayerNormalization()(q), k))
        y = ops.einsum("bhqk,bkhd->bqhd", scores, v)
    return residual(x, r, lambda z: L.Dense(width(x))(ops.reshape(y, (-1, steps, 6))))


def attention_at_once(x, r):
    """Queries, keys and values in one layer."""
    steps = x.shape[1]
    three = ops.reshape(L.Dense(18)(x), (-1, steps, 3, 2, 3))
    if r.random() < 0.5:
        q, k, v = ops.unstack(three, axis=2)
        y = ops.dot_product_attention(q, k, v, is_causal=bool(r.integers(2)))
    else:
        three = ops.transpose(three, (2, 0, 3, 1, 4))
        scores = ops.softmax(ops.einsum("bhqd,bhkd->bhqk", three[0], three[1]))
        y = ops.transpose(ops.matmul(scores, three[2]), (0, 2, 1, 3))
    return L.Reshape((steps, 6))(y)


def einsum_attention(x, r):
    kinds = (("hd", None), ("d", "f"), (None, "f"))[r.integers(3)]
    q, k, v = (L.EinsumDense("btc,chd->bthd", (x.shape[1], 2, 3), bias_axes=kinds[0])(x) for _ in range(3))
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    y = ops.einsum("bhqk,bkhd->bqhd", scores, v)
    return L.EinsumDense("bthd,hdf->btf", (x.shape[1], 5), bias_axes=kinds[1])(y)


def attention_layers(x, r):
    kind = L.AdditiveAttention if r.random() < 0.5 else L.Attention
    return kind(use_scale=bool(r.integers(2)))([L.Dense(5, activation(r))(x) for _ in range(int(r.integers(2, 4)))])


SEQUENCES = {
    f.__name__: f
    for f in (
        *(lstm, gru, simple_rnn, states, states_of_both, bidirectional, attention, cross_attention, masked_attention),
        *(grouped_attention, einsum_heads),
        *(causal, conv_1d, borders_1d, distributed, repeated, joined_in_time, sequence_residual, products, mixed_in_time),
        *(attention_by_hand, attention_at_once, einsum_attention, attention_layers),
    )
}


def volume(x, r):
    y = L.Conv3D(5, 2, padding="same", activation=activation(r))(x)
    y = L.MaxPooling3D(2)(L.Conv3DTranspose(4, 2, strides=2, padding="same")(y))
    return L.Cropping3D(1)(L.ZeroPadding3D(1)(y))


def volume_pooling(x, r):
    return L.AveragePooling3D(2)(L.UpSampling3D(2)(L.SpatialDropout3D(0.1)(x)))


def volume_residual(x, r):
    return residual(x, r, lambda y: L.Conv3D(width(x), 2, padding="same")(L.BatchNormalization()(y)))


VOLUMES = {f.__name__: f for f in (volume, volume_pooling, volume_residual)}


def network(inputs, start, steps, table, r, several=False):
    """A model of these steps, with heads of different kinds."""
    x = start
    hidden = []
    for step in steps:
        x = {**COMMON, **table}[step](x, r)
        hidden.append(x)
    axes = tuple(range(1, len(x.shape) - 1))
    heads = [L.Flatten(), lambda y: ops.mean(y, axis=axes), getattr(L, f"GlobalMaxPooling{len(axes)}D")()]
    outputs = L.Dense(4)(L.Dense(6, "tanh")(heads[r.integers(3)](x)))
    if several:
        outputs = {"main": outputs, "also": L.Dense(2, name="also")(hidden[len(hidden) // 2])}
    return keras.Model(inputs, outputs)


def images(steps, r):
    one = keras.Input((8, 7, 3), name="one")
    two = keras.Input((8, 7, 2), name="two")
    several = bool(r.integers(2))
    x = L.Concatenate()([one, two]) if several else one
    x = L.Conv2D(6, 3, padding="same", activation="relu")(x)
    return network({"one": one, "two": two} if several else one, x, steps, IMAGES, r, several)


def sequences(steps, r):
    kind = r.integers(3)
    if kind == 0:
        inputs = keras.Input((6, 5))
        x = L.Dense(6, "relu")(inputs)
    else:
        inputs = keras.Input((6,), dtype="int32")
        x = L.Embedding(9, 6, name="embedding")(inputs)
    return network(inputs, x, steps, SEQUENCES, r, bool(r.integers(2)))


def volumes(steps, r):
    inputs = keras.Input((4, 4, 4, 2))
    return network(inputs, L.Conv3D(5, 2, activation="relu")(inputs), steps, VOLUMES, r)


MASKED = ("lstm", "gru", "simple_rnn", "states", "bidirectional", "attention", "dense", "sequence_residual", "repeated", "noise")


def masked(steps, r):
    """Sequences that end early; only layers that say what becomes of a mask."""
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True)(inputs)
    for step in steps:
        x = {**COMMON, **SEQUENCES}[step](x, r)
    return keras.Model(inputs, L.Dense(4)(L.Dense(6, "tanh")(L.GlobalAveragePooling1D()(x))))


FAMILIES = {
    "images": (images, (*IMAGES, *COMMON), 4),
    "sequences": (sequences, (*SEQUENCES, *COMMON), 4),
    "volumes": (volumes, (*VOLUMES, *VOLUMES, "batch_normalization", "prelu", "dense", "activations"), 4),
    "masked": (masked, MASKED, 3),
}


def architectures(family, seed):
    """Networks that have every step of the family once between them, in random order: functions that make them, by the steps they have."""
    make, steps, length = FAMILIES[family]
    order = np.random.default_rng(seed).permutation(steps)
    parts = [order[start : start + length].tolist() for start in range(0, len(order), length)]
    return {"-".join(part): (lambda part=part: make(part, np.random.default_rng([seed, *map(ord, part[0])]))) for part in parts}
