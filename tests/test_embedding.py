"""`keras_reg.layers.Embedding` beside Keras's own layer: the same weights, logs, outputs and files."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg import backend
from keras_reg.callbacks import StrengthScheduler, WeightHistogram
from keras_reg.layers import Embedding
from keras_reg.models import attach, compact, detach, sparsity, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, GroupLasso
from keras_reg.selection import strength_max

ROWS, COLUMNS, READ = 200, 6, 8
X = (np.random.default_rng(1).zipf(1.3, (256, READ)) % ROWS).astype("int32")
Y = np.random.default_rng(2).normal(size=(256, 1)).astype("float32")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere it is Keras's layer")


@pytest.fixture(autouse=True)
def rarely(monkeypatch):
    """All rows are brought up to date each 120 updates, so that nearly always rows lag behind."""
    if keras.backend.backend() == "tensorflow":
        from keras_reg.backend import tensorflow_table

        monkeypatch.setattr(tensorflow_table, "PER_UPDATE", 10)


def lasso():
    return L1(1e-3, proximal=True)


def rows():
    return GroupLasso(1e-2, axis=0, proximal=True)


def sgd(**kwargs):
    return keras.optimizers.SGD(0.1, **kwargs)


def adagrad():
    return keras.optimizers.Adagrad(0.1)


def network(layer, penalty=lasso):
    table = layer(ROWS, COLUMNS, embeddings_regularizer=penalty() if penalty else None)
    return keras.Sequential([keras.Input((READ,), dtype="int32"), table, layers.Flatten(), layers.Dense(1)])


def fit(model, optimizer=None, epochs=1, **options):
    if optimizer is not None:
        model.compile(optimizer, "mse", metrics=["mae"], **{k: options.pop(k) for k in ("run_eagerly", "jit_compile") if k in options})
    return model.fit(X, Y, 16, epochs=epochs, shuffle=False, verbose=0, **options).history


def weights(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def same(make):
    """What `make` gives of Keras's layer it gives of ours."""
    found = []
    for layer in (layers.Embedding, Embedding):
        keras.utils.set_random_seed(0)
        found.append([np.asarray(values, "float64") for values in make(layer)])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)
        np.testing.assert_array_equal(ours == 0, theirs == 0)
    return found[1]


def lags(model):
    """Whether there are rows that are not up to date."""
    (table,) = [layer._embeddings for layer in model._flatten_layers() if isinstance(layer, Embedding)]
    return backend.table(table).is_lazy and float(table._clock) > 0


LAZY = {
    "L1, SGD": (lasso, lambda: Proximal(sgd())),
    "rows, SGD": (rows, lambda: Proximal(sgd())),
    "L1, Adagrad": (lasso, lambda: Proximal(adagrad())),
    "L1, Adagrad, euclidean": (lasso, lambda: Proximal(adagrad(), "euclidean")),
    "rows, Adagrad, euclidean": (rows, lambda: Proximal(adagrad(), "euclidean")),
    "clipped": (lasso, lambda: Proximal(sgd(clipnorm=0.1))),
    "falling rate": (lasso, lambda: Proximal(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 40)))),
    "loss scale": (lasso, lambda: keras.optimizers.LossScaleOptimizer(Proximal(sgd()))),
}
EAGER = {
    "bare": (None, sgd),
    "momentum": (lasso, lambda: Proximal(sgd(momentum=0.9))),
    "averages": (lasso, lambda: Proximal(sgd(use_ema=True))),
    "accumulation": (lasso, lambda: Proximal(sgd(gradient_accumulation_steps=2))),
    "decay": (lasso, lambda: Proximal(sgd(weight_decay=0.01))),
    "zeros kept": (lasso, lambda: Proximal(sgd(), keep_zeros=True)),
    "columns": (lambda: GroupLasso(3e-3, axis=-1, proximal=True), lambda: Proximal(sgd())),
    "rows, Adagrad": (rows, lambda: Proximal(adagrad())),
    "L1, Adam": (lasso, lambda: Proximal(keras.optimizers.Adam(0.01))),
    "L2": (lambda: L2(1e-3, proximal=True), lambda: Proximal(sgd())),
    "sum": (lambda: L1(1e-3, proximal=True) + L2(1e-3), lambda: Proximal(sgd())),
    "in the loss": (lambda: L1(1e-3), sgd),
}


@pytest.mark.parametrize("case", [*LAZY, *EAGER] if keras.backend.backend() == "tensorflow" else ["L1, SGD", "bare"])
def test_training(case):
    def trained(layer):
        penalty, optimizer = {**LAZY, **EAGER}[case]
        model = network(layer, penalty)
        logs = fit(model, optimizer(), epochs=2, validation_data=(X[:32], Y[:32]))
        if layer is Embedding and keras.backend.backend() == "tensorflow":
            assert lags(model) == (case in LAZY)
        predicted = model.predict(X[:32], verbose=0)  # before anybody reads the weights
        return [logs["mae"], logs["val_mae"], predicted, *weights(model)]

    table = same(trained)[3]
    if case == "rows, SGD":
        assert 0 < np.mean((table == 0).all(1)) < 1


@on_tensorflow
@pytest.mark.parametrize("case", ["bare", "L1, SGD", "rows, SGD"])
def test_no_step_makes_anything_of_all_rows(case):
    import tensorflow as tf

    def made(layer):
        penalty, optimizer = {**LAZY, **EAGER}[case]
        model = network(layer, penalty)
        fit(model, optimizer())
        graph = tf.function(model.train_step).get_concrete_function((tf.constant(X), tf.constant(Y))).graph
        # What comes now and then is in a graph of its own.
        return [op.type for op in graph.get_operations() for output in op.outputs if output.shape.as_list()[:1] == [ROWS]]

    assert made(layers.Embedding)
    assert not made(Embedding)


@pytest.mark.parametrize("metric", ["auto", "euclidean"])
@pytest.mark.parametrize("inner", [sgd, adagrad])
@pytest.mark.parametrize("penalty", [lambda: L1(0.0, proximal=True), lambda: GroupLasso(0.0, axis=0, proximal=True)], ids=["L1", "rows"])
def test_nothing_at_strength_0(penalty, inner, metric):
    runs = []
    for put_on, optimizer in ((None, inner()), (penalty, Proximal(inner(), metric))):
        keras.utils.set_random_seed(0)
        model = network(Embedding, put_on)
        # What compilers fuse differently, they round differently.
        logs = fit(model, optimizer, validation_data=(X[:32], Y[:32]), run_eagerly=keras.backend.backend() == "tensorflow")
        runs.append([*logs.values(), *weights(model)])
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_allclose(theirs, ours, **({"rtol": 1e-4, "atol": 1e-7} if keras.backend.backend() == "jax" else {"rtol": 0}))


def test_the_penalty_in_the_loss_of_a_small_table(monkeypatch):
    if keras.backend.backend() == "tensorflow":
        from keras_reg.backend import tensorflow_table

        monkeypatch.setattr(tensorflow_table, "PER_UPDATE", 2**14)

    def trained(layer):
        model = network(layer)
        logs = fit(model, Proximal(sgd()), epochs=2, validation_data=(X[:32], Y[:32]))
        return [logs["loss"], logs["val_loss"], model.evaluate(X, Y, verbose=0)]

    same(trained)


def test_the_penalty_in_the_loss_of_a_large_table():
    model = network(Embedding)
    fit(model, Proximal(sgd()), epochs=10)  # 160 updates
    model.set_weights([2 * values for values in model.get_weights()])
    loss, _ = model.evaluate(X, Y, verbose=0)
    values = model.predict(X, verbose=0)
    size = np.abs(model.get_weights()[0]).sum()
    assert loss == pytest.approx(np.mean((values - Y) ** 2) + 1e-3 * size, rel=1e-4)
    model.optimizer.set_strength(5e-3)
    assert model.evaluate(X, Y, verbose=0)[0] - loss == pytest.approx(4e-3 * size, rel=1e-3)
    fit(model)
    assert float(ops.convert_to_numpy(sum(model.losses))) == pytest.approx(5e-3 * np.abs(model.get_weights()[0]).sum(), rel=1e-5)


# Whoever reads, writes or trains the table otherwise in between.


class Tied(keras.Model):
    """Reads the whole table as well, so that its gradient is dense."""

    def __init__(self, layer):
        super().__init__()
        self.table, self.last = layer(ROWS, COLUMNS, embeddings_regularizer=lasso()), layers.Dense(1)

    def call(self, inputs):
        scores = ops.matmul(self.table(inputs), ops.transpose(self.table.embeddings))
        return self.last(ops.reshape(ops.mean(scores, axis=-1), (-1, READ)))


def tied(layer, folder):
    model = Tied(layer)
    fit(model, Proximal(sgd()), epochs=2)
    return weights(model)


def twice_in_a_model(layer, folder):
    table, one, other = layer(ROWS, COLUMNS, embeddings_regularizer=lasso()), keras.Input((READ,)), keras.Input((READ,), dtype="int32")
    model = keras.Model([one, other], layers.Dense(1)(layers.Flatten()(table(one) * table(other))))
    model.compile(Proximal(sgd()), "mse")
    model.fit([X.astype("float32"), X[::-1]], Y, 16, verbose=0, shuffle=False)
    return weights(model)


def moving_strengths(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()), epochs=2, callbacks=[StrengthScheduler(lambda step: 1e-4 * (1 + step), freq=5)])
    model.optimizer.set_strength(5e-3)
    fit(model)
    return weights(model)


def callbacks_that_look(layer, folder):
    model = network(layer)
    checkpoint = keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras")
    fit(model, Proximal(sgd()), epochs=2, callbacks=[WeightHistogram(folder), checkpoint, keras.callbacks.EarlyStopping("loss")])
    first = keras.models.load_model(folder / "1.keras")
    fit(first)
    return [*weights(first), *weights(model), [sparsity(model).total.zeros]]


def files(layer, folder):
    model = network(layer)
    fit(model, Proximal(adagrad()))
    model.save(folder / "a.keras")
    loaded = keras.models.load_model(folder / "a.keras")
    assert type(loaded.layers[0]) is layer
    fit(loaded)
    loaded.save_weights(folder / "b.weights.h5")
    other = network(layer)
    other.load_weights(folder / "b.weights.h5")
    clone = keras.models.clone_model(other)
    clone.set_weights(other.get_weights())
    return [*weights(clone), clone.predict(X, verbose=0)]


def weights_set(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()))
    before = model.get_weights()
    fit(model)
    model.set_weights(before)  # while rows lag behind
    return weights(model)


def other_penalties(layer, folder):
    model = network(layer, None)
    attach(model, lasso(), include=layers.Embedding)
    fit(model, Proximal(sgd()))
    detach(model)
    attach(model, rows(), include=layers.Embedding)
    fit(model, Proximal(sgd()))
    detach(model)
    fit(model, keras.optimizers.Adam(0.01))
    return weights(model)


def other_optimizers(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()))
    fit(model, keras.optimizers.Adam(0.01))  # the gradient of the penalty joins the loss
    fit(model, Proximal(adagrad()))
    model.layers[0].trainable = False
    fit(model, sgd())
    return weights(model)


def low_rank_training(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()))
    model.layers[0].enable_lora(2)
    fit(model, sgd())
    return weights(model)


def half_precision(layer, folder):
    table = layer(ROWS, COLUMNS, embeddings_regularizer=lasso(), dtype="mixed_float16")
    model = keras.Sequential([keras.Input((READ,), dtype="int32"), table, layers.Flatten(), layers.Dense(1)])
    model.compile(Proximal(sgd()), "mse")
    model.fit(X, Y, 16, verbose=0, shuffle=False)
    return weights(model)


def quantized(layer, folder):
    model = network(layer)
    model.compile(Proximal(sgd()), "mse")
    model.quantize("int8")
    assert model.layers[0].quantization_mode == "int8"
    return [model.predict(X, verbose=0)]


def step_by_step(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()), run_eagerly=True)
    return weights(model)


def values_from_outside(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()))
    doubled = [2 * values for values in model.get_weights()]
    fit(model)
    return [model.stateless_call(doubled, [], X)[0], list(strength_max(model, X, Y).weights.values()), model.predict(X, verbose=0)]


def negative_numbers(layer, folder):
    model = network(layer)
    model.compile(Proximal(sgd()), "mse")
    model.fit(X - ROWS // 2, Y, 16, verbose=0, shuffle=False)
    return weights(model)


def stripped(layer, folder):
    model = network(layer)
    fit(model, Proximal(sgd()))
    plain = strip(model)
    assert type(plain.layers[0]) is layers.Embedding
    return [*weights(plain), plain.predict(X, verbose=0), compact(model).predict(X, verbose=0)]


SITUATIONS = [tied, twice_in_a_model, moving_strengths, callbacks_that_look, files, weights_set, other_penalties, other_optimizers]
SITUATIONS += [low_rank_training, half_precision, quantized, step_by_step, values_from_outside, negative_numbers, stripped]


@pytest.mark.filterwarnings("ignore:.*is proximal, but no optimizer applies its prox", "ignore:.*has nothing to apply")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("situation", SITUATIONS if keras.backend.backend() == "tensorflow" else [files, stripped])
def test_situation(situation, tmp_path):
    same(lambda layer: situation(layer, tmp_path))


@on_tensorflow
def test_steps_are_not_added_up_in_half_precision():
    table = Embedding(ROWS, COLUMNS, embeddings_regularizer=lasso(), dtype="bfloat16")
    table.build()
    Proximal(sgd()).build(table.trainable_variables)
    assert not backend.table(table._embeddings).is_lazy


def loop_of_ones_own(layer, compiled):
    import tensorflow as tf

    model, optimizer = network(layer), Proximal(sgd())
    optimizer.build(model.trainable_variables)

    def step(x, y, dense):
        with tf.GradientTape() as tape:
            loss = ops.mean((model(x, training=True) - y) ** 2) + sum(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply([tf.convert_to_tensor(g) if dense else g for g in gradients], model.trainable_variables)

    step = tf.function(step) if compiled else step
    for number, start in enumerate(range(0, len(X), 16)):
        step(X[start : start + 16], Y[start : start + 16], number % 3 == 2)
    return weights(model)


def saved_model(layer, folder):
    import tensorflow as tf

    model = network(layer)
    fit(model, Proximal(sgd()))
    model.export(folder, verbose=0)
    loaded = tf.saved_model.load(folder)
    return [loaded.serve(X).numpy(), model.predict(X, verbose=0)]


def litert(layer, folder):
    import tensorflow as tf

    model = network(layer)
    fit(model, Proximal(sgd()))
    model.export(folder / "model.tflite", format="litert", verbose=0)
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], X.astype(given["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(made["index"]), model.predict(X, verbose=0)]


def checkpoint_of_tensorflow(layer, folder):
    import tensorflow as tf

    model = network(layer)
    fit(model, Proximal(sgd()))
    saved = tf.train.Checkpoint(model=model).save(str(folder / "c"))
    fit(model)
    tf.train.Checkpoint(model=model).restore(saved)
    return weights(model)


def replicas(layer, folder):
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = network(layer)
        model.compile(Proximal(sgd()), "mse")
    fit(model)
    return weights(model)


def ragged_and_sparse(layer, folder):
    import tensorflow as tf

    table = layer(ROWS, COLUMNS)
    found = table(tf.sparse.from_dense(X[:4])), table(tf.ragged.constant([[1, 2], [3]])).to_tensor()
    return [ops.convert_to_numpy(ops.convert_to_tensor(values, sparse=False)) for values in found]


OF_TENSORFLOW = [saved_model, litert, checkpoint_of_tensorflow, replicas, ragged_and_sparse]
OF_TENSORFLOW += [lambda layer, folder: loop_of_ones_own(layer, True), lambda layer, folder: loop_of_ones_own(layer, False)]


@on_tensorflow
@pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("situation", OF_TENSORFLOW, ids=lambda situation: situation.__name__)
def test_situation_of_tensorflow(situation, tmp_path):
    same(lambda layer: situation(layer, tmp_path))
