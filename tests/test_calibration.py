"""The calibration error against loops over the bins and scikit-learn, and the diagram that shows it."""

import itertools
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from keras.src.backend import set_keras_mask  # as a layer does to its outputs
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from keras_reg.losses import label_smoothing_crossentropy
from keras_reg.metrics import ExpectedCalibrationError, calibration
from keras_reg.testing.autodiff import compiled
from keras_reg.visualization import reliability_diagram


def example(count=600, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, classes))
    wrong = rng.random(count) < 0.4
    y = np.where(wrong, rng.integers(0, classes, count), logits.argmax(-1))
    return y, logits.astype("float32"), softmax(logits, axis=-1).astype("float32")


def by_hand(y, p, num_bins, weight=None):
    """The definition, in loops."""
    weight = np.ones(len(y)) if weight is None else weight
    error = 0.0
    for b in range(num_bins):
        inside = [i for i in range(len(y)) if min(int(p[i].max() * num_bins), num_bins - 1) == b]
        mass = sum(weight[i] for i in inside)
        if mass:
            accuracy = sum(weight[i] * (p[i].argmax() == y[i]) for i in inside) / mass
            error += mass * abs(accuracy - sum(weight[i] * p[i].max() for i in inside) / mass)
    return error / weight.sum()


def value(metric):
    return float(ops.convert_to_numpy(metric.result()))


def error_of(y, p, weight=None, **options):
    metric = ExpectedCalibrationError(**options)
    metric.update_state(y, p, weight)
    return value(metric)


@settings(max_examples=12)
@given(st.integers(1, 20), st.integers(0, 99), st.booleans())
def test_equal_width_is_the_definition(num_bins, seed, weighted):
    y, z, p = example(60, 4, seed)
    weight = np.random.default_rng(seed).uniform(0, 2, 60).astype("float32") if weighted else None
    right = by_hand(y, p.astype("float64"), num_bins, weight)
    np.testing.assert_allclose(error_of(y, p, weight, num_bins=num_bins), right, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(error_of(y, z, weight, num_bins=num_bins, from_logits=True), right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("binning", "strategy", "tolerance"), [("equal_width", "uniform", 1e-6), ("equal_mass", "quantile", 0.03)])
def test_bins_are_those_of_scikit_learn(binning, strategy, tolerance):
    y, _, p = example(5000)
    metric = ExpectedCalibrationError(10, binning)
    metric.update_state(y, p)
    weight, confidence, accuracy = ops.convert_to_numpy(metric.bins()).T
    right, predicted = calibration_curve(p.argmax(-1) == y, p.max(-1), n_bins=10, strategy=strategy)
    np.testing.assert_allclose(confidence[weight > 0], predicted, atol=tolerance)
    np.testing.assert_allclose(accuracy[weight > 0], right, atol=tolerance)
    assert weight.sum() == 5000
    if binning == "equal_mass":
        assert np.all(np.abs(weight - 500) < 30)
        sizes = np.full(10, 500)
        theirs = np.sum(sizes * np.abs(right - predicted)) / 5000
        assert abs(value(metric) - theirs) < 0.003


def test_equal_mass_where_all_are_nearly_sure():
    """15 bins of equal width would put all in one and see nothing of it."""
    rng = np.random.default_rng(0)
    doubt = 10 ** rng.uniform(-6, -1.3, 20_000)
    p = np.stack([1 - doubt, doubt], axis=-1)
    y = (rng.random(20_000) < np.where(doubt < 1e-3, 0.3, 0.0)).astype(int)  # wrong exactly where surest
    equal_mass, equal_width = (error_of(y, p.astype("float32"), binning=b) for b in ("equal_mass", "equal_width"))
    order = np.argsort(doubt)
    parts = np.array_split(order, 15)
    exact = sum(len(k) * abs(np.mean(y[k] == 0) - np.mean(1 - doubt[k])) for k in parts) / len(order)
    assert abs(equal_mass - exact) < 0.002
    assert equal_width < exact - 0.005


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_batches_of_any_size_count_the_same(binning):
    y, _, p = example()
    whole, parts = ExpectedCalibrationError(binning=binning), ExpectedCalibrationError(binning=binning)
    whole.update_state(y, p)
    for part in np.array_split(np.arange(len(y)), [1, 40, 333]):
        parts.update_state(y[part], p[part])
    np.testing.assert_allclose(value(parts), value(whole), rtol=1e-5)
    parts.reset_state()
    assert value(parts) == 0


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_calibrated_predictions_have_none_and_sure_wrong_ones_all(binning):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 200_000).astype("float32")
    y = (rng.random((len(p), 1)) > np.cumsum(p, axis=-1)).sum(-1).clip(0, 2)
    assert error_of(y, p, binning=binning) < 0.005
    sure = np.tile(np.array([[1.0, 0.0]], "float32"), (9, 1))
    assert error_of(np.ones(9, int), sure, binning=binning) == 1
    assert error_of(np.zeros(9, int), sure, binning=binning) == 0


def test_the_kinds_of_labels_and_axes_agree():
    y, _, p = example(24, 4)
    right = error_of(y, p)
    one_hot = np.eye(4, dtype="float32")[y]
    for labels in (y[:, None], y.astype("uint8"), y.astype("float32"), one_hot, 0.8 * one_hot + 0.05):
        assert error_of(labels, p) == right
    image, predicted = y.reshape(2, 3, 4), p.reshape(2, 3, 4, 4)
    assert error_of(image, predicted) == pytest.approx(right)
    assert error_of(image[..., None], predicted) == pytest.approx(right)
    assert error_of(image, np.moveaxis(predicted, -1, 1), axis=1) == pytest.approx(right)


def test_weights_masks_and_ignored_classes_leave_examples_out():
    y, _, p = example(40)
    left = np.arange(40) >= 10
    right = error_of(y[left], p[left])
    odd = p.copy()
    odd[~left] = np.nan
    assert error_of(y, odd, left.astype("float32")) == pytest.approx(right)
    assert error_of(np.where(left, y, -1), odd, ignore_class=-1) == pytest.approx(right)
    assert error_of(y, p, left[:, None].astype("float32")) == pytest.approx(right)
    masked = ops.convert_to_tensor(odd)
    set_keras_mask(masked, ops.convert_to_tensor(left))
    assert error_of(y, masked) == pytest.approx(right)
    per_row = error_of(y.reshape(4, 10), p.reshape(4, 10, 5), np.array([0, 1, 1, 1], "float32"))
    assert per_row == pytest.approx(right)


def binary_by_hand(y, p, num_bins, positive):
    """Both readings of the literature, in loops."""
    error = 0.0
    confidence = p if positive else np.maximum(p, 1 - p)
    hit = y == 1 if positive else (p > 0.5) == (y == 1)
    for b in range(num_bins):
        inside = [i for i in range(len(y)) if min(int(confidence[i] * num_bins), num_bins - 1) == b]
        if inside:
            error += len(inside) / len(y) * abs(np.mean(hit[inside]) - np.mean(confidence[inside]))
    return error


def binary_example(count=300, seed=0):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=count)
    return (rng.random(count) < 1 / (1 + np.exp(-0.6 * logits - 0.3))).astype(int), logits.astype("float32")


@pytest.mark.parametrize("class_id", [None, 0, 1])
@pytest.mark.parametrize("num_bins", [1, 7, 10])
def test_binary_classifiers_in_both_readings(num_bins, class_id):
    y, z = binary_example()
    p = (1 / (1 + np.exp(-z.astype("float64")))).astype("float32")
    wide = p.astype("float64")
    right = binary_by_hand(1 - y, 1 - wide, num_bins, True) if class_id == 0 else binary_by_hand(y, wide, num_bins, class_id == 1)
    options = {"num_bins": num_bins, "class_id": class_id}
    for labels in (y, y[:, None], y.astype("bool"), y.astype("float32")):
        for predictions in (p, p[:, None]):
            assert error_of(labels, predictions, **options) == pytest.approx(right, rel=1e-4, abs=1e-6)
    for logits in (z, z[:, None]):
        assert error_of(y, logits, from_logits=True, **options) == pytest.approx(right, rel=1e-4, abs=1e-6)
    assert error_of(y, np.stack([1 - p, p], axis=-1), **options) == pytest.approx(right, rel=1e-4, abs=1e-6)  # as of two classes
    image = p.reshape(10, 1, 30)
    assert error_of(y.reshape(10, 30), image, axis=1, **options) == pytest.approx(right, rel=1e-4, abs=1e-6)


def test_binary_errors_worked_out_by_hand():
    y, p = [1] * 9 + [0] + [1] * 3 + [0] * 7, np.array([0.8] * 10 + [0.2] * 10, "float32")  # 9 of 10 are 1, and 3 of 10
    assert error_of(y, p, num_bins=10) == pytest.approx(0, abs=1e-6)  # 16 of 20 are right, as sure as 0.8
    assert error_of(y, p, num_bins=10, class_id=1) == pytest.approx(0.1)
    assert error_of(y, p, num_bins=10, class_id=0) == pytest.approx(0.1)
    # Bins [0, .5) and [.5, 1]: means .25 and .75 of p, no and all are 1; confidences .7 and .8 in one bin, all right.
    y, p = [0, 0, 1, 1], np.array([0.3, 0.2, 0.7, 0.8], "float32")
    assert error_of(y, p, num_bins=2, class_id=1) == pytest.approx(0.25)
    assert error_of(y, p, num_bins=2) == pytest.approx(0.25)
    assert error_of([1, 1], np.array([0.5, 0.5], "float32"), num_bins=2) == pytest.approx(0.5)  # half is not more than half: class 0


@pytest.mark.parametrize(("binning", "strategy", "tolerance"), [("equal_width", "uniform", 1e-5), ("equal_mass", "quantile", 0.03)])
def test_the_bins_of_a_class_are_those_of_scikit_learn(binning, strategy, tolerance):
    y, z = binary_example(5000)
    p = 1 / (1 + np.exp(-z))
    metric = ExpectedCalibrationError(10, binning, class_id=1)
    metric.update_state(y, p)
    weight, probability, share = ops.convert_to_numpy(metric.bins()).T
    theirs, predicted = calibration_curve(y, p, n_bins=10, strategy=strategy)
    np.testing.assert_allclose(probability[weight > 0], predicted, atol=tolerance)
    np.testing.assert_allclose(share[weight > 0], theirs, atol=tolerance)


def test_a_class_of_several_is_that_class_against_the_rest():
    y, z, p = example(200, 4)
    for k in (0, 3):
        right = binary_by_hand((y == k).astype(int), p[:, k].astype("float64"), 15, True)
        assert error_of(y, p, class_id=k) == pytest.approx(right, rel=1e-4)
        assert error_of(y, z, class_id=k, from_logits=True) == pytest.approx(right, rel=1e-4)
        assert error_of(np.eye(4)[y], p, class_id=k) == pytest.approx(right, rel=1e-4)


def test_one_example_of_several_classes_is_none_of_a_binary_classifier():
    p = np.array([0.2, 0.7, 0.1], "float32")
    for label in (1, [1]):
        assert error_of(np.array(label), p) == pytest.approx(0.3)
    assert error_of([1], p[1:2]) == pytest.approx(0.3)


def test_binary_examples_are_left_out_like_others():
    y, z = binary_example(40)
    left = np.arange(40) >= 10
    right = error_of(y[left], z[left], from_logits=True)
    odd = np.where(left, z, np.nan)
    assert error_of(y, odd, left.astype("float32"), from_logits=True) == pytest.approx(right)
    assert error_of(np.where(left, y, -1), odd, ignore_class=-1, from_logits=True) == pytest.approx(right)
    assert error_of(y[:, None], odd[:, None], left[:, None].astype("float32"), from_logits=True) == pytest.approx(right)


def check_in_a_model(loss, metrics, x, y, outputs, rel, tmp_path):
    """Evaluated batch by batch, made again from its config, and saved with the model, the metric is what it is at once."""
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(x.shape[-1], kernel_initializer="identity")])
    model.compile("sgd", loss, metrics=metrics)
    found = model.evaluate(x, y, batch_size=10, verbose=0, return_dict=True)
    for metric in metrics:
        again = type(metric).from_config(json.loads(json.dumps(metric.get_config())))
        again.update_state(y, outputs)
        assert found[metric.name] == pytest.approx(value(again), rel=rel)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, batch_size=10, verbose=0, return_dict=True) == pytest.approx(found, rel=1e-5)


def test_a_binary_model_with_the_metric(tmp_path):
    y, z = binary_example(64)
    metrics = [ExpectedCalibrationError(from_logits=True), ExpectedCalibrationError(9, from_logits=True, class_id=1, name="positive")]
    check_in_a_model(keras.losses.BinaryCrossentropy(from_logits=True), metrics, z[:, None], y, z, 1e-4, tmp_path)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_a_nan_that_counts_shows(binning):
    y, _, p = example(40)
    p[3] = np.nan
    assert np.isnan(error_of(y, p, binning=binning))


def test_equal_mass_divides_evenly_where_it_can():
    confidence = np.array([0.6, 0.7, 0.8, 0.9], "float32")
    metric = ExpectedCalibrationError(2, "equal_mass")
    metric.update_state(np.zeros(4, int), np.stack([confidence, 1 - confidence], axis=-1))
    np.testing.assert_allclose(ops.convert_to_numpy(metric.bins()), [[2, 0.65, 1], [2, 0.85, 1]], rtol=1e-5)


def equal_mass_by_hand(y, p, bins):
    """Of distinct confidences, sorted: each example where the middle of its weight is. And twice the share of divided cells."""
    confidence, right = p.max(-1).astype("float64"), p.argmax(-1) == y
    order = np.argsort(confidence)
    place = ((np.arange(len(y)) + 0.5) / len(y) * bins).astype(int)
    parts = [order[place == b] for b in range(bins)]
    error = sum(abs(np.sum(confidence[k]) - np.sum(right[k])) for k in parts) / len(y)
    odds = np.log(confidence) - np.log1p(-confidence)
    cell = np.floor((odds - calibration.LOG_ODDS[0]) * calibration.CELLS / (calibration.LOG_ODDS[1] - calibration.LOG_ODDS[0]))
    divided = {cell[k[-1]] for k, other in itertools.pairwise(parts) if len(k) and len(other) and cell[k[-1]] == cell[other[0]]}
    return error, 2 * np.mean(np.isin(cell, list(divided)))


@pytest.mark.parametrize("bins", [15, 100])
@pytest.mark.parametrize("narrow", [False, True])
def test_equal_mass_is_exact_for_small_sets_and_near_enough_for_others(bins, narrow):
    rng = np.random.default_rng(0)
    for size in (50, 200, 4096, 9000):
        p = rng.uniform(0.6, 0.61, size) if narrow else rng.uniform(0.5, 1, size)
        p = np.stack([p, 1 - p], axis=-1).astype("float32")
        y = rng.integers(0, 2, size)
        metric = ExpectedCalibrationError(bins, "equal_mass")
        for part in np.array_split(np.arange(size), [7, 30, size - 3]):
            metric.update_state(y[part], p[part], sample_weight=np.full(len(part), 2.0))
            metric.update_state(y[part], p[part], sample_weight=np.zeros(len(part)))  # which leaves room for others
        exact, bound = equal_mass_by_hand(y, p, bins)
        assert abs(value(metric) - exact) < (1e-5 if size <= 4096 else bound + 1e-5)
        if not narrow:
            assert abs(value(metric) - exact) < 0.003


def test_examples_of_one_confidence_are_in_one_bin():
    p = np.array([0.6, 0.6, 0.6, 0.9], "float32")
    metric = ExpectedCalibrationError(2, "equal_mass")
    metric.update_state([0, 1, 0, 0], np.stack([p, 1 - p], axis=-1))
    np.testing.assert_allclose(ops.convert_to_numpy(metric.bins()), [[3, 0.6, 2 / 3], [1, 0.9, 1]], rtol=1e-5)


def test_in_a_compiled_model_and_saved_with_it(tmp_path):
    y, z, _ = example(64, 4)
    metrics = [ExpectedCalibrationError(from_logits=True), ExpectedCalibrationError(9, "equal_mass", True, name="mass")]
    check_in_a_model(keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics, z, y, z, 1e-5, tmp_path)


def test_half_precision_is_counted_in_float32():
    y, z, _ = example(3000, 4)
    half = ops.cast(ops.convert_to_tensor(z), "bfloat16")
    right = error_of(y, ops.convert_to_numpy(ops.cast(half, "float32")), from_logits=True)
    metric = ExpectedCalibrationError(from_logits=True, dtype="bfloat16")
    metric.update_state(y, half)
    assert value(metric) == pytest.approx(right)


def test_a_label_out_of_range_is_nan_where_it_cannot_be_seen(monkeypatch):
    p = np.full((2, 3), 1 / 3, "float32")
    if keras.backend.backend() == "tensorflow":
        metric = ExpectedCalibrationError()
        compiled(lambda y: metric.update_state(y, p))(ops.convert_to_tensor([0, 7]))
        assert np.isnan(value(metric))
    monkeypatch.setattr("keras_reg._labels.can_be_seen", lambda tensor: False)  # as on an accelerator
    for label in (7, -1, 0.5, np.nan):
        for predictions in (p, p[:, 0]):
            assert np.isnan(error_of(np.array([0, label], "float32"), predictions))
            assert np.isfinite(error_of(np.array([0, label], "float32"), predictions, np.array([1.0, 0.0], "float32")))
    assert error_of(np.array([0, 7]), p, ignore_class=7) == pytest.approx(2 / 3)


P = np.full((4, 3), 1 / 3, "float32")
BAD = {
    "no bins": (lambda: ExpectedCalibrationError(0), ValueError, "`num_bins` must be a whole number of at least 1. Received: num_bins=0"),
    "half a bin": (lambda: ExpectedCalibrationError(1.5), ValueError, "`num_bins` must be a whole number"),
    "binning": (lambda: ExpectedCalibrationError(binning="mass"), ValueError, "`binning` must be one of 'equal_width', 'equal_mass'"),
    "logits": (lambda: ExpectedCalibrationError(from_logits=1), TypeError, "`from_logits` must be True or False"),
    "ignore": (lambda: ExpectedCalibrationError(ignore_class="x"), TypeError, "`ignore_class` must be a whole number"),
    "axis": (lambda: ExpectedCalibrationError(axis=None), TypeError, "`axis` must be a whole number"),
    "label": (lambda: error_of([0, 1, 2, 3], P), ValueError, "`y_true` must hold whole numbers from 0 to 2.*Received: 3"),
    "shape": (lambda: error_of([0, 1], P), ValueError, "`y_true` must hold class ids, of shape"),
    "binary label": (lambda: error_of([0, 2], P[:2, 0]), ValueError, "`y_true` must hold whole numbers from 0 to 1.*Received: 2"),
    "class": (
        lambda: error_of([0] * 4, P, class_id=3),
        ValueError,
        "`class_id` must be a class of `y_pred`, which has 3. Received.*3",
    ),
    "class below 0": (lambda: ExpectedCalibrationError(class_id=-1), ValueError, "`class_id` must be a whole number of at least 0"),
    "class by name": (lambda: ExpectedCalibrationError(class_id="1"), ValueError, "`class_id` must be a whole number of at least 0"),
    "weight": (lambda: error_of([0] * 4, P, P), ValueError, "`sample_weight` must have one weight for each label"),
    "no model": (lambda: reliability_diagram([0], {}), ValueError, "`y_pred` must hold the predictions of at least one model"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_diagram_shows_the_bins(tmp_path):
    y, z, p = example()
    figure = reliability_diagram(y, {"first": p, "second": softmax(z / 3, axis=-1)}, num_bins=10)
    assert isinstance(figure, Figure)
    top, second, bottom, _ = figure.axes
    metric = ExpectedCalibrationError(10)
    metric.update_state(y, p)
    bins = ops.convert_to_numpy(metric.bins())
    weight, confidence, accuracy = bins[bins[:, 0] > 0].T
    bars, gaps = top.containers
    np.testing.assert_allclose([bar.get_x() for bar in bars], np.flatnonzero(bins[:, 0]) / 10, rtol=1e-6)
    np.testing.assert_allclose([bar.get_width() for bar in bars], 0.1, rtol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in bars], accuracy, rtol=1e-6)
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in gaps], confidence, rtol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in bottom.containers[0]], weight / weight.sum(), rtol=1e-6)
    assert top.get_title() == f"first: ECE {value(metric):.3f}"
    assert second.get_title() != top.get_title()
    assert {axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes} == {"accuracy", "confidence", ""}
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    alone = reliability_diagram(y, z, from_logits=True, binning="equal_mass")
    assert alone.axes[0].get_title().startswith("ECE 0.")
    bars = alone.axes[0].containers[0]
    confidence = np.sort(p.max(-1))
    ends = np.array([[bar.get_x(), bar.get_x() + bar.get_width()] for bar in bars])
    np.testing.assert_allclose(ends[1:, 0], ends[:-1, 1], rtol=1e-6)  # beside one another
    np.testing.assert_allclose(ends[[0, -1], [0, 1]], confidence[[0, -1]], rtol=1e-5)
    np.testing.assert_allclose(ends[1:, 0], [(confidence[k - 1] + confidence[k]) / 2 for k in range(40, 600, 40)], rtol=1e-5)


def test_diagram_of_a_binary_classifier():
    y, z = binary_example()
    for options, labels in (({}, {"accuracy", "confidence", ""}), ({"class_id": 1}, {"share of class 1", "probability of class 1", ""})):
        figure = reliability_diagram(y, z[:, None], num_bins=10, from_logits=True, **options)
        metric = ExpectedCalibrationError(10, from_logits=True, **options)
        metric.update_state(y, z)
        weight, probability, share = ops.convert_to_numpy(metric.bins()).T
        top, _ = figure.axes
        bars = top.containers[0]
        np.testing.assert_allclose([bar.get_height() for bar in bars], share[weight > 0], rtol=1e-6)
        assert all(bar.get_x() <= mean <= bar.get_x() + bar.get_width() for bar, mean in zip(bars, probability[weight > 0], strict=True))
        assert {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())} == labels | {"share"}
        assert top.get_title() == f"ECE {value(metric):.3f}"


def test_class_numbers_that_labels_cannot_be():
    """156 is -100 in eight bits, and a class."""
    p = np.full((4, 200), 1 / 200, "float32")
    p[0, 156] = 0.5
    for dtype in ("uint8", "int32"):
        y = np.array([156, 1, 2, 3], dtype)
        assert error_of(y, p, ignore_class=-100) == pytest.approx(error_of(y, p))
        losses = label_smoothing_crossentropy(ops.convert_to_tensor(y), p, ignore_class=-100)
        assert float(losses[0]) > 0


def test_a_batch_of_nothing():
    metric = ExpectedCalibrationError()
    metric.update_state(np.zeros((0,), "int32"), np.zeros((0, 3), "float32"))
    assert value(metric) == 0


def test_callbacks_know_that_less_is_better():
    x, y = np.ones((8, 2), "float32"), np.arange(8) % 2
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[ExpectedCalibrationError()])
    stop = keras.callbacks.EarlyStopping(monitor="val_expected_calibration_error", patience=3)
    model.fit(x, y, validation_data=(x, y), epochs=1, verbose=0, callbacks=[stop])
    assert stop.monitor_op(0.0, 1.0)


@pytest.mark.parametrize("y_pred", [[[3.0, -1.0], [5.0, 2.0]], [[0.5, 0.5], [1.5, -0.5]], [2.0, -3.0]])
def test_logits_are_no_probabilities(y_pred, monkeypatch):
    y, y_pred = np.array([0, 1]), np.array(y_pred, "float32")
    with pytest.raises(ValueError, match=r"must hold probabilities, from 0 to 1; logits need `from_logits=True`. Received: values from -"):
        error_of(y, y_pred)
    assert np.isfinite(error_of(y, y_pred, from_logits=True))
    monkeypatch.setattr("keras_reg.metrics.calibration.can_be_seen", lambda tensor: False)  # as on an accelerator
    assert np.isnan(error_of(y, y_pred))
