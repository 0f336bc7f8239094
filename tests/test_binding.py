"""Exactly one of prox and gradient acts, whoever trains; and what stands in the place of a penalty passes for it."""

import copy
import gc
import pickle
import sys
import warnings
import weakref

import keras
import numpy as np
import pytest
from event_files import Events
from keras import layers, ops
from keras.src.backend.common import global_state

from keras_reg.callbacks import StrengthScheduler, WeightHistogram
from keras_reg.models import attach, check
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso, StructuralGroupLasso

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")


def make(penalty=None, optimizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, kernel_regularizer=penalty or L1(0.3, proximal=True), name="only")])
    model.compile(optimizer or Proximal(keras.optimizers.SGD(0.1)), "mse")
    return model


def kernel(model):
    return ops.convert_to_numpy(model.get_layer("only").kernel)


def expected(steps=20):
    model = make()
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return kernel(model)


class WithOwnOptimizer(keras.Model):
    """The pattern of GANs: a step that applies an optimizer which is not `model.optimizer`."""

    def __init__(self, optimizer=None, held=lambda optimizer: optimizer):
        super().__init__()
        self.inner = make()
        if optimizer is not None:
            self.own = held(optimizer)

    def call(self, x):
        return self.inner(x)

    def compile(self, own_optimizer=None, **kwargs):
        super().compile(optimizer="adam", loss="mse", **kwargs)
        if own_optimizer is not None:
            self.own = own_optimizer

    def optimizer_of_its_own(self):
        return next(iter(self.own.values())) if isinstance(self.own, dict) else self.own[0] if isinstance(self.own, list) else self.own

    def train_step(self, *args):
        optimizer = self.optimizer_of_its_own()
        if BACKEND == "jax":
            state, (x, y, *_) = args
            trainable, others, _, metrics = state

            def loss_of(trainable):
                prediction, _, losses = self.stateless_call(trainable, others, x, return_losses=True)
                return ops.mean(ops.square(y - prediction)) + sum(losses)

            import jax

            loss, grads = jax.value_and_grad(loss_of)(trainable)
            # The variables of this optimizer are not the trainer's: a step compiled by hand carries them.
            trainable, _ = optimizer.stateless_apply([v.value for v in optimizer.variables], grads, trainable)
            return {"loss": loss}, (trainable, others, state[2], metrics)
        x, y, *_ = args[0]
        variables = self.inner.trainable_variables
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(y - self(x))) + sum(self.inner.losses)
            grads = tape.gradient(loss, variables)
        else:
            self.zero_grad()
            loss = ops.mean(ops.square(ops.convert_to_tensor(y) - self(x))) + sum(self.inner.losses)
            loss.backward()
            grads = [v.value.grad for v in variables]
        optimizer.apply(grads, variables)
        return {"loss": loss}


@pytest.mark.parametrize("where", ["compile", "init", "dict", "list"])
def test_a_step_that_applies_an_optimizer_of_its_own(where):
    """Built before the first loss, as its docstring asks: the prox acts and the gradient does not."""
    optimizer = Proximal(keras.optimizers.SGD(0.1))
    held = {"dict": lambda o: {"one": o}, "list": lambda o: [o]}.get(where, lambda o: o)
    model = WithOwnOptimizer(None if where == "compile" else optimizer, held)
    model.compile(optimizer if where == "compile" else None)
    model(X[:1])
    optimizer.build(model.inner.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(20):
            model.train_on_batch(X, Y)
    np.testing.assert_allclose(kernel(model.inner), expected(), rtol=1e-4, atol=1e-6)


def test_an_old_proximal_of_a_model_inside_does_not_stop_the_gradient():
    """The outer model trains the weights with a bare optimizer, although the inner one was compiled with a prox once."""
    inner = make()
    inner.train_on_batch(X, Y)
    start = inner.get_weights()
    outer = keras.Sequential([keras.Input((4,)), inner])
    outer.compile(keras.optimizers.SGD(0.1), "mse")
    bare = make(L1(0.3), keras.optimizers.SGD(0.1))
    bare.set_weights(start)
    with pytest.warns(UserWarning, match="no optimizer applies its prox"):
        outer.train_on_batch(X, Y)
    bare.train_on_batch(X, Y)
    np.testing.assert_allclose(kernel(inner), kernel(bare), rtol=1e-5)


def structural():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(1, name="last")])
    attach(model, StructuralGroupLasso(0.5))
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_only_what_is_updated_moves():
    """Subsets handed to `apply`, and frozen parts of a structure."""
    model = structural()
    first, bias = model.get_layer("first").weights
    before = ops.convert_to_numpy(first)
    if BACKEND != "jax":
        bias.assign(np.ones(3))
        model.optimizer.apply([ops.zeros((3,))], [bias])
        np.testing.assert_array_equal(ops.convert_to_numpy(first), before)
        assert (ops.convert_to_numpy(bias) < 1).all()
    first.trainable = False
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(first), before)


def test_a_prox_is_for_weights():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, activity_regularizer=L1(0.1, proximal=True), name="a"), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="A prox is for weights"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("case", ["second-fit", "strength-callback", "unbuilt"])
def test_histograms_of_gradients_under_proximal(case, tmp_path):
    penalty = L1(0.1, proximal=True)
    model = keras.Sequential([*([] if case == "unbuilt" else [keras.Input((4,))]), layers.Dense(1, kernel_regularizer=penalty)])
    model.compile(Proximal("adam"), "mse")
    if case == "second-fit":
        model.fit(X, Y, verbose=0)
    callbacks = [WeightHistogram(tmp_path, gradients=(X, Y))]
    callbacks += [StrengthScheduler(lambda epoch: 0.1)] * (case == "strength-callback")
    for order in (callbacks, callbacks[::-1]):
        model.fit(X, Y, verbose=0, callbacks=order)
    assert any("gradient" in tag for tag in Events(tmp_path / "weights").scalars | Events(tmp_path / "weights").histograms)


def test_what_stands_for_a_penalty_passes_for_it():
    model = make()
    model.fit(X, Y, verbose=0)
    own = model.get_layer("only").kernel.regularizer
    assert isinstance(own, L1)
    assert isinstance(own, keras.regularizers.Regularizer)
    assert repr(own) == "L1(l1=0.3, proximal=True)"
    assert keras.regularizers.get(own) is own
    for other in (copy.copy(own), copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert type(other) is L1
        assert other.get_config() == own.get_config()
    assert keras.saving.serialize_keras_object(own) == keras.saving.serialize_keras_object(L1(0.3, proximal=True))
    assert own.prox([1.0], 1.0).shape == (1,)
    assert not check(model)


def test_nothing_is_kept_alive():
    model = make()
    model.fit(X, Y, verbose=0, callbacks=[StrengthScheduler(lambda epoch: 0.2)])
    gone = [weakref.ref(model.get_layer("only").kernel.regularizer), weakref.ref(model.optimizer)]
    del model
    keras.backend.clear_session()
    gc.collect()
    assert [reference() for reference in gone[1:]] == [None]


def lines_of(function, files):
    """How many lines of these files a call runs, and a way to interrupt it at each."""
    count = 0

    def run(stop=None):
        nonlocal count
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if not any(name in frame.f_code.co_filename for name in files):
                return None
            if event == "line":
                count += 1
                if count == stop:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            function()
        finally:
            sys.settrace(None)
            # Interrupted between a `with` and its block, Python leaves the block's scope open, as it does in Keras.
            global_state.set_global_attribute("name_scope_stack", [])
            if BACKEND == "tensorflow":
                context.context().scope_name = ""
        return count

    return run


def test_an_interrupted_first_step_leaves_an_optimizer_that_can_be_built():
    def fresh():
        model = make(GroupLasso(0.1, axis=-2, proximal=True), Proximal(keras.optimizers.SGD(0.1, momentum=0.9)))
        return model, model.optimizer

    model, optimizer = fresh()
    number = lines_of(
        lambda: optimizer.build(model.trainable_variables),
        ["optimizers/proximal.py", "keras_reg/binding.py", "keras_reg/strength_variable.py"],
    )()
    expected = len(optimizer.variables)
    assert number > 20
    for stop in range(1, number + 1, 3):
        model, optimizer = fresh()
        with pytest.raises(KeyboardInterrupt):
            lines_of(
                lambda m=model, o=optimizer: o.build(m.trainable_variables),
                ["optimizers/proximal.py", "keras_reg/binding.py", "keras_reg/strength_variable.py"],
            )(stop)
        optimizer.build(model.trainable_variables)
        assert len(optimizer.variables) == expected
        assert optimizer.applies_prox_to(model.trainable_variables[0])
    model.fit(X, Y, verbose=0)


if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.eager import context

    def test_strengths_under_a_distribution_strategy():
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            model = make(L1(0.3, proximal=True))
        history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[StrengthScheduler(lambda epoch: [0.1, 0.2][epoch])]).history
        assert history["strength"] == [0.1, 0.2]
        assert list(model.optimizer.strengths.values()) == [0.2]
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            model = make(L1(0.3), "sgd")
        history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[StrengthScheduler(lambda epoch: [0.1, 0.2][epoch])]).history
        assert history["strength"] == [0.1, 0.2]
