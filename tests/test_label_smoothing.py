"""Label smoothing against dense targets in NumPy, Keras's crossentropies and, where it is the backend, PyTorch's own."""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy.special import log_softmax, softmax

from keras_reg.losses import LabelSmoothingCrossentropy, label_smoothing_crossentropy
from keras_reg.losses.crossentropy import DENSE_UP_TO
from keras_reg.testing.autodiff import compiled, value_and_gradient

BACKEND = keras.backend.backend()
MANY = DENSE_UP_TO + 3
SIZES = ((4, 2), (3, 5), (2, MANY))


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def double():
    """float64 on every backend; only JAX has to be asked."""
    if BACKEND == "jax":
        import jax

        return jax.enable_x64(True)
    return contextlib.nullcontext()


def dense_target(y, classes, e=0.0, weight=None, prior=None, ignore=None, convention="uniform"):
    """The target written out, class by class, and 0 everywhere for ignored labels."""
    target = np.zeros((*y.shape, classes))
    left = [k for k in range(classes) if k != ignore]
    for place in np.ndindex(y.shape):
        if y[place] == ignore:
            continue
        if convention == "others":
            for k in left:
                target[place][k] = 1 - e if k == y[place] else e / (len(left) - 1)
        else:
            mass = np.ones(classes) if prior is None else np.array(prior, float)
            for k in left:
                target[place][k] = (1 - e) * (k == y[place]) + e * mass[k] / mass[left].sum()
    return target if weight is None else target * weight


def expected(target, logits):
    """Losses and their gradient, from the definition."""
    losses = -np.sum(target * np.where(target == 0, 0, log_softmax(logits, axis=-1)), axis=-1)
    return losses, target.sum(-1, keepdims=True) * softmax(logits, axis=-1) - target


def losses_and_gradient(y, logits, upstream=None, dtype="float32", **options):
    """Unreduced losses, and the gradient of their sum weighted with `upstream`."""
    logits = np.asarray(logits, dtype)
    options = {"from_logits": True, **options}
    losses = array(label_smoothing_crossentropy(y, ops.convert_to_tensor(logits, dtype=dtype), **options))
    upstream = np.ones(losses.shape) if upstream is None else upstream

    def weighted(z):
        loss = label_smoothing_crossentropy(y, z, **options)
        return ops.sum(loss * ops.convert_to_tensor(upstream, dtype=loss.dtype))

    return losses, value_and_gradient(weighted, logits)[1]


CASES = {
    "uniform": {"e": 0.1},
    "much": {"e": 0.7},
    "none": {"e": 0.0},
    "others": {"e": 0.3, "convention": "others"},
    "weights": {"e": 0.2, "weight": True},
    "prior": {"e": 0.2, "prior": True},
    "prior with weights": {"e": 0.2, "prior": True, "weight": True},
    "void label": {"e": 0.2, "ignore": -100},
    "void label above": {"e": 0.2, "ignore": 255, "weight": True},
    "ignored class": {"e": 0.2, "ignore": 0},
    "ignored class with all": {"e": 0.2, "ignore": 1, "weight": True, "prior": True},
    "ignored class, others": {"e": 0.2, "ignore": 1, "convention": "others"},
}


def options_of(case, classes, rng):
    """What our function takes, and what the oracle takes."""
    oracle = dict(case)
    if case.get("weight"):
        oracle["weight"] = rng.uniform(0.1, 2, classes)
    if case.get("prior"):
        oracle["prior"] = rng.integers(1, 50, classes)
    names = {"e": "label_smoothing", "weight": "class_weight", "ignore": "ignore_class"}
    return {names.get(name, name): value for name, value in oracle.items()}, oracle


@pytest.mark.parametrize("shape", [(3, 3), (7, 5), (2, 3, 4), (6, MANY)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_target_written_out(name, shape):
    rng = np.random.default_rng(len(name))
    ours, oracle = options_of(CASES[name], shape[-1], rng)
    y, logits, upstream = rng.integers(0, shape[-1], shape[:-1]), 3 * rng.normal(size=shape), rng.normal(size=shape[:-1])
    if "ignore" in oracle:
        y.flat[-1] = oracle["ignore"]
    with double():
        losses, gradient = losses_and_gradient(y, logits, upstream, dtype="float64", **ours)
    right, slope = expected(dense_target(y, shape[-1], **oracle), logits)
    np.testing.assert_allclose(losses, right, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient, slope * upstream[..., None], rtol=1e-10, atol=1e-12)
    losses, gradient = losses_and_gradient(y, logits, upstream, **ours)
    np.testing.assert_allclose(losses, right, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(gradient, slope * upstream[..., None], rtol=1e-4, atol=1e-5)


@settings(max_examples=40)
@given(st.sampled_from(SIZES), st.floats(0, 0.99), st.sampled_from([0.1, 3.0, 40.0]), st.integers(0, 999), st.booleans())
def test_keras_categorical_crossentropy_on_one_hot_labels(shape, e, scale, seed, from_logits):
    rng = np.random.default_rng(seed)
    y, logits = rng.integers(0, shape[-1], shape[:-1]), (scale * rng.normal(size=shape)).astype("float32")
    # Probabilities that Keras, too, has to take as they are: on TensorFlow it finds the logits behind a softmax.
    y_pred = logits if from_logits else np.maximum(softmax(logits, axis=-1), 2e-7)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=e)
    one_hot = np.eye(shape[-1], dtype="float32")[y]
    value, gradient = value_and_gradient(lambda z: theirs(one_hot, z), y_pred)
    for labels in (y, one_hot):
        own, slope = value_and_gradient(lambda z, y=labels: LabelSmoothingCrossentropy(e, from_logits=from_logits)(y, z), y_pred)
        np.testing.assert_allclose(own, value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slope, gradient, rtol=2e-4, atol=1e-6 * max(1, np.abs(gradient).max()))


@pytest.mark.parametrize("from_logits", [True, False])
def test_plain_crossentropy_without_smoothing(from_logits):
    rng = np.random.default_rng(0)
    y, y_pred = rng.integers(0, 6, (5, 4)), rng.normal(size=(5, 4, 6)).astype("float32")
    y_pred = y_pred if from_logits else softmax(y_pred, axis=-1)
    own = LabelSmoothingCrossentropy(0.0, from_logits=from_logits)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    np.testing.assert_allclose(float(own(y, y_pred)), float(theirs(y, y_pred)), rtol=1e-6)


@settings(max_examples=25)
@given(st.integers(2, 9), st.floats(0, 1), st.integers(0, 999))
def test_others_is_uniform_with_more_smoothing(classes, share, seed):
    rng = np.random.default_rng(seed)
    e = share * 0.999 * (classes - 1) / classes
    y, logits = rng.integers(0, classes, 4), rng.normal(size=(4, classes)).astype("float32")
    others = losses_and_gradient(y, logits, label_smoothing=e, convention="others")
    uniform = losses_and_gradient(y, logits, label_smoothing=e * classes / (classes - 1))
    for first, second in zip(others, uniform, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_the_two_examples_of_the_texts():
    """The losses of the targets printed there, by their own definition."""
    logits = np.log([[0.5, 0.3, 0.2]])
    for convention, target in (("uniform", [0.93333333, 0.03333333, 0.03333333]), ("others", [0.9, 0.05, 0.05])):
        loss = label_smoothing_crossentropy([0], logits.astype("float32"), 0.1, from_logits=True, convention=convention)
        np.testing.assert_allclose(array(loss), -np.sum(target * logits), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if "ignore" not in CASES[name]])
def test_soft_targets_agree_with_labels_and_mix_linearly(name):
    rng = np.random.default_rng(1)
    ours, oracle = options_of(CASES[name], 5, rng)
    y, logits = rng.integers(0, 5, (2, 6)), rng.normal(size=(6, 5))
    one_hot = np.eye(5)[y]
    for from_logits in (True, False):
        y_pred = (logits if from_logits else softmax(logits, axis=-1)).astype("float32")
        labels = [losses_and_gradient(part, y_pred, from_logits=from_logits, **ours) for part in y]
        targets = losses_and_gradient((0.3 * one_hot[0] + 0.7 * one_hot[1]).astype("float32"), y_pred, from_logits=from_logits, **ours)
        for mixed, first, second in zip(targets, *labels, strict=True):
            np.testing.assert_allclose(mixed, 0.3 * first + 0.7 * second, rtol=1e-5, atol=1e-6)
    soft = rng.dirichlet(np.ones(5), 6)
    with double():
        losses, gradient = losses_and_gradient(soft, logits, dtype="float64", **ours)
    e = oracle["e"] * (5 / 4 if oracle.get("convention") else 1)
    prior = np.array(oracle.get("prior", np.ones(5)), float)
    right, slope = expected(((1 - e) * soft + e * prior / prior.sum()) * oracle.get("weight", 1), logits)
    np.testing.assert_allclose(losses, right, rtol=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-12)


def test_targets_have_a_gradient_of_their_own():
    """As where a teacher makes them: not silently cut off."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(3, 4)).astype("float32"), rng.dirichlet(np.ones(4), 3).astype("float32")
    _, gradient = value_and_gradient(lambda t: ops.sum(label_smoothing_crossentropy(t, logits, 0.1, from_logits=True)), targets)
    np.testing.assert_allclose(gradient, -0.9 * log_softmax(logits, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"class_weight": [0.5, 2, 1, 1]}, {"from_logits": False}], ids=str)
def test_gradient_by_finite_differences_in_float64(options):
    rng = np.random.default_rng(3)
    options = {"label_smoothing": 0.2, "from_logits": True, **options}
    y, z = rng.integers(0, 4, 3), rng.normal(size=(3, 4))
    z = z if options["from_logits"] else rng.dirichlet(np.ones(4), 3)
    with double():
        _, gradient = losses_and_gradient(y, z, dtype="float64", **options)
        for place in np.ndindex(z.shape):
            step = np.zeros_like(z)
            step[place] = 1e-6
            up, down = (
                array(label_smoothing_crossentropy(y, ops.convert_to_tensor(z + s, dtype="float64"), **options)) for s in (step, -step)
            )
            np.testing.assert_allclose((up - down).sum() / 2e-6, gradient[place], rtol=1e-6, atol=1e-8)


def hessian_times(function, z, direction):
    """The derivative of the gradient along `direction`, by each backend's reverse mode on its own reverse mode."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        z = tf.constant(z)
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                value = function(z)
            along = tf.reduce_sum(inner.gradient(value, z) * direction)
        return array(outer.gradient(along, z))
    if BACKEND == "jax":
        import jax

        return array(jax.grad(lambda z: (jax.grad(function)(z) * direction).sum())(z))
    import torch

    z = torch.tensor(z, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(z), z, create_graph=True)
    return array(torch.autograd.grad((gradient * torch.tensor(direction)).sum(), z)[0])


@pytest.mark.parametrize("classes", [4, MANY])
@pytest.mark.parametrize("in_graph", [False, True])
def test_second_derivatives(classes, in_graph):
    rng = np.random.default_rng(4)
    z, y, direction = rng.normal(size=(3, classes)), rng.integers(0, classes, 3), rng.normal(size=(3, classes))
    weight = rng.uniform(0.1, 2, classes)
    with double():

        def total(z):
            # Squared, so that the gradient that comes from above has a derivative too.
            return ops.sum(label_smoothing_crossentropy(y, z, 0.2, from_logits=True, class_weight=weight) ** 2)

        product = hessian_times(compiled(total) if in_graph else total, z, direction)
    target = dense_target(y, classes, 0.2, weight)
    losses, slope = expected(target, z)
    p = softmax(z, axis=-1)
    curved = target.sum(-1, keepdims=True) * (p * direction - p * np.sum(p * direction, -1, keepdims=True))
    right = 2 * (slope * np.sum(slope * direction, -1, keepdims=True) + losses[:, None] * curved)
    np.testing.assert_allclose(product, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("classes", [4, MANY])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_accumulated_in_float32(dtype, classes):
    rng = np.random.default_rng(5)
    z = ops.cast(ops.convert_to_tensor(rng.normal(size=(6, classes)).astype("float32")), dtype)
    y = rng.integers(0, classes, 6)
    losses = label_smoothing_crossentropy(y, z, 0.1, from_logits=True)
    assert keras.backend.standardize_dtype(losses.dtype) == dtype
    right, _ = expected(dense_target(y, classes, 0.1), array(ops.cast(z, "float32")).astype("float64"))
    np.testing.assert_allclose(array(ops.cast(losses, "float32")), right, rtol={"float16": 6e-4, "bfloat16": 5e-3}[dtype])
    loss = LabelSmoothingCrossentropy(0.1, from_logits=True, dtype=dtype)(y, z)
    np.testing.assert_allclose(float(loss), right.mean(), rtol=1e-6)  # one rounding, of the logits, is all


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_large_class_ids_survive_a_loss_in_half_precision(dtype):
    classes = 3001
    logits = np.zeros((1, classes), "float32")
    logits[0, 2999] = 8
    loss = LabelSmoothingCrossentropy(0.0, from_logits=True, dtype=dtype)([2999], logits)
    np.testing.assert_allclose(float(loss), -log_softmax(logits[0])[2999], rtol=1e-6)
