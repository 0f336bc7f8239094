"""Where a bare optimizer of Keras works, `Proximal` around it does; at strength 0 it computes the same, and with no more warnings."""

import pickle
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_reg.layers import HardConcreteGate
from keras_reg.layers.gate import Gate
from keras_reg.models import attach, insert_gates
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, GroupLasso, HardConcreteL0, L0Constraint, StructuralL0Constraint
from keras_reg.regularizers.part import Part

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")


def adam(**arguments):
    return keras.optimizers.Adam(0.02, **arguments)


def network(penalty, dtype=None):
    if isinstance(penalty, Part):
        made = network(None, dtype)
        attach(made, penalty)
        return made
    if isinstance(penalty, Gate):  # on the hidden units
        return insert_gates(network(None, dtype), penalty, where="after")
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=penalty, dtype=dtype), layers.Dense(1, dtype=dtype)])


def compiled(model, optimizer, loss="mse"):
    model.compile(optimizer, loss, jit_compile=False)
    return model


def losses(model, x=X, y=Y, epochs=2, **arguments):
    batch = {} if y is None else {"batch_size": 8}
    return model.fit(x, y, epochs=epochs, shuffle=False, verbose=0, **batch, **arguments).history["loss"]


def several_optimizers(wrap, penalty):
    optimizers = keras.optimizers.OptimizerMap(adam())
    optimizers[".*/kernel"] = wrap(keras.optimizers.SGD(0.02))
    return losses(compiled(network(penalty), keras.optimizers.MultiOptimizer(optimizers)))


def swapped_averages(wrap, penalty):
    model = compiled(network(penalty), wrap(adam(use_ema=True)))
    return losses(model, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)], validation_data=(X, Y))


def in_dtype(dtype):
    return lambda wrap, penalty: losses(compiled(network(penalty, dtype), wrap(adam())))


def decay_with_exclusions(wrap, penalty):
    optimizer = wrap(keras.optimizers.AdamW(0.02, weight_decay=0.1))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return losses(compiled(network(penalty), optimizer))


def lora(wrap, penalty):
    model = compiled(network(penalty), wrap(adam()))
    first = losses(model)
    model.layers[0].enable_lora(2)
    return first + losses(compiled(model, wrap(adam())))


def thawed(wrap, penalty):
    model = network(penalty)
    model.layers[1].trainable = False
    first = losses(compiled(model, wrap(adam())))
    model.layers[1].trainable = True
    return first + losses(compiled(model, wrap(adam())))


def quantized(wrap, penalty):
    model = compiled(network(penalty), wrap(adam()))
    first = losses(model)
    model.quantize("int8")
    return [*first, float(np.ravel(model.evaluate(X, Y, verbose=0))[0])]


def several_outputs(wrap, penalty):
    x = keras.Input((4,))
    hidden = layers.Dense(3, kernel_regularizer=penalty)(x)
    model = keras.Model(x, {"a": layers.Dense(1, name="a")(hidden), "b": layers.Dense(1, name="b")(hidden)})
    return losses(compiled(model, wrap(adam()), {"a": "mse", "b": "mae"}), y={"a": Y, "b": Y})


def sequences(wrap, penalty):
    inner = layers.TimeDistributed(layers.Dense(3, kernel_regularizer=penalty))
    model = keras.Sequential([keras.Input((4,)), layers.Embedding(5, 2, mask_zero=True), inner, layers.Bidirectional(layers.SimpleRNN(2))])
    model.add(layers.Dense(1))
    return losses(compiled(model, wrap(adam())), x=np.arange(80).reshape(20, 4) % 5)


def attention(wrap, penalty):
    x = keras.Input((4,))
    hidden = layers.Reshape((4, 1))(x)
    hidden = layers.MultiHeadAttention(2, 2, kernel_regularizer=penalty)(hidden, hidden)
    hidden = layers.EinsumDense("abc,cd->abd", (4, 3), kernel_regularizer=penalty)(hidden)
    return losses(compiled(keras.Model(x, layers.Dense(1)(layers.Flatten()(hidden))), wrap(adam())))


def batches(kind):
    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]

    def generator():
        while True:
            yield from map(Data().__getitem__, range(3))

    def run(wrap, penalty):
        model = compiled(network(penalty), wrap(adam()))
        if kind == "generator":
            return losses(model, generator(), None, steps_per_epoch=3)
        if kind == "own":
            return losses(model, Data(), None)
        if BACKEND == "torch":
            import torch

            pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
            return losses(model, torch.utils.data.DataLoader(pairs, batch_size=8), None)
        import tensorflow as tf

        return losses(model, tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), None)

    return run


def weighted_classes(wrap, penalty):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=penalty), layers.Dense(2)])
    model = compiled(model, wrap(adam()), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return losses(model, y=(Y[:, 0] > 0).astype(int), class_weight={0: 1.0, 1: 3.0}) + losses(
        model, y=(Y[:, 0] > 0).astype(int), sample_weight=np.arange(20.0) / 20
    )


def broken_off(wrap, penalty, directory):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = compiled(network(penalty), wrap(adam()))
        return losses(model, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(directory / "backup"), *callbacks])

    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    return run()


def written(wrap, penalty, directory):
    model = compiled(network(penalty), wrap(adam()))
    callbacks = [
        keras.callbacks.ModelCheckpoint(directory / "best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(directory / "last.weights.h5", save_weights_only=True),
        keras.callbacks.CSVLogger(directory / "log.csv"),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ]
    first = losses(model, validation_data=(X, Y), callbacks=callbacks)
    return first + losses(keras.models.load_model(directory / "best.keras"))


def pickled(wrap, penalty):
    model = compiled(network(penalty), wrap(adam()))
    return losses(model) + losses(pickle.loads(pickle.dumps(model)))


def data_parallel(wrap, penalty):
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:1]))
    try:
        return losses(compiled(network(penalty), wrap(adam())))
    finally:
        keras.distribution.set_distribution(None)


SITUATIONS = {
    "several optimizers": several_optimizers,
    "swapped averages": swapped_averages,
    "float16": in_dtype("mixed_float16"),
    "bfloat16": in_dtype("mixed_bfloat16"),
    "decay with exclusions": decay_with_exclusions,
    "LoRA": lora,
    "thawed": thawed,
    "quantized": quantized,
    "several outputs": several_outputs,
    "sequences": sequences,
    "attention": attention,
    "the backend's batches": batches("of the backend"),
    "own batches": batches("own"),
    "generator": batches("generator"),
    "weighted": weighted_classes,
    "broken off": broken_off,
    "written": written,
    "pickled": pickled,
}
if BACKEND == "jax":
    SITUATIONS["data parallel"] = data_parallel
if not hasattr(keras.optimizers, "MultiOptimizer"):  # new in Keras 3.15
    del SITUATIONS["several optimizers"]


# Made with the penalty in their layers; or with weights of one unit under two optimizers, which is refused.
NOT_BY_ATTACH = ("several optimizers", "several outputs", "sequences", "attention", "weighted")
# Where files, copies or other dtypes are in play; elsewhere gates are layers like others.
WITH_GATES = ("float16", "bfloat16", "broken off", "written", "pickled", "swapped averages", "thawed", "data parallel")


def run(situation, wrap, penalty, directory):
    keras.utils.set_random_seed(0)
    directory.mkdir()
    function = SITUATIONS[situation]
    more = (directory,) if function in (broken_off, written) else ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = function(wrap, penalty, *more)
    # Keras numbers the names of optimizers and layers.
    return found, {re.sub(r"\d+", "", str(warning.message).split("\n")[0]) for warning in caught}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_parity(situation, tmp_path):
    bare, expected = run(situation, lambda optimizer: optimizer, None, tmp_path / "bare")
    ours, warned = run(situation, Proximal, L1(0.0, proximal=True), tmp_path / "ours")
    # What compilers fuse differently, they round differently; float16 shows it soon.
    np.testing.assert_allclose(ours, bare, rtol=2e-3 if "float16" in situation else 1e-4)
    assert warned <= expected
    gates = HardConcreteGate(gate_regularizer=HardConcreteL0(0.05), seed=1)
    things = {"gates": (lambda optimizer: optimizer, gates)} if situation in WITH_GATES else {}
    if BACKEND == "torch":  # where nothing is compiled, more runs cost little
        things |= {
            "group": (Proximal, GroupLasso(0.05, proximal=True)),
            "count": (Proximal, L0Constraint(0.5, scope="model", every=2, regrow=False)),
            "sum": (Proximal, L1(0.05, proximal=True) + GroupLasso(0.05, proximal=True) + L2(0.01)),
            "zeros": (lambda optimizer: Proximal(optimizer, keep_zeros=True), None),
        }
        if situation not in NOT_BY_ATTACH:
            things["budget"] = (Proximal, StructuralL0Constraint(0.6, every=2))
            things["gates"] = (lambda optimizer: optimizer, gates)
    for name, (wrap, penalty) in things.items():
        found, warned = run(situation, wrap, penalty, tmp_path / name)
        assert np.all(np.isfinite(found))
        assert penalty is None or not np.allclose(found, bare, rtol=1e-3), name
        # Keras says of each layer without a kernel that it has no `quantize`, as of its own.
        assert {message for message in warned if "a `quantize` method" not in message} <= expected, name
