"""What a strength costs and what it brings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_reg.visualization.style import COLOURS, given_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def strength_curve(strengths: Sequence[float], accuracy: Any, sparsity: Any, chosen: float | None = None, ax: Any = None) -> "Figure":
    """Accuracy and sparsity against the strength of a penalty, one panel above the other.

    Args:
        strengths: Positive strengths, in units of the penalty.
        accuracy: The accuracy at each strength, between 0 and 1; or rows of them, one for every repetition.
        sparsity: The share of zeros at each strength, between 0 and 1, in the same form.
        chosen: A strength to mark.
        ax: Two Matplotlib axes to draw on, in place of a figure of its own.

    Returns:
        A Matplotlib figure: means, with the range of the repetitions shaded where there are several.

    Example:

    >>> from keras_reg.visualization import strength_curve
    >>> figure = strength_curve([1e-4, 1e-3, 1e-2], accuracy=[0.96, 0.96, 0.91], sparsity=[0.2, 0.6, 0.95], chosen=1e-3)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['accuracy (share of examples)', 'zeros (share of weights)']
    """
    strengths = np.asarray(strengths, "float64")
    if strengths.ndim != 1 or not strengths.size or not np.all(strengths > 0):
        raise ValueError(f"Argument `strengths` must hold positive numbers. Received: strengths={strengths}")
    order = np.argsort(strengths)
    upper, lower = new_figure(6.0, 5.0).subplots(2, 1, sharex=True) if ax is None else given_axes(ax, 2)
    panels = (
        (upper, "accuracy", accuracy, "accuracy (share of examples)", COLOURS[1], "o"),
        (lower, "sparsity", sparsity, "zeros (share of weights)", COLOURS[2], "s"),
    )
    for panel, name, numbers, label, colour, marker in panels:
        rows = np.atleast_2d(np.asarray(numbers, "float64"))
        if rows.shape[1] != strengths.size or not np.all((rows >= 0) & (rows <= 1)):
            raise ValueError(f"Argument `{name}` must hold {strengths.size} numbers between 0 and 1, one a strength. Received: {numbers}")
        panel.plot(strengths[order], rows.mean(axis=0)[order], color=colour, marker=marker)
        if len(rows) > 1:
            panel.fill_between(strengths[order], rows.min(axis=0)[order], rows.max(axis=0)[order], color=colour, alpha=0.2, linewidth=0)
        if chosen is not None:
            panel.axvline(chosen, color="black", linestyle=":", label=f"chosen: {chosen:g}")
            panel.legend()
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    upper.set_xscale("log")
    lower.set_xscale("log")
    lower.set_xlabel("strength (units of loss per unit of penalty, logarithmic)")
    return lower.figure
