"""Pictures of paths and of chosen features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_reg.selection.folder import Point
from keras_reg.visualization.style import COLOURS, given_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 10
STRENGTH = "strength (units of loss per unit of penalty, logarithmic)"


def scores(points: Sequence[Point], monitor: str, against: str, chosen: dict[str, Point], ax: Any) -> "Figure":
    panel = new_figure(6.0, 4.0).subplots() if ax is None else given_axes(ax, 1)[0]
    along = [getattr(point, against) for point in points]
    means = np.array([point.scores[monitor] for point in points])
    errors = np.array([point.errors.get(monitor, 0.0) for point in points])
    panel.errorbar(along, means, errors, color=COLOURS[1], marker="o", markersize=4, capsize=2)
    for (name, point), colour, line in zip(chosen.items(), (COLOURS[2], COLOURS[3]), ("--", ":"), strict=False):
        value = getattr(point, against)
        panel.axvline(value, color=colour, linestyle=line, label=f"{name}: {value:.3g}")
    if against == "strength":
        panel.set_xscale("log")
    panel.set_xlabel(STRENGTH if against == "strength" else "weights that are not zero, of those with penalties")
    panel.set_ylabel(f"{monitor} on data not trained on")
    panel.grid(alpha=0.3)
    panel.legend()
    return panel.figure


def coefficients(strengths: Sequence[float], values: np.ndarray, ax: Any) -> "Figure":
    panel = new_figure(6.0, 4.0).subplots() if ax is None else given_axes(ax, 1)[0]
    lines = values.reshape(len(values), -1)
    for number in range(lines.shape[1]):
        label = f"{number}" if lines.shape[1] <= MOST_NAMED else None
        panel.plot(strengths, lines[:, number], color=COLOURS[1 + number % (len(COLOURS) - 1)], label=label)
    panel.axhline(0.0, color="black", linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xlabel(STRENGTH)
    panel.set_ylabel("coefficient (units of output per unit of input)")
    panel.grid(alpha=0.3)
    if lines.shape[1] <= MOST_NAMED:
        panel.legend(title="weight", fontsize="small", ncols=2)
    return panel.figure


def features(chosen: np.ndarray, sizes: np.ndarray, ax: Any) -> "Figure":
    """Which entries of an image are chosen, over how long each has stayed."""
    panel = new_figure(4.5, 4.0).subplots() if ax is None else given_axes(ax, 1)[0]
    drawn = panel.imshow(sizes, cmap="Greys")
    rows, columns = np.nonzero(chosen)
    panel.plot(columns, rows, "s", color=COLOURS[2], markersize=4, label=f"{chosen.sum()} chosen")
    panel.figure.colorbar(drawn, ax=panel, label="place in the order of leaving (last: chosen)")
    panel.set_xlabel("column")
    panel.set_ylabel("row")
    panel.legend(loc="upper right", fontsize="small")
    return panel.figure
