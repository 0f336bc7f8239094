"""Pictures show the numbers that they are of, with labelled axes, in colours that the colour-blind tell apart."""

import io
import itertools
import pickle

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from keras_reg.callbacks import WeightHistogram
from keras_reg.callbacks.event_file import read_histograms
from keras_reg.regularizers import L1, L2, MCP, GroupLasso
from keras_reg.visualization import (
    kernel_heatmap,
    landscape,
    reliability_diagram,
    strength_curve,
    weight_histograms,
    weight_ridges,
)
from keras_reg.visualization.landscape import minimum
from keras_reg.visualization.style import COLOURS

random = np.random.default_rng(0)


def check_figure(figure, axes=True):
    """It draws without a word, no window manager holds it, and its axes say what they are and in which unit."""
    assert isinstance(figure, Figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    assert file.getvalue()[1:4] == b"PNG"
    assert len(file.getvalue()) > 3000
    for axis in figure.axes if axes else []:
        if axis.get_visible():
            labels = [axis.get_xlabel(), axis.get_ylabel()]
            assert any("(" in label for label in labels), labels
    import matplotlib.pyplot

    assert not matplotlib.pyplot.get_fignums()


def test_colours_are_told_apart():
    """Also with two of the three kinds of cones, by the matrices of Machado, Oliveira and Fernandes (2009)."""
    kinds = {
        "all": np.eye(3),
        "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
        "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    }
    linear = [np.where((c := np.array(to_rgb(name))) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for name in COLOURS]
    for kind, matrix in kinds.items():
        seen = [np.clip(np.asarray(matrix) @ colour, 0, 1) ** (1 / 2.4) for colour in linear]
        nearest = min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2))
        assert nearest > 0.1, kind


def test_weight_histograms():
    plain, thinned = random.normal(size=(40, 30)), random.normal(size=500) * (random.random(500) < 0.3)
    figure = weight_histograms({"plain": plain, "L1": [thinned, np.zeros(5)], "L2": plain / 3}, bins=51)
    check_figure(figure, axes=False)
    assert figure.get_supxlabel() == "weight w (no unit)"
    assert "(logarithmic)" in figure.get_supylabel()
    first, second = figure.axes
    assert [text.get_text().split(":")[0] for text in first.get_legend().get_texts()] == ["plain", "L1"]
    assert [text.get_text().split(":")[0] for text in second.get_legend().get_texts()] == ["plain", "L2"]
    assert first.get_legend().get_texts()[1].get_text().endswith(f"{np.mean(np.append(thinned, np.zeros(5)) == 0):.1%}")
    largest = np.abs(plain).max()
    expected = np.histogram(plain.ravel(), np.linspace(-largest, largest, 52))[0]
    bars = [patch.get_height() for patch in first.patches if hasattr(patch, "get_height")]
    np.testing.assert_array_equal(bars, expected)
    assert first.get_ylim() == second.get_ylim()


def test_weight_histograms_of_models():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(3)])
    before = model.get_weights()
    figure = weight_histograms({"kernels": model, "all": before})
    kernels, every = (sum(patch.get_height() for patch in weight_histograms({"": m}).axes[0].patches) for m in (model, before))
    assert (kernels, every) == (66, 75)
    check_figure(figure, axes=False)


@pytest.mark.parametrize(("models", "error"), [({}, ValueError), ([1.0], TypeError), ({"a": [np.array([np.nan])]}, ValueError)])
def test_weight_histograms_refuses(models, error):
    with pytest.raises(error, match="Argument `models`"):
        weight_histograms(models)


@pytest.mark.parametrize(("shape", "axis"), [((8, 6), -1), ((8, 6), -2), ((3, 2, 5, 7), -2), ((3, 3, 5, 7), -1), ((3, 3, 4, 2), (-2, -1))])
def test_kernel_heatmap(shape, axis):
    kernel = random.normal(size=shape)
    index = [a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)]
    moved = np.moveaxis(kernel, index, range(len(index)))
    moved[(1,) * len(index)] = 0
    moved[(0,) * len(index)] = 0
    moved[(0,) * len(shape)] = 1  # one weight is left: no zero group
    figure = kernel_heatmap(kernel, axis)
    check_figure(figure)
    groups = int(np.prod([shape[a] for a in index]))
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == f"zero groups: 1 of {groups} (axis {axis})"
    weights, dead = (image.get_array() for image in figure.axes[0].images)
    assert weights.shape == dead.shape == (kernel.size // shape[-1], shape[-1])
    marked = ~np.ma.getmaskarray(dead)
    assert marked.sum() == kernel.size // groups
    assert not np.any(np.asarray(weights)[marked])
    if len(shape) == 4:  # positions of a channel are one below the other
        np.testing.assert_array_equal(np.asarray(weights)[: shape[0] * shape[1], 0], kernel[:, :, 0, 0].ravel())


def test_kernel_heatmap_of_a_variable():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, kernel_regularizer=GroupLasso(0.1, axis=-2), name="dense")])
    figure = kernel_heatmap(model.layers[0].kernel)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "zero groups: 0 of 8 (axis -2)"
    assert figure.axes[0].get_title().endswith("dense/kernel")
    with pytest.raises(ValueError, match="`kernel` must have numbers, along at least two axes"):
        kernel_heatmap(model.layers[0].bias)


def test_weight_ridges(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="dense")])
    model.compile("sgd", "mse")
    x, y = random.normal(size=(32, 8)), random.normal(size=(32, 6))
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[WeightHistogram(tmp_path, freq=1, updates=True)])
    figure = weight_ridges(tmp_path, "dense/kernel", rows=5)
    check_figure(figure)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "6", "12", "18", "24"]
    written = read_histograms(str(tmp_path))["dense/kernel"]
    for place, (line, step) in enumerate(zip(axes.lines, (0, 6, 12, 18, 24), strict=True)):
        height = (line.get_ydata()[1:-1:2] - place) / 1.6
        counts = written[step][:, 2]
        np.testing.assert_allclose(height, np.log(1 + counts) / np.log(1 + counts.max()), atol=1e-12)
        np.testing.assert_array_equal(line.get_xdata()[1:-1:2], written[step][:, 0])
    assert weight_ridges(tmp_path, "dense/kernel/update").axes[0].get_xlabel() == "update (no unit)"
    with pytest.raises(ValueError, match=r"`tag` must be one of dense/kernel, .* Received: tag='kernel'"):
        weight_ridges(tmp_path, "kernel")
    with pytest.raises(ValueError, match="`log_dir` must be a directory that WeightHistogram wrote to"):
        weight_ridges(tmp_path / "other", "kernel")
    with pytest.raises(ValueError, match="`rows` must be"):
        weight_ridges(tmp_path, "dense/kernel", rows=1)


@pytest.mark.parametrize(
    ("penalty", "phi"),
    [
        (L1(0.5), lambda w: 0.5 * np.abs(w).sum(-1)),
        (L2(0.5), lambda w: 0.5 * (w**2).sum(-1)),
        (GroupLasso(0.5, axis=-1, size_weights=False), lambda w: 0.5 * np.linalg.norm(w, axis=-1)),
        (MCP(0.6), lambda w: np.where(np.abs(w) <= 1.8, 0.6 * np.abs(w) - w**2 / 6, 0.54).sum(-1)),
    ],
    ids=["L1", "L2", "GroupLasso", "MCP"],
)
def test_the_minimum_of_the_landscape(penalty, phi):
    """Against every point of a grid."""
    optimum, hessian = np.array([0.9, 0.25]), np.array([[2.0, 0.6], [0.6, 1.0]])
    grid = np.stack(np.meshgrid(np.linspace(-1.2, 1.2, 1201), np.linspace(-1.2, 1.2, 1201)), axis=-1)
    shift = grid - optimum
    total = np.einsum("...i,ij,...j", shift, hessian, shift) / 2 + phi(grid)
    best = grid[np.unravel_index(np.argmin(total), total.shape)]
    np.testing.assert_allclose(minimum(penalty, optimum, hessian), best, atol=2e-3)


def test_landscape():
    figure = landscape()
    check_figure(figure)
    diamond, circle = figure.axes
    for axes, distance in ((diamond, lambda w: np.abs(w).sum(-1)), (circle, lambda w: np.linalg.norm(w, axis=-1))):
        marked = np.array([line.get_xydata()[0] for line in axes.lines if line.get_label() == "minimum with the penalty"])
        # The minimum is on the edge of the penalty's set: the corner of the diamond, the rim of the circle.
        border = np.concatenate([path.vertices for path in axes.collections[1].get_paths()])
        np.testing.assert_allclose(distance(border).max(), distance(marked[0]), rtol=0.01)
    assert diamond.lines[2].get_ydata()[0] == 0
    assert circle.lines[2].get_ydata()[0] > 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"penalties": [keras.regularizers.L1(0.1)]}, TypeError, "`penalties` must hold penalties of keras_reg"),
        ({"penalties": []}, ValueError, "`penalties` must hold at least one"),
        ({"optimum": (1, 2, 3)}, ValueError, "`optimum` must hold two finite numbers"),
        ({"optimum": (np.nan, 1)}, ValueError, "`optimum` must hold two finite numbers"),
        ({"hessian": ((np.inf, 0), (0, 1))}, ValueError, "`hessian` must be a symmetric, positive definite"),
        ({"hessian": ((1, 0), (0, -1))}, ValueError, "`hessian` must be a symmetric, positive definite"),
    ],
)
def test_landscape_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        landscape(**arguments)


def test_strength_curve():
    strengths, accuracy, sparsity = [1e-2, 1e-4, 1e-3], [[0.9, 0.96, 0.95], [0.92, 0.95, 0.96]], [0.95, 0.1, 0.6]
    figure = strength_curve(strengths, accuracy, sparsity, chosen=1e-3)
    check_figure(figure)
    upper, lower = figure.axes
    np.testing.assert_allclose(upper.lines[0].get_xydata(), [[1e-4, 0.955], [1e-3, 0.955], [1e-2, 0.91]])
    np.testing.assert_allclose(lower.lines[0].get_xydata(), [[1e-4, 0.1], [1e-3, 0.6], [1e-2, 0.95]])
    assert lower.get_xscale() == "log"
    for arguments, message in (
        (([0, 1], [1, 1], [1, 1]), "`strengths` must hold positive"),
        (([1, 2], [1], [1, 1]), "`accuracy` must hold 2 numbers"),
        (([1, 2], [1, 1], [1, 50]), "`sparsity` must hold 2 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            strength_curve(*arguments)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    for draw in (lambda: weight_histograms({"a": np.ones(3)}), lambda: reliability_diagram([0, 1], np.array([[0.5, 0.5]] * 2))):
        with pytest.raises(ImportError, match="Pictures need the package matplotlib"):
            draw()


DRAWN = {
    "histograms": (weight_histograms, ({"a": np.ones(3), "b": np.zeros(3)},), 1),
    "three histograms": (weight_histograms, ({"a": np.ones(3), "b": np.zeros(3), "c": np.ones(2)},), 2),
    "heatmap": (kernel_heatmap, (np.eye(9),), 1),
    "landscape": (landscape, (L1(0.5),), 1),
    "landscapes": (landscape, (), 2),
    "strengths": (strength_curve, ([1, 2], [0.5, 0.6], [0.1, 0.2]), 2),
    "reliability": (reliability_diagram, ([0, 1], np.array([[0.7, 0.3]] * 2)), 1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_on_axes_of_ones_own(name):
    draw, arguments, number = DRAWN[name]
    figure = Figure(figsize=(5 * number, 4), layout="constrained")
    axes = figure.subplots(1, number, squeeze=False).ravel()
    assert draw(*arguments, ax=axes if number > 1 else axes[0]) is figure
    check_figure(figure, axes=False)
    assert all(one.has_data() for one in axes)
    with pytest.raises(ValueError, match="`ax` must be"):
        draw(*arguments, ax=[*axes, axes[0]])
    with pytest.raises(ValueError, match="`ax` must be"):
        draw(*arguments, ax=figure)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_shows_itself_and_legends_cover_nothing(name):
    draw, arguments, _ = DRAWN[name]
    figure = draw(*arguments)
    assert figure._repr_png_()[1:4] == b"PNG"
    assert pickle.loads(pickle.dumps(figure))._repr_png_()[1:4] == b"PNG"
    figure.canvas.draw()
    inside = figure.bbox
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        box = legend.get_window_extent()
        assert box.x0 >= inside.x0 - 1
        assert box.x1 <= inside.x1 + 1
        if name != "strengths":
            assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes if axes.get_visible())


def test_long_names_fit_and_ticks_are_whole():
    name = "a model with a name that is much longer than any legend"
    figure = weight_histograms({name: np.ones(3), name + "!": np.zeros(3)})
    figure.canvas.draw()
    assert figure.axes[0].get_legend().get_window_extent().x1 <= figure.bbox.x1
    assert figure.axes[0].title.get_window_extent().x1 <= figure.bbox.x1
    figure = kernel_heatmap(np.eye(9))
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert all(float(tick).is_integer() for tick in axis.get_majorticklocs())


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: kernel_heatmap(layers.Dense(2)), TypeError, "`kernel` must be a variable"),
        (lambda: kernel_heatmap(np.zeros((5, 0))), ValueError, "`kernel` must have numbers"),
        (lambda: weight_histograms({"a": np.ones(3)}, bins=0), ValueError, "`bins` must be a whole number of at least 1"),
        (lambda: weight_histograms({"a": []}), ValueError, "`models` must hold weights"),
        (lambda: weight_histograms({}), ValueError, "`models` must have at least one model"),
        (lambda: reliability_diagram([0], [keras.Sequential()]), TypeError, "`y_pred` must hold predictions"),
        (lambda: reliability_diagram([0, 1], np.array([[1, 0], [0, 1]])), TypeError, "as floats"),
    ],
)
def test_bad_input(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
