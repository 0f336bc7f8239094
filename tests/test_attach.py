"""Penalties on models that exist already: they act at once, last through saving, and leave no trace when taken off."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from architectures import APPLICATIONS, SMALL, Block, OwnKernel, Subclassed, application, data, functional
from keras import layers, ops

from keras_reg.models import attach, check, detach
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2, GroupLasso

BACKEND = keras.backend.backend()
KERAS = tuple(map(int, keras.__version__.split(".")[:2]))
STRENGTH, RATE = 0.01, 0.1

RELOAD = """
import json, sys
import keras
import keras_reg
import architectures

for name in json.loads(sys.argv[2]):
    if name.endswith("-like"):
        import keras_hub
    model = keras.models.load_model(f"{sys.argv[1]}/{name}.keras")
    if not model.built:
        model(architectures.data(model)[0])
    losses = [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses]
    again = model
    if name in ("own layers", "subclassed", "BERT-like"):
        model.save(f"{sys.argv[1]}/{name}.again.keras")
        again = keras.models.load_model(f"{sys.argv[1]}/{name}.again.keras")
    print("LOSSES", json.dumps([name, losses, [float(keras.ops.convert_to_numpy(loss)) for loss in again.losses]]))
"""


def reload_in_a_fresh_process(folder, names):
    paths = [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", RELOAD, str(folder), json.dumps(list(names))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    return {name: (losses, again) for name, losses, again in rows}


def numbers(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def losses_of(model):
    return [float(ops.convert_to_numpy(loss)) for loss in model.losses]


def kernels(model):
    """What the default selection means, said in another way: no vector and no statistic."""
    return [v for v in model.trainable_variables if any(part in v.name for part in ("kernel", "embedding"))]


def step(model, start, x, y):
    """Loss and weights after one step from a given state."""
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    model.reset_metrics()
    keras.utils.set_random_seed(0)  # dropout of PyTorch's draws from there
    loss = float(np.ravel(model.train_on_batch(x, y))[0])
    return loss, numbers(model.trainable_variables)


def cycle(model, folder, name, train=True):
    """All that must hold of one architecture but the fresh process; gives the losses that it must find."""
    before, config, kind = numbers(model.weights), model.get_config(), type(model)
    if train:
        x, y = data(model)
        # Compiling each step twice takes longest on TensorFlow, and running it operation by operation on JAX.
        model.compile(keras.optimizers.SGD(RATE), keras.losses.MeanSquaredError(), run_eagerly=BACKEND != "jax")
        start = numbers(model.variables)
        loss, plain = step(model, start, x, y)
    assert not model.losses

    table = attach(model, L1(STRENGTH))
    penalised = kernels(model)
    assert len(table.rows) == len(penalised)
    assert all(v.regularizer is not None for v in penalised)
    assert not check(model), check(model)
    if train:
        loss_after, moved = step(model, start, x, y)
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        total = STRENGTH * sum(np.abs(np.float64(v)).sum() for v in numbers(penalised))
        np.testing.assert_allclose(loss_after - loss, total, rtol=1e-3)
        theirs = {id(v) for v in penalised}
        for variable, a, b in zip(model.trainable_variables, plain, moved, strict=True):
            slope = STRENGTH * np.sign(numbers([variable])[0]) if id(variable) in theirs else np.zeros_like(a)
            np.testing.assert_allclose((a - b) / RATE, slope, atol=1e-4 * max(1, np.abs(a).max()), err_msg=variable.path)
    expected = [STRENGTH * np.abs(v).sum() for v in numbers(penalised)]
    np.testing.assert_allclose(sorted(losses_of(model)), sorted(expected), rtol=1e-4)
    model.save(folder / f"{name}.keras")
    losses = losses_of(model)

    detach(model)
    assert not model.losses
    assert model.get_config() == config
    assert type(model) is kind
    for a, b in zip(before, numbers(model.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    return losses


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Each small architecture through the cycle, and their losses in one fresh process."""
    folder = tmp_path_factory.mktemp("small")
    expected, failures = {}, {}
    for name, make in SMALL.items():
        keras.utils.set_random_seed(0)
        try:
            # JAX would spend minutes on compiling all of them twice.
            expected[name] = cycle(make(), folder, name, train=BACKEND != "jax" or name in ("dense", "text", "own layers", "subclassed"))
        except Exception as error:
            failures[name] = error
    return expected, reload_in_a_fresh_process(folder, expected), failures


def assert_reloaded(results, name):
    expected, reloaded, failures = results
    if name in failures:
        raise failures[name]
    assert expected[name]
    for losses in reloaded[name]:
        np.testing.assert_allclose(sorted(losses), sorted(expected[name]), rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_attach_train_save_reload_detach(small, name):
    assert_reloaded(small, name)


if BACKEND == "tensorflow":

    @pytest.fixture(scope="module")
    def applications(tmp_path_factory):
        """Without a step of training: `benchmarks/attach_zoo.py` takes one with each."""
        folder = tmp_path_factory.mktemp("applications")
        expected = {}
        for name in APPLICATIONS:
            if name not in SMALL:
                expected[name] = cycle(application(name), folder, name, train=False)
                keras.backend.clear_session()
        return expected, reload_in_a_fresh_process(folder, expected), {}

    @pytest.mark.parametrize("name", [name for name in APPLICATIONS if name not in SMALL])
    def test_applications(applications, name):
        assert_reloaded(applications, name)


def small_model(**arguments):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(5, activation="relu", name="hidden", **arguments)
    return keras.Sequential([keras.Input((4,)), hidden, layers.BatchNormalization(name="norm"), layers.Dense(2, name="output")])


def fit(model, epochs=1):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 2)).astype("float32")
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def chosen(table):
    return [row.weight for row in table.rows]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_acts_at_once_on_a_model_already_fitted_and_stops_at_once(optimizer):
    """The step that was compiled before holds no penalty; nothing is compiled by the user in between."""
    model, twin = small_model(), small_model()
    for each in (model, twin):
        each.compile(optimizer, "mse", metrics=["mae"])
        fit(each, 3)
        each.evaluate(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    flags = [v.trainable for v in model.weights]
    state = numbers([*model.weights, *model.optimizer.variables, *model.metrics_variables])
    objects = model.optimizer, model.loss, model._compile_loss, model._compile_metrics, model._loss_tracker
    attach(model, keras.regularizers.L1(0.1))
    assert (model.optimizer, model.loss, model._compile_loss, model._compile_metrics, model._loss_tracker) == objects
    for a, b in zip(state, numbers([*model.weights, *model.optimizer.variables, *model.metrics_variables]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [v.trainable for v in model.weights] == flags
    penalty = 0.1 * sum(np.abs(v).sum() for v in numbers(kernels(model)))
    before, plain = numbers(kernels(model)), fit(twin)[0]
    assert fit(model)[0] == pytest.approx(plain + penalty, rel=1e-5)
    if optimizer == "sgd":
        for start, a, b in zip(before, numbers(kernels(twin)), numbers(kernels(model)), strict=True):
            np.testing.assert_allclose(a - b, 0.01 * 0.1 * np.sign(start), atol=1e-6)
    x, y = np.ones((2, 4)), np.ones((2, 2))
    with_penalty = model.evaluate(x, y, verbose=0)[0]
    penalty = 0.1 * sum(np.abs(v).sum() for v in numbers(kernels(model)))
    detach(model)
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(with_penalty - penalty, rel=1e-5)
    twin.set_weights(model.get_weights())
    if optimizer == "sgd":
        assert fit(model)[0] == pytest.approx(fit(twin)[0], rel=1e-6)


SELECTIONS = {
    "default": ({}, ["hidden/kernel", "output/kernel"]),
    "layer type": ({"include": layers.Dense, "weights": "bias"}, ["hidden/bias", "output/bias"]),
    "name": ({"include": "hidden"}, ["hidden/kernel"]),
    "weight pattern": ({"include": "*/kernel", "exclude": "out*"}, ["hidden/kernel"]),
    "predicate": ({"include": lambda layer: getattr(layer, "units", 0) > 3}, ["hidden/kernel"]),
    "exclude": ({"exclude": ["hidden", "norm"]}, ["output/kernel"]),
    "all weights": (
        {"weights": ["kernel", "gamma", "bias"]},
        ["hidden/kernel", "hidden/bias", "norm/gamma", "output/kernel", "output/bias"],
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_is_selected(name):
    arguments, expected = SELECTIONS[name]
    model = small_model()
    table = attach(model, L2(0.1), **arguments)
    assert chosen(table) == expected
    assert sorted(v.path.removeprefix(f"{model.name}/") for v in model.weights if v.regularizer is not None) == sorted(expected)
    assert all(name in str(table) and name in table._repr_html_() for name in expected)


def test_layers_and_variables_themselves_are_selected():
    model = small_model()
    assert chosen(attach(model, L1(0.1), include=model.get_layer("hidden"))) == ["hidden/kernel"]
    assert chosen(attach(model, L2(0.1), include=[model.get_layer("output").bias])) == ["output/bias"]
    assert chosen(detach(model, include=model.get_layer("output"))) == ["output/bias"]
    assert chosen(detach(model)) == ["hidden/kernel"]


def test_a_mapping_decides_by_its_first_key_that_answers():
    model = small_model()
    attach(model, {"output": None, layers.Dense: GroupLasso(0.1, axis=-2), "norm": L1(0.2)}, weights=["kernel", "gamma"])
    assert isinstance(model.get_layer("hidden").kernel.regularizer, GroupLasso)
    assert model.get_layer("norm").gamma.regularizer.get_config() == L1(0.2).get_config()
    assert model.get_layer("output").kernel.regularizer is None
    assert model.get_layer("hidden").kernel.regularizer is model.get_layer("hidden").kernel_regularizer


def test_every_place_gets_a_penalty_of_its_own():
    model, penalty = small_model(), L1(0.1)
    attach(model, penalty)
    hidden, output = (model.get_layer(name).kernel.regularizer for name in ("hidden", "output"))
    assert hidden is not output
    assert penalty not in (hidden, output)


def test_a_part_of_an_attention_layer(tmp_path):
    """One argument serves four kernels: a penalty on one of them has to be kept around the layer."""
    model = functional((5, 4), lambda x: layers.MultiHeadAttention(2, 3, name="attention")(x, x))
    kind = type(model.get_layer("attention"))
    model.save(tmp_path / "plain.keras")
    config = keras.models.load_model(tmp_path / "plain.keras").get_config()
    (row,) = attach(model, L1(0.1), include="attention/query").rows
    assert row.kept == "around MultiHeadAttention"
    assert isinstance(model.get_layer("attention"), layers.MultiHeadAttention)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.weights if v.regularizer is not None] == ["attention/query/kernel"]
    np.testing.assert_allclose(losses_of(loaded), losses_of(model), rtol=1e-6)
    clone = keras.models.clone_model(loaded)
    clone.set_weights(loaded.get_weights())
    np.testing.assert_allclose(losses_of(clone), losses_of(model), rtol=1e-6)
    # With the others it is what the argument can say again.
    attach(loaded, L1(0.1))
    assert type(loaded.get_layer("attention")) is kind
    detach(loaded, include="attention/value*")
    assert [v.path.split("/")[1] for v in loaded.weights if v.regularizer is not None] == ["query", "key", "attention_output"]
    detach(loaded)
    assert loaded.get_config() == config


def test_a_user_class_stays_what_it_is(tmp_path):
    model = functional((5, 4), lambda x: layers.Dense(2)(Block(4, name="block")(x)))
    attach(model, L1(0.1))
    block = model.get_layer("block")
    assert isinstance(block, Block)
    assert type(block).__name__ == "Block"
    assert "Block" in repr(block)
    block.units = 7  # its own attributes are still its own
    assert block.get_config()["layer"]["config"]["units"] == 7


def test_clones_of_user_models():
    model = SMALL["subclassed"]()
    attach(model, L1(0.1))
    clone = keras.models.clone_model(model)
    if not clone.built:
        clone(data(model)[0])
    clone.set_weights(model.get_weights())
    assert isinstance(clone, Subclassed)
    np.testing.assert_allclose(losses_of(clone), losses_of(model), rtol=1e-5)


def test_a_class_that_has_changed_since_is_an_error(tmp_path):
    model = functional((4,), lambda x: OwnKernel()(x))
    attach(model, L1(0.1))
    config = model.get_config()
    (layer,) = (each for each in config["layers"] if each["registered_name"] == "keras_reg>WithPenalties")
    layer["config"]["keras_reg_penalties"][0]["shape"] = [4, 9]
    with pytest.raises(ValueError, match=r"do not fit it: weight 0 was 'kernel' of shape \(4, 9\) and is .*Has the class changed"):
        keras.Model.from_config(config)


@keras.saving.register_keras_serializable("tests")
class NotRebuilt(layers.Layer):
    """Keras cannot make it from its config."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.function = layers.Dense(3), function

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.function(self.dense(x))


def test_what_would_not_last_is_an_error_before_anything_is_changed():
    model = functional((4,), lambda x: NotRebuilt(ops.tanh, name="odd")(layers.Dense(3, name="plain")(x)))
    with pytest.raises(ValueError, match=r"nothing was changed: 'odd' \(NotRebuilt\): Keras cannot rebuild it .*exclude="):
        attach(model, L1(0.1))
    assert not model.losses
    assert model.get_layer("plain").kernel_regularizer is None
    assert chosen(attach(model, L1(0.1), exclude="odd")) == ["plain/kernel"]
    table = attach(model, L1(0.1), lasting=False)
    assert [row.kept for row in table.rows] == ["Dense.kernel_regularizer", None]
    assert len(model.losses) == 2


def test_a_failure_half_way_leaves_no_trace(monkeypatch):
    """A layer that is rebuilt well once and not the next time: the first half is taken back."""
    model = functional((5, 4), lambda x: Block(4, name="late")(layers.Dense(4, name="early")(x)))
    config, kind = model.get_config(), type(model.get_layer("late"))
    calls = []

    def build(self, shape):
        calls.append(shape)
        if len(calls) > 1:
            raise RuntimeError("out of luck")
        self.widen.build(shape)
        self.narrow.build((*shape[:-1], 2 * self.units))

    monkeypatch.setattr(Block, "build", build)
    with pytest.raises(ValueError, match=r"'late' \(Block\): Keras cannot rebuild it \(out of luck\)"):
        attach(model, L1(0.1))
    assert len(calls) == 2
    assert not model.losses
    assert type(model.get_layer("late")) is kind
    assert model.get_config() == config


def test_a_class_that_penalises_its_weights_itself(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Penalised(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3), regularizer=keras.regularizers.L2(0.1))

        def call(self, x):
            return ops.matmul(x, self.kernel)

    model = functional((4,), lambda x: Penalised(name="penalised")(x))
    assert not check(model)
    detach(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.losses
    attach(loaded, keras.regularizers.L2(0.1))
    assert type(loaded.get_layer("penalised")) is Penalised


def test_lora():
    """The weights that are trained get the penalty; the kernel that is frozen for them carries it without effect, as in Keras."""
    model = small_model()
    model.get_layer("hidden").enable_lora(2)
    table = attach(model, L1(0.1), include="hidden")
    assert [(row.weight, row.note) for row in table.rows] == [
        ("hidden/kernel", "frozen, left out"),
        ("hidden/lora_kernel_a", ""),
        ("hidden/lora_kernel_b", ""),
    ]
    assert len(model.losses) == 2
    assert not check(model)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(losses_of(clone), losses_of(model), rtol=1e-6)
    detach(model)
    assert not any(v.regularizer is not None for v in model.weights)


def test_quantized_layers_are_left_out_by_default_and_refused_by_name():
    model = small_model()
    model.get_layer("hidden").quantize("int8")
    notes = {row.weight: row.note for row in attach(model, L1(0.1)).rows}
    assert notes == {"hidden/kernel": "frozen, left out", "output/kernel": ""}
    with pytest.raises(ValueError, match="'hidden/kernel' is of dtype int8: quantized weights cannot be penalised"):
        attach(model, L1(0.1), include=model.get_layer("hidden")._kernel)


def test_frozen_weights_are_left_out_until_they_are_trained():
    model = small_model()
    model.get_layer("hidden").trainable = False
    notes = {row.weight: row.note for row in attach(model, L1(0.1)).rows}
    assert notes == {"hidden/kernel": "frozen, left out", "output/kernel": ""}
    with pytest.raises(ValueError, match=r"All selected weights are frozen.*hidden/kernel"):
        attach(model, L1(0.1), include="hidden")
    model.get_layer("hidden").trainable = True
    notes = {row.weight: row.note for row in attach(model, L1(0.1)).rows}
    assert notes == {"hidden/kernel": "", "output/kernel": "had it already"}
    assert len(model.losses) == 2


def test_shared_embeddings():
    """One variable, used at both ends of the model."""

    def tied(x):
        embedding = layers.ReversibleEmbedding(7, 4, name="tied")
        return embedding(layers.Dense(4)(embedding(x)), reverse=True)

    model = functional((5,), tied)
    assert chosen(attach(model, L1(0.1), include="tied")) == ["tied/embeddings"]
    np.testing.assert_allclose(losses_of(model), [0.1 * np.abs(numbers([model.get_layer("tied").embeddings])[0]).sum()], rtol=1e-5)


def test_mixed_precision():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="mixed_bfloat16")])
    attach(model, L1(0.1))
    np.testing.assert_allclose(losses_of(model), [0.1 * np.abs(numbers(kernels(model))[0]).sum()], rtol=1e-5)


def test_a_proximal_penalty_under_an_optimizer_already_at_work(tmp_path):
    model = small_model(kernel_regularizer=L1(0.5, proximal=True))
    model.compile(Proximal(keras.optimizers.Adam(0.01)), keras.losses.MeanSquaredError())
    fit(model, 2)
    memory = numbers(model.optimizer.inner_optimizer.variables)
    attach(model, L1(5.0, proximal=True), include="output")
    for a, b in zip(memory, numbers(model.optimizer.inner_optimizer.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {path.split("/")[-2] for path in model.optimizer.strengths} == {"hidden", "output"}
    fit(model, 60)
    assert not np.any(numbers([model.get_layer("output").kernel])[0])
    assert not check(model)
    # One that claims the first kernel after the second keeps their strengths apart in the file.
    detach(model, include="hidden")
    attach(model, L1(0.25, proximal=True), include="hidden")
    assert list(model.optimizer.strengths.values()) == [0.25, 5.0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    strengths = {path.split("/")[-2]: value for path, value in loaded.optimizer.strengths.items()}
    assert strengths == {"hidden": 0.25, "output": 5.0}
    fit(loaded)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer], ids=["alone", "LossScale"])
def test_the_last_proximal_penalty_leaves_a_model_that_trains_as_the_inner_optimizer_does(trained, wrap):
    model = small_model(kernel_regularizer=L1(0.5, proximal=True))
    model.compile(wrap(Proximal(keras.optimizers.SGD(0.01), name="prox")), "mse")
    if trained:
        fit(model)
    table = detach(model)
    line = "'prox' has no penalty left to apply: until one with `proximal=True` is attached, or the model is compiled anew, it trains as"
    assert str(table).splitlines()[-1] == f"{line} SGD does."
    assert line.split(":")[0].replace("'", "&#x27;") in table._repr_html_()
    assert not model.losses
    twin = small_model()
    twin.set_weights(model.get_weights())
    twin.compile(wrap(keras.optimizers.SGD(0.01)), "mse")
    for each in (model, twin):
        fit(each)
    for a, b in zip(numbers(twin.weights), numbers(model.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    table = attach(model, L1(500.0, proximal=True), include="output")
    assert not table.note
    fit(model)
    assert not np.any(numbers([model.get_layer("output").kernel])[0])


def test_another_penalty_in_the_place_of_the_present_one():
    model = small_model(kernel_regularizer=L2(0.1))
    table = attach(model, L1(0.2), replace=True)
    assert [(row.weight, row.note) for row in table.rows] == [("hidden/kernel", "replaced L2(l2=0.1)"), ("output/kernel", "")]
    np.testing.assert_allclose(losses_of(model), [0.2 * np.abs(v).sum() for v in numbers(kernels(model))], rtol=1e-5)
    assert [row.note for row in attach(model, L1(0.2), replace=True).rows] == ["had it already"] * 2
    assert not check(model)
    assert isinstance(keras.models.clone_model(model).get_layer("hidden").kernel.regularizer, L1)


def test_another_penalty_under_an_optimizer_already_at_work():
    """Compared with what acts now: the strength it was given, or the one it was moved to."""
    model = small_model(kernel_regularizer=L1(1e-3, proximal=True))
    model.compile(Proximal(keras.optimizers.SGD(0.01)), "mse")
    fit(model)
    hidden = {"include": "hidden"}
    for other in (L1(5e-3, proximal=True), L1(1e-3), L2(1e-3, proximal=True)):
        with pytest.raises(ValueError, match=r"'hidden/kernel' already has L1\(l1=0.001, proximal=True\).*`replace=True`"):
            attach(model, other, **hidden)
    assert [row.note for row in attach(model, L1(1e-3, proximal=True), **hidden).rows] == ["had it already"]
    model.optimizer.set_strength(0.5)
    with pytest.raises(ValueError, match=r"already has L1\(l1=0.5, proximal=True\)"):
        attach(model, L1(1e-3, proximal=True), **hidden)
    assert [row.note for row in attach(model, L1(0.5, proximal=True), **hidden).rows] == ["had it already"]
    (row,) = attach(model, L1(500.0, proximal=True), **hidden, replace=True).rows
    assert row.note == "replaced L1(l1=0.5, proximal=True)"
    assert list(model.optimizer.strengths.values()) == [500.0]
    fit(model)
    assert not np.any(numbers([model.get_layer("hidden").kernel])[0])
    # By one that acts in the loss.
    table = attach(model, L1(0.25), **hidden, replace=True)
    assert "has no penalty left to apply" in table.note
    assert not model.optimizer.strengths
    fit(model)


def test_the_random_state_is_left_alone():
    model = small_model()

    def drawn():
        numbers = np.random.rand(), layers.Dense(3).kernel_initializer.seed
        if KERAS < (3, 13):  # in which a seed does not reach the generator of all that have none
            return numbers
        return (np.array(ops.convert_to_numpy(keras.random.normal((3,), seed=None))), *numbers)

    keras.utils.set_random_seed(1)
    expected = drawn()
    keras.utils.set_random_seed(1)
    attach(model, L1(0.1))
    detach(model)
    for a, b in zip(expected, drawn(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"penalty": 0.1}, TypeError, "Argument `penalty` must be a regularizer"),
        ({"penalty": "l1l2"}, ValueError, "does nothing"),
        ({"penalty": L1(0.1), "include": "nowhere"}, ValueError, "Argument `include` holds 'nowhere', which no weight answers to"),
        ({"penalty": L1(0.1), "exclude": 3}, TypeError, "Argument `exclude` must hold layer types"),
        ({"penalty": L1(0.1), "weights": "w"}, ValueError, "No weight is left of .*weights='w'"),
        ({"penalty": L1(0.1), "weights": 3}, TypeError, "Argument `weights`"),
        ({"penalty": L1(0.1), "lasting": 1}, TypeError, "Argument `lasting`"),
        ({"penalty": L1(0.1), "replace": None}, TypeError, "Argument `replace`"),
        ({"penalty": {}}, ValueError, "must not be an empty mapping"),
        ({"penalty": {"nowhere": L1(0.1)}}, ValueError, "Argument `penalty` holds 'nowhere'"),
        ({"penalty": GroupLasso(0.1, axis=3)}, ValueError, "cannot act on 'hidden/kernel' of shape .*Argument `axis`"),
        ({"penalty": lambda w: 0.0}, TypeError, "Argument `penalty` must be a regularizer"),
    ],
)
def test_errors_change_nothing(arguments, error, message):
    model = small_model()
    config = model.get_config()
    with pytest.raises(error, match=message):
        attach(model, **arguments)
    assert model.get_config() == config
    assert not model.losses


def test_errors_of_models_and_of_weights_that_have_a_penalty():
    with pytest.raises(TypeError, match="Argument `model` must be a Keras model"):
        attach("model", L1(0.1))
    with pytest.raises(ValueError, match="Argument `model` must have weights"):
        attach(keras.Sequential([layers.Dense(3)]), L1(0.1))
    model = small_model(kernel_regularizer=L2(0.1))
    with pytest.raises(ValueError, match=r"'hidden/kernel' already has L2\(l2=0.1\).*detach"):
        attach(model, L1(0.1))
    assert model.get_layer("output").kernel_regularizer is None
    with pytest.raises(ValueError, match="None of the selected weights has a penalty"):
        detach(model, include="output")
