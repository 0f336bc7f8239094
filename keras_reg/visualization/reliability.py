"""Is a classifier as often right as it says it is?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_reg.metrics import ExpectedCalibrationError

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # safe for the colour-blind


def reliability_diagram(y_true: Any, y_pred: Any, num_bins: int = 15, binning: str = "equal_width", **options: Any) -> Any:
    """Accuracy against confidence, bin by bin, and how many examples each bin holds.

    A bar is the accuracy of a bin, at its mean confidence. Where bars are below the diagonal the model is too sure of itself, above it not
    sure enough; the gap is drawn between them, and its mean is the expected calibration error in the title. With `class_id` the bars are
    the share of that class among the labels, at its mean probability.

    Args:
        y_true: Labels, as `keras_reg.metrics.ExpectedCalibrationError` takes them.
        y_pred: Predictions of one model, or a dictionary of names and predictions, one panel for each.
        num_bins: As of the metric.
        binning: As of the metric.
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
    from matplotlib.figure import Figure

    models = y_pred if isinstance(y_pred, Mapping) else {"": y_pred}
    if not models:
        raise ValueError("Argument `y_pred` must hold the predictions of at least one model. Received: an empty dictionary")
    figure = Figure(figsize=(0.6 + 3.6 * len(models), 4.6), layout="constrained")
    class_id = options.get("class_id")
    shown, probability = "accuracy", "confidence"
    if class_id is not None:
        shown, probability = f"share of class {class_id}", f"probability of class {class_id}"
    panels = figure.subplots(2, len(models), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for (name, predictions), top, bottom in zip(models.items(), *panels, strict=True):
        metric = ExpectedCalibrationError(num_bins, binning, **options)
        metric.update_state(y_true, predictions)
        bins = ops.convert_to_numpy(metric.bins())
        weight, confidence, accuracy = bins[bins[:, 0] > 0].T
        draw(top, confidence, accuracy, num_bins, shown, probability)
        error = float(ops.convert_to_numpy(metric.result()))
        top.set_title(f"{name}: ECE {error:.3f}" if name else f"ECE {error:.3f}")
        bottom.bar(confidence, weight / weight.sum(), width=width(num_bins), color=GREY)
        bottom.set_xlabel(probability)
    panels[0, 0].set_ylabel(shown)
    panels[1, 0].set_ylabel("share")
    panels[0, 0].legend(loc="upper left", fontsize="small")
    return figure


def width(num_bins: int) -> float:
    return 0.8 / max(num_bins, 10)


def draw(panel: Any, confidence: np.ndarray, accuracy: np.ndarray, num_bins: int, shown: str, probability: str) -> None:
    gap = confidence - accuracy
    panel.bar(confidence, accuracy, width=width(num_bins), color=BLUE, label=shown)
    # Hatched as well as coloured: it is read without colours too.
    style = {"width": width(num_bins), "facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 1}
    panel.bar(confidence, gap, bottom=accuracy, label=f"gap to the {probability}", **style)
    panel.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="as sure as right" if shown == "accuracy" else "as often as said")
    panel.set(xlim=(0, 1.05), ylim=(0, 1.05))
