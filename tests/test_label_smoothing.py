"""Label smoothing against dense targets in NumPy, Keras's crossentropies and, where it is the backend, PyTorch's own."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from keras.src.backend import set_keras_mask  # as a layer does to its outputs
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy

from keras_reg import backend
from keras_reg.backend import plain
from keras_reg.losses import LabelSmoothingCrossentropy, OnlineLabelSmoothingCrossentropy, label_smoothing_crossentropy
from keras_reg.testing.autodiff import compiled, value_and_gradient

BACKEND = keras.backend.backend()
MANY = 131  # where TensorFlow goes another way than with few
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


def losses_and_gradient(y, logits, upstream=None, dtype="float32", in_graph=False, **options):
    """Unreduced losses, and the gradient of their sum weighted with `upstream`."""
    logits = np.asarray(logits, dtype)
    options = {"from_logits": True, **options}
    losses = array(label_smoothing_crossentropy(y, ops.convert_to_tensor(logits, dtype=dtype), **options))
    upstream = np.ones(losses.shape) if upstream is None else upstream

    def weighted(z):
        loss = label_smoothing_crossentropy(y, z, **options)
        return ops.sum(loss * ops.convert_to_tensor(upstream, dtype=loss.dtype))

    return losses, value_and_gradient(compiled(weighted) if in_graph else weighted, logits)[1]


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


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 4), (6, MANY)], ids=str)
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
    losses, gradient = losses_and_gradient(y, logits, upstream, in_graph=True, **ours)
    np.testing.assert_allclose(losses, right, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(gradient, slope * upstream[..., None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [5, MANY])
@pytest.mark.parametrize("form", [plain.smoothed_crossentropy, backend.smoothed_crossentropy], ids=["plain", "own"])
def test_the_plain_formula_and_that_of_the_backend(form, classes):
    rng = np.random.default_rng(2)
    y, z, weight = rng.integers(0, classes, (2, 3)), rng.normal(size=(2, 3, classes)), rng.uniform(size=(2, 3))
    for spread in (0.0, 0.02, rng.uniform(size=classes), np.eye(classes)[1]):
        target = np.eye(classes)[y] * weight[..., None] + spread
        right, slope = expected(target, z)
        with double():

            def total(z, spread=spread):
                labels, weights = ops.convert_to_tensor(y, dtype="int32"), ops.convert_to_tensor(weight, dtype="float64")
                return ops.sum(form(z, labels, weights, spread))

            value, gradient = value_and_gradient(total, z)
        np.testing.assert_allclose(value, right.sum(), rtol=1e-12)
        np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-13)


@settings(max_examples=18)
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


@settings(max_examples=8)
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


@pytest.mark.parametrize("shape", [(4100, MANY), (2, 250, 240, 5)], ids=str)
@pytest.mark.parametrize("case", ["uniform", "ignored class with all"])
def test_large_logits(case, shape):
    rng = np.random.default_rng(12)
    options, oracle = options_of(CASES[case], shape[-1], rng)
    y, z, upstream = rng.integers(0, shape[-1], shape[:-1]), 3 * rng.normal(size=shape), rng.normal(size=shape[:-1])
    right, slope = expected(dense_target_at_once(y, shape[-1], **oracle), z)
    losses, gradient = losses_and_gradient(y, z, upstream, in_graph=True, **options)
    np.testing.assert_allclose(losses, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, slope * upstream[..., None], rtol=1e-4, atol=1e-5)


def dense_target_at_once(y, classes, **options):
    """Row by row would take long: the target depends on the label alone."""
    return dense_target(np.arange(classes), classes, **options)[y]


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


def rounded(number, dtype):
    """In half precision and back."""
    return array(ops.cast(ops.cast(ops.convert_to_tensor(number, dtype="float32"), dtype), "float32"))


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
    mean = LabelSmoothingCrossentropy(0.1, from_logits=True, dtype=dtype)(y, z)
    assert keras.backend.standardize_dtype(mean.dtype) == dtype  # as of Keras's losses
    np.testing.assert_array_equal(array(ops.cast(mean, "float32")), rounded(right.mean(), dtype))


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("reduction", ["sum", None])
def test_the_dtype_of_a_loss_is_that_of_kerass_and_its_sum_is_taken_wider(dtype, reduction):
    rng = np.random.default_rng(11)
    y, z = rng.integers(0, 3, 999), rng.normal(size=(999, 3)).astype("float32")
    options = {"from_logits": True, "dtype": dtype, "reduction": reduction}
    right, _ = expected(dense_target(y, 3, 0.1), z.astype("float64"))
    with double():
        theirs = keras.losses.SparseCategoricalCrossentropy(**options)(y, z)
        for loss in (LabelSmoothingCrossentropy(0.1, **options), OnlineLabelSmoothingCrossentropy(3, hard=0.9, **options)):
            found = loss(y, z)
            name = keras.backend.standardize_dtype(found.dtype)
            assert name == keras.backend.standardize_dtype(theirs.dtype)
            tolerance = {"float16": 2**-11, "bfloat16": 2**-8}.get(name, 1e-6)
            np.testing.assert_allclose(array(ops.cast(found, "float32")), right if reduction is None else right.sum(), rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_large_class_ids_survive_a_loss_in_half_precision(dtype):
    classes = 3001
    logits = np.zeros((1, classes), "float32")
    logits[0, 2999] = 8
    loss = LabelSmoothingCrossentropy(0.0, from_logits=True, dtype=dtype)([2999], logits)
    np.testing.assert_array_equal(array(ops.cast(loss, "float32")), rounded(-log_softmax(logits[0])[2999], dtype))


@pytest.mark.parametrize("classes", [4, MANY])
def test_extreme_logits(classes):
    rng = np.random.default_rng(6)
    y, z = rng.integers(0, classes, 5), 1e4 * rng.choice([-1.0, 1.0], (5, classes)) + rng.normal(size=(5, classes)).round(2)
    losses, gradient = losses_and_gradient(y, z, label_smoothing=0.1)
    right, slope = expected(dense_target(y, classes, 0.1), z.astype("float32").astype("float64"))
    np.testing.assert_allclose(losses, right, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=2e-3)  # logits this large are themselves known to 1e-3
    sure = np.full((1, classes), -1e4)
    sure[0, 1] = 1e4
    losses, gradient = losses_and_gradient([1], sure, label_smoothing=0.0)
    np.testing.assert_array_equal(losses, [0])
    np.testing.assert_array_equal(gradient, np.zeros_like(sure))


@pytest.mark.parametrize("classes", [4, MANY])
@pytest.mark.parametrize("targets", [False, True])
def test_impossible_classes_without_mass(classes, targets):
    """As where a model masks classes out with a logit of minus infinity, and a prior that gives them nothing."""
    rng = np.random.default_rng(7)
    z, prior = rng.normal(size=(3, classes)), np.ones(classes)
    z[:, 2], prior[2] = -np.inf, 0
    y = np.array([0, 1, 3])
    labels = np.eye(classes, dtype="float32")[y] if targets else y
    for e, right in ((0.0, dense_target(y, classes)), (0.2, dense_target(y, classes, 0.2, prior=prior))):
        losses, gradient = losses_and_gradient(labels, z, label_smoothing=e, prior=prior)
        loss, slope = expected(right, z)
        np.testing.assert_allclose(losses, loss, rtol=1e-5)
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)
    losses, _ = losses_and_gradient(labels, z, label_smoothing=0.2)
    np.testing.assert_array_equal(losses, np.inf)  # mass on a class that cannot be


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_class_has_no_loss(from_logits):
    z = np.full((3, 1), 0.7, "float32")
    for labels in ([0, 0, 0], [[1.0], [1.0], [1.0]]):
        losses, gradient = losses_and_gradient(labels, z, from_logits=from_logits)
        np.testing.assert_allclose(losses, 0, atol=2e-7)
        np.testing.assert_allclose(gradient, 0, atol=2e-7)


def test_one_sample_none_and_empty_batches():
    logits = np.array([1.0, 2.0, 0.5], "float32")
    alone = label_smoothing_crossentropy(2, logits, 0.1, from_logits=True)
    assert alone.shape == ()
    np.testing.assert_allclose(float(alone), expected(dense_target(np.array([2]), 3, 0.1), logits[None])[0][0], rtol=1e-6)
    for classes in (3, MANY):
        losses, gradient = losses_and_gradient(np.zeros(0, "int32"), np.zeros((0, classes)))
        assert losses.shape == (0,)
        assert gradient.shape == (0, classes)
    empty = LabelSmoothingCrossentropy(reduction="sum", from_logits=True)(np.zeros((0, 2), "int32"), np.zeros((0, 2, 3), "float32"))
    assert float(empty) == 0


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", None])
def test_all_ignored_is_zero(reduction):
    loss = LabelSmoothingCrossentropy(from_logits=True, ignore_class=255, reduction=reduction)
    # Whatever stands there: some models leave NaN where they were not asked.
    logits = np.array([[np.nan, 0, 0], [np.inf, 1, 0]], "float32")
    value, gradient = value_and_gradient(lambda z: ops.sum(loss([255, 255], z)), logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


SHAPES = {
    "one position": ((), 4, -1),
    "batch": ((6,), 4, -1),
    "sequences": ((2, 5), 4, -1),
    "segmentation": ((2, 3, 4), 3, -1),
    "segmentation, channels first": ((2, 3, 4), 5, 1),
    "classes first": ((6,), 4, 0),
    "volumes": ((2, 2, 3, 2), 3, 2),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("from_logits", [True, False])
def test_shapes_and_axes(name, from_logits):
    positions, classes, axis = SHAPES[name]
    rng = np.random.default_rng(8)
    y, z = rng.integers(0, classes, positions), rng.normal(size=(*positions, classes))
    right, slope = expected(dense_target(y, classes, 0.1), z)
    y_pred = np.moveaxis(z if from_logits else softmax(z, axis=-1), -1, axis).astype("float32")
    one_hot = np.moveaxis(np.eye(classes)[y], -1, axis).astype("float32")
    labels = [y, y[..., None], np.expand_dims(y, axis), one_hot, y.astype("float32")]
    for dtype in ("uint8", "int8", "int64"):
        labels.append(y.astype(dtype))
    for label in labels:
        losses = label_smoothing_crossentropy(label, y_pred, 0.1, from_logits=from_logits, axis=axis)
        np.testing.assert_allclose(array(losses), right, rtol=1e-5)
    for label in (y, one_hot) if from_logits else ():
        _, gradient = losses_and_gradient(label, y_pred, label_smoothing=0.1, axis=axis)
        np.testing.assert_allclose(gradient, np.moveaxis(slope, -1, axis), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compile_it", [False, True])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight", None])
def test_reductions_masks_and_sample_weights(reduction, compile_it):
    rng = np.random.default_rng(9)
    y, z = rng.integers(0, 4, (2, 6)), rng.normal(size=(2, 6, 4))
    y[0, 1] = y[1, 4] = -100
    mask, weight = rng.random((2, 6)) < 0.7, rng.uniform(0, 2, (2, 6))
    right, slope = expected(dense_target(y, 4, 0.1, ignore=-100), z)
    loss = LabelSmoothingCrossentropy(from_logits=True, ignore_class=-100, reduction=reduction)

    def total(z, masked, weighted):
        z = ops.convert_to_tensor(z, dtype="float32") * 1.0
        if masked:
            set_keras_mask(z, ops.convert_to_tensor(mask))
        return ops.sum(loss(y, z, weight.astype("float32") if weighted else None))

    for masked, weighted in ((False, True), (True, False), (True, True)) if not compile_it else ((True, True),):
        counted = (y != -100) & (mask | (not masked))
        share = counted * (weight if weighted else 1)
        divisor = {"sum_over_batch_size": counted.sum(), "mean_with_sample_weight": share.sum()}.get(reduction, 1)

        def function(z, masked=masked, weighted=weighted):
            return total(z, masked, weighted)

        value, gradient = value_and_gradient(compiled(function) if compile_it else function, z.astype("float32"))
        np.testing.assert_allclose(value, (right * share).sum() / divisor, rtol=1e-5)
        np.testing.assert_allclose(gradient, slope * share[..., None] / divisor, rtol=1e-4, atol=1e-6)


def test_class_weights_scale_within_the_loss_and_the_count_stays():
    """The mean is over positions, as in Keras; PyTorch's, over the weights of the labels, is what `sample_weight` can do."""
    rng = np.random.default_rng(10)
    y, z, weight = rng.integers(0, 4, 7), rng.normal(size=(7, 4)).astype("float32"), np.array([0.2, 1.0, 3.0, 0.0])
    right, slope = expected(dense_target(y, 4, 0.1, weight), z)
    loss = LabelSmoothingCrossentropy(from_logits=True, class_weight=weight)
    value, gradient = value_and_gradient(lambda z: loss(y, z), z)
    np.testing.assert_allclose(value, right.sum() / 7, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope / 7, rtol=1e-4, atol=1e-6)
    total = LabelSmoothingCrossentropy(from_logits=True, class_weight=weight, reduction="sum")
    np.testing.assert_allclose(float(total(y, z)) / weight[y].sum(), right.sum() / weight[y].sum(), rtol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's own loss is the oracle where PyTorch is the backend")
class TestPyTorch:
    @settings(max_examples=80)
    @given(st.data())
    def test_cross_entropy(self, data):
        import torch

        classes = data.draw(st.integers(1, 9) | st.just(MANY), label="classes")
        shape = (*data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3), label="positions"), classes)
        rng = np.random.default_rng(data.draw(st.integers(0, 999), label="seed"))
        e, weight = data.draw(st.floats(0, 0.99)), rng.uniform(0, 2, classes) if data.draw(st.booleans()) else None
        ignore = data.draw(st.sampled_from([None, -100, 255]))
        dtype = data.draw(st.sampled_from(["float32", "float64"]))
        y, z = rng.integers(0, classes, shape[:-1]), 3 * rng.normal(size=shape)
        if ignore is not None:
            y[rng.random(y.shape) < 0.3] = ignore
        options = {"label_smoothing": e, "ignore_index": -1 if ignore is None else ignore}
        if weight is not None:
            options["weight"] = torch.tensor(weight, dtype=getattr(torch, dtype))
        theirs = torch.tensor(z, dtype=getattr(torch, dtype), requires_grad=True)
        cross_entropy = torch.nn.functional.cross_entropy
        value = cross_entropy(theirs.movedim(-1, 1) if len(shape) > 2 else theirs, torch.tensor(y), reduction="none", **options)
        (slope,) = torch.autograd.grad(value.sum(), theirs)
        losses, gradient = losses_and_gradient(y, z, dtype=dtype, label_smoothing=e, ignore_class=ignore, class_weight=weight)
        tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-4, "atol": 2e-5}
        np.testing.assert_allclose(losses, array(value.detach()), **tolerance)
        np.testing.assert_allclose(gradient, array(slope), **tolerance)
        # Their mean divides by the weights of the labels that are not ignored: ours does where these are the sample weights.
        if ignore is None and weight is not None:
            mean = cross_entropy(theirs.reshape(-1, classes), torch.tensor(y).flatten(), **options)
            total = LabelSmoothingCrossentropy(e, from_logits=True, class_weight=weight, reduction="sum", dtype=dtype)(y, z)
            np.testing.assert_allclose(float(total) / weight[y].sum(), float(mean.detach()), rtol=1e-4)

    # The compiler's own warning, where it resumes after a break.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    @pytest.mark.parametrize(
        ("options", "in_one_graph"),
        [({}, True), ({"ignore_class": 255}, True), ({"class_weight": [1, 2, 0.5]}, False), ({"prior": [1, 2, 0]}, False)],
        ids=str,
    )
    def test_compiles(self, options, in_one_graph):
        import torch

        loss = LabelSmoothingCrossentropy(0.1, from_logits=True, **options)
        rng = np.random.default_rng(0)
        y, z = torch.tensor([0, 2, 1, 1]), torch.tensor(rng.normal(size=(4, 3)).astype("float32"), requires_grad=True)
        (right,) = torch.autograd.grad(loss(y, z), z)
        (gradient,) = torch.autograd.grad(torch.compile(loss, fullgraph=in_one_graph, backend="aot_eager")(y, z), z)
        np.testing.assert_allclose(array(gradient), array(right), rtol=1e-5, atol=1e-7)

    def test_transforms_of_torch_func(self):
        import torch

        z, y = torch.randn(3, 4), torch.tensor([1, 0, 3])
        right = expected(dense_target(y.numpy(), 4, 0.1), z.numpy())[1]
        gradient = torch.func.grad(lambda z: label_smoothing_crossentropy(y, z, 0.1, from_logits=True).sum())(z)
        np.testing.assert_allclose(array(gradient), right, rtol=1e-4, atol=1e-6)

    def test_gradient_twice_from_one_graph(self):
        import torch

        z = torch.randn(3, 4, requires_grad=True)
        value = label_smoothing_crossentropy([0, 1, 2], z, 0.1, from_logits=True).sum()
        first, second = (torch.autograd.grad(value, z, retain_graph=True)[0] for _ in range(2))
        np.testing.assert_array_equal(array(first), array(second))


@pytest.mark.skipif(BACKEND != "jax", reason="What only JAX has")
class TestJAX:
    def test_forward_mode_hessians_and_vmap(self):
        import jax

        z, y = np.random.default_rng(0).normal(size=(3, 4)), np.array([1, 0, 3])
        with jax.enable_x64(True):

            def total(z, y=y):
                return label_smoothing_crossentropy(y, z, 0.1, from_logits=True).sum()

            np.testing.assert_allclose(jax.jacfwd(total)(z), jax.grad(total)(z), rtol=1e-10)
            p = softmax(z, axis=-1)
            hessian = np.einsum("ijik->ijk", jax.hessian(total)(z))
            np.testing.assert_allclose(hessian, p[:, :, None] * np.eye(4) - p[:, :, None] * p[:, None], rtol=1e-9, atol=1e-12)
            each = jax.vmap(jax.grad(total))(z, y)
            np.testing.assert_allclose(each, jax.grad(total)(z), rtol=1e-10)

    def test_needs_no_more_memory_than_its_gradient(self):
        import jax

        z = np.zeros((128, 4000), "float32")
        loss = LabelSmoothingCrossentropy(0.1, from_logits=True)
        step = jax.jit(jax.value_and_grad(lambda z, y: loss(y, z))).lower(z, np.zeros(128, "int32")).compile()
        needed = step.memory_analysis()
        assert needed.output_size_in_bytes + needed.temp_size_in_bytes <= 1.25 * z.nbytes


UNSEEN = {
    "too large": (np.array([0, 5, 2], "int32"), 1),
    "negative": (np.array([0, -1, 2], "int64"), 1),
    "far off": (np.array([0, 2**31 - 1, 2], "int64"), 1),
    "a fraction": (np.array([0, 1.5, 2], "float32"), 1),
    "no number": (np.array([0, np.nan, 2], "float32"), 1),
    "infinite": (np.array([0, -np.inf, 2], "float32"), 1),
    "a byte": (np.array([0, 255, 2], "uint8"), 1),
}


@pytest.mark.parametrize("in_graph", [True, False])
@pytest.mark.parametrize("name", UNSEEN)
def test_a_label_out_of_range_is_nan_where_it_cannot_be_seen(name, in_graph, monkeypatch):
    """In a compiled step, or on an accelerator, where looking would mean waiting; the other positions are what they are."""
    y, place = UNSEEN[name]
    if BACKEND == "torch" or not in_graph:
        monkeypatch.setattr("keras_reg._labels.can_be_seen", lambda tensor: False)
    logits, bad = np.random.default_rng(0).normal(size=(3, 5)).astype("float32"), np.arange(3) == place
    run = compiled if in_graph else lambda function: function
    right, slope = expected(dense_target(np.where(bad, 0, y).astype(int), 5, 0.1), logits)
    for options in ({}, {"class_weight": np.ones(5)}, {"prior": np.ones(5)}, {"ignore_class": 9}, {"from_logits": False}):
        from_logits = options.get("from_logits", True)
        y_pred = logits if from_logits else softmax(logits, axis=-1)
        function = functools.partial(label_smoothing_crossentropy, label_smoothing=0.1, **{"from_logits": True, **options})
        losses = array(run(lambda y, f=function, p=y_pred: f(y, p))(ops.convert_to_tensor(y)))
        np.testing.assert_allclose(losses, np.where(bad, np.nan, right), rtol=1e-5)
        _, gradient = value_and_gradient(run(lambda z, f=function: ops.sum(f(ops.convert_to_tensor(y), z))), y_pred)
        assert np.isnan(gradient[place]).all()
        assert np.isfinite(gradient[~bad]).all()
        if from_logits:
            np.testing.assert_allclose(gradient[~bad], slope[~bad], rtol=1e-4, atol=1e-6)
    if np.isfinite(y[place]) and y[place] == int(y[place]):
        ignored = run(lambda y: label_smoothing_crossentropy(y, logits, 0.1, from_logits=True, ignore_class=int(UNSEEN[name][0][place])))
        assert array(ignored(ops.convert_to_tensor(y)))[place] == 0


Z = np.zeros((4, 3), "float32")
BAD = {
    "negative": ({"label_smoothing": -0.1}, ValueError, r"`label_smoothing` must be at least 0 and less than 1.*-0.1"),
    "all": ({"label_smoothing": 1}, ValueError, "`label_smoothing` must be at least 0 and less than 1.*1.0"),
    "not a number": ({"label_smoothing": "0.1"}, TypeError, "`label_smoothing` must be a number.*'0.1'"),
    "nan": ({"label_smoothing": float("nan")}, ValueError, "`label_smoothing` must be finite"),
    "convention": ({"convention": "other"}, ValueError, "`convention` must be one of 'uniform', 'others'.*'other'"),
    "from_logits": ({"from_logits": "yes"}, TypeError, "`from_logits` must be True or False.*'yes'"),
    "ignored name": ({"ignore_class": "void"}, TypeError, "`ignore_class` must be a whole number or None.*'void'"),
    "ignored fraction": ({"ignore_class": 1.5}, TypeError, "`ignore_class` must be a whole number or None.*1.5"),
    "prior negative": ({"prior": [1, -1, 1]}, ValueError, "`prior` must hold finite numbers of at least 0"),
    "prior nan": ({"prior": [1, np.nan, 1]}, ValueError, "`prior` must hold finite numbers of at least 0"),
    "prior nothing": ({"prior": [0, 0, 0]}, ValueError, "`prior` must give mass to some class"),
    "prior a matrix": ({"prior": [[1, 1, 1]]}, TypeError, "`prior` must be a sequence of numbers, one for each class"),
    "prior for others": ({"prior": [1, 1, 1], "convention": "others"}, ValueError, "`prior` goes with convention='uniform'"),
    "weight negative": ({"class_weight": [1, -1, 1]}, ValueError, "`class_weight` must hold finite numbers of at least 0"),
    "weight a dict": ({"class_weight": {0: 1.0}}, TypeError, "`class_weight` must be a sequence of numbers, one for each class"),
    "axis": ({"axis": "last"}, TypeError, "`axis` must be a whole number.*'last'"),
}
BAD_CALLS = {
    "prior too short": ([0], Z[:1], {"prior": [1, 1]}, "`prior` must have one number for each of the 3 classes. Received: 2"),
    "weight too long": (
        [0],
        Z[:1],
        {"class_weight": [1] * 4},
        "`class_weight` must have one number for each of the 3 classes. Received: 4",
    ),
    "others": ([0], Z[:1], {"label_smoothing": 0.67, "convention": "others"}, r"less than \(N - 1\) / N .* 0.6667. Received: .*0.67"),
    "others of one": ([0], Z[:1, :1], {"convention": "others"}, r"N=1 classes that is 0. Received"),
    "nothing left": ([0], Z[:1], {"prior": [0, 1, 0], "ignore_class": 1}, "No class is left to smooth towards"),
    "too few labels": ([0, 1], Z, {}, r"`y_true` must hold class ids, of shape \(4,\) .* targets of shape \(4, 3\). Received: .*\(2,\)"),
    "other targets": (Z[:, :2], Z, {}, r"`y_true` must hold class ids.*Received: y_true of shape \(4, 2\)"),
    "axis": ([0], Z, {"axis": 2}, r"`axis` must name an axis of `y_pred`. Received: axis=2 and y_pred of shape \(4, 3\)"),
    "label too large": ([0, 1, 3, 2], Z, {}, "`y_true` must hold whole numbers from 0 to 2, .* Received: 3(.0)?, and 1 of 4"),
    "label negative": ([0, 1, -1, 2], Z, {}, "`y_true` must hold whole numbers from 0 to 2, .* Received: -1"),
    "label a fraction": ([0.0, 1.0, 0.5, 2.0], Z, {}, "`y_true` must hold whole numbers from 0 to 2, .* Received: 0.5"),
    "label not ignored": ([0, 1, -1, 2], Z, {"ignore_class": 255}, "or be ignore_class=255. Received: -1"),
    "targets ignored": (np.eye(4, 3, dtype="float32"), Z, {"ignore_class": 1}, "`ignore_class` goes with integer labels.*sample_weight"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD)
def test_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        LabelSmoothingCrossentropy(**options)
    if "axis" not in options:
        with pytest.raises(error, match=message):
            label_smoothing_crossentropy([0, 1, 2, 0], Z, **options)


@pytest.mark.parametrize(("y", "z", "options", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_labels_and_predictions_are_refused(y, z, options, message):
    options = {"from_logits": True, **options}
    with pytest.raises(ValueError, match=message):
        LabelSmoothingCrossentropy(**options)(np.array(y), z)
    with pytest.raises(ValueError, match=message):
        label_smoothing_crossentropy(np.array(y), z, **options)


def test_predictions_that_are_integers_are_refused():
    with pytest.raises(TypeError, match=r"`y_pred` must have a real floating-point dtype.*int"):
        label_smoothing_crossentropy([0], np.zeros((1, 3), "int32"))


@pytest.mark.parametrize("dense", [False, True])
def test_the_confidence_penalty_takes_the_entropy_off(dense):
    y, logits = np.array([0, 2, 1, 3]), np.random.default_rng(0).normal(scale=3, size=(4, 4))
    target = dense_target(y, 4, 0.1)
    losses, gradient = expected(target, logits)
    p, scores = softmax(logits, axis=-1), log_softmax(logits, axis=-1)
    entropy = scipy_entropy(p, axis=-1)
    options = {"label_smoothing": 0.0 if dense else 0.1, "confidence_penalty": 0.3}
    found, slope = losses_and_gradient(target.astype("float32") if dense else y, logits, **options)
    np.testing.assert_allclose(found, losses - 0.3 * entropy, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, gradient + 0.3 * p * (scores + entropy[:, None]), rtol=1e-4, atol=1e-6)
    from_probabilities = array(label_smoothing_crossentropy(y, p.astype("float32"), label_smoothing=0.1, confidence_penalty=0.3))
    np.testing.assert_allclose(from_probabilities, losses - 0.3 * entropy, rtol=1e-4, atol=1e-5)


def test_the_confidence_penalty_of_impossible_classes_and_ignored_positions():
    logits = np.array([[0.0, -np.inf, 0.0], [5.0, 1.0, 0.0]])
    found, slope = losses_and_gradient(np.array([0, 9]), logits, label_smoothing=0.0, confidence_penalty=1.0, ignore_class=9)
    np.testing.assert_allclose(found, [0, 0], atol=1e-6)  # log 2 of loss less log 2 of entropy
    np.testing.assert_array_equal(slope[1], 0)
    assert np.all(np.isfinite(slope))
    with pytest.raises(ValueError, match="`confidence_penalty` must be at least 0"):
        LabelSmoothingCrossentropy(confidence_penalty=-0.1)
