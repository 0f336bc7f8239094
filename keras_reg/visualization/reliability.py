"""Is a classifier as often right as it says it is?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_reg.metrics import ExpectedCalibrationError
from keras_reg.visualization.style import COLOURS, given_axes, legend_below, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = COLOURS[1], COLOURS[2], "#777777"


def reliability_diagram(
    y_true: Any, y_pred: Any, num_bins: int = 15, binning: str = "equal_width", ax: "Axes | None" = None, **options: Any
) -> "Figure":
    """Accuracy against confidence, bin by bin, and how many examples each bin holds.

    A bar is the accuracy of a bin, as wide as the bin. Where bars are below the diagonal the model is too sure of itself, above it not
    sure enough; the gap to the mean confidence is drawn between them, and its mean is the expected calibration error in the title. With
    `class_id` the bars are the share of that class among the labels, and the gap is that to its mean probability.

    Args:
        y_true: Labels, as `keras_reg.metrics.ExpectedCalibrationError` takes them.
        y_pred: Predictions of one model, or a dictionary of names and predictions, one panel for each.
        num_bins: As of the metric.
        binning: As of the metric.
        ax: Matplotlib axes to draw on, in place of a figure of its own: for one model, without the shares of the examples.
        options: Further arguments of the metric: `from_logits`, `ignore_class`, `axis`, `class_id`. Of a binary classifier, the default
            shows the predicted class, with confidences from 0.5 up, and `class_id=1` the probabilities of class 1.

    Returns:
        A `matplotlib.figure.Figure`: `figure.savefig("reliability.png")`.

    Example:

    >>> import numpy as np
    >>> from keras_reg.visualization import reliability_diagram
    >>> probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], size=200)
    >>> figure = reliability_diagram(np.argmax(probabilities, axis=-1), {"never wrong": probabilities}, num_bins=5)
    >>> figure.axes[0].get_title()
    'never wrong: ECE 0.400'
    """
    if isinstance(y_pred, (list, tuple)) and y_pred and any(isinstance(one, keras.Layer) for one in y_pred):
        raise TypeError("Argument `y_pred` must hold predictions, such as `model.predict(x)`. Received: a list of models")
    models = y_pred if isinstance(y_pred, Mapping) else {"": y_pred}
    if not models:
        raise ValueError("Argument `y_pred` must hold the predictions of at least one model. Received: an empty dictionary")
    counted = {name: _counted(y_true, predictions, num_bins, binning, options) for name, predictions in models.items()}
    class_id = options.get("class_id")
    shown, probability = "accuracy", "confidence"
    if class_id is not None:
        shown, probability = f"share of class {class_id}", f"probability of class {class_id}"
    if ax is None:
        figure = new_figure(0.6 + 3.6 * len(models), 5.1)
        tops, bottoms = figure.subplots(2, len(models), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    else:
        tops, bottoms = given_axes(ax, len(models)), [None] * len(models)
    for (name, metric), top, bottom in zip(counted.items(), tops, bottoms, strict=True):
        bins, edges = ops.convert_to_numpy(metric.bins()), metric.edges()
        filled = bins[:, 0] > 0
        weight, confidence, accuracy = bins[filled].T
        left, right = edges[filled].T
        _draw(top, (left, right), confidence, accuracy, shown, probability)
        error = float(ops.convert_to_numpy(metric.result()))
        top.set_title(f"{short(name)}: ECE {error:.3f}" if name else f"ECE {error:.3f}")
        if bottom is not None:
            bottom.bar(left, weight / weight.sum(), width=right - left, align="edge", color=GREY, edgecolor="white", linewidth=0.5)
        (top if bottom is None else bottom).set_xlabel(probability)
    tops[0].set_ylabel(shown)
    if ax is None:
        bottoms[0].set_ylabel("share")
        figure.legend(*tops[0].get_legend_handles_labels(), loc="outside lower center", ncols=1 + 2 * (len(models) > 1), fontsize="small")
    else:
        legend_below(tops[0])
    return tops[0].figure


def _counted(y_true: Any, y_pred: Any, num_bins: int, binning: str, options: Mapping) -> ExpectedCalibrationError:
    metric = ExpectedCalibrationError(num_bins, binning, **options)
    y_pred = y_pred if hasattr(y_pred, "dtype") else np.asarray(y_pred)
    if "float" not in keras.backend.standardize_dtype(y_pred.dtype):
        raise TypeError(f"Argument `y_pred` must hold probabilities, or logits, as floats. Received: dtype {y_pred.dtype}")
    metric.update_state(y_true, y_pred)
    return metric


def _draw(panel: "Axes", edges: tuple, confidence: np.ndarray, accuracy: np.ndarray, shown: str, probability: str) -> None:
    style = {"width": edges[1] - edges[0], "align": "edge", "linewidth": 0.5}
    panel.bar(edges[0], accuracy, color=BLUE, edgecolor="white", label=shown, **style)
    # Hatched as well as coloured: it is read without colours too.
    gap = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "label": f"gap to the {probability}"}
    panel.bar(edges[0], confidence - accuracy, bottom=accuracy, **{**style, **gap})
    panel.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="as sure as right" if shown == "accuracy" else "as often as said")
    panel.set(xlim=(0, 1.05), ylim=(0, 1.05))
