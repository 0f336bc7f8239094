"""The weights of several models, side by side."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_reg._validation import non_negative, whole_number
from keras_reg.visualization.style import COLOURS, given_axes, legend_below, new_figure, short
from keras_reg.weights import choose, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def weight_histograms(models: Mapping[str, Any], include: Any = None, near_zero: float = 1e-3, bins: int = 101, ax: Any = None) -> "Figure":
    """Histograms of the weights of several models on the same bins and axes, each over that of the first.

    Args:
        models: Models by the names that the legend shows, at least one. In place of a model, its weights as they were at another
            time: an array or a list of arrays, such as `model.get_weights()`, of which all are shown.
        include: Which weights of the models, as in `keras_reg.callbacks.WeightHistogram`: by default kernels, embeddings and weights
            with a penalty.
        near_zero: The legend says which share of the weights has at most this magnitude.
        bins: Number of bins. An odd number has zero in the middle of a bin.
        ax: Matplotlib axes to draw on, one for each panel, in place of a figure of its own.

    Returns:
        A Matplotlib figure: a panel for every model but the first, with the first behind it; logarithmic counts.

    Example:

    >>> import numpy as np
    >>> from keras_reg.visualization import weight_histograms
    >>> weights = np.random.default_rng(0).normal(size=1000)
    >>> figure = weight_histograms({"plain": weights, "thinned": weights * (abs(weights) > 1)})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()][1]
    'thinned: |w| ≤ 0.001 for 68.4%'
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"Argument `models` must be a dict of models by name. Received: {type(models).__name__}")
    if not models:
        raise ValueError("Argument `models` must have at least one model. Received: models={}")
    bins = whole_number(bins, "bins", at_least=1)
    near_zero = non_negative(near_zero, "near_zero")
    weights = {name: _flat(name, model, include) for name, model in models.items()}
    first, *others = weights
    largest = max(float(np.max(np.abs(values), initial=0)) for values in weights.values()) or 1.0
    edges = np.linspace(-largest, largest, bins + 1)
    number = max(1, len(others))
    columns = min(2, number)
    rows = math.ceil(number / columns)
    if ax is None:
        figure = new_figure(5.5 * columns, 3.9 * rows + 0.6)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    else:
        panels = given_axes(ax, number)
    for index, panel in enumerate(panels):
        if index >= number:
            panel.set_visible(False)
            continue
        for shown in (first, *others[index : index + 1]):
            small = np.mean(np.abs(weights[shown]) <= near_zero)
            style = {"alpha": 0.6} if shown == first else {"histtype": "step", "linewidth": 1.6}
            colour = COLOURS[0] if shown == first else COLOURS[1 + index % (len(COLOURS) - 1)]
            label = f"{short(shown)}: |w| ≤ {near_zero:g} for {small:.1%}"
            panel.hist(weights[shown], edges, color=colour, label=label, log=True, **style)
        panel.set_title(f"{short(others[index])} against {short(first)}" if others else short(first), fontsize="medium")
        legend_below(panel, handlelength=1)
        panel.grid(axis="y", alpha=0.3)
    labels = "weight w (no unit)", f"weights per bin of width {edges[1] - edges[0]:.3g} (logarithmic)"
    if ax is None:
        figure.supxlabel(labels[0])
        figure.supylabel(labels[1])
    else:
        panels[0].set(xlabel=labels[0], ylabel=labels[1])
    return panel.figure


def _flat(name: str, model: Any, include: Any) -> np.ndarray:
    if isinstance(model, keras.Layer):
        arrays = [np.asarray(read(variable), "float64") for variable in choose(model, include).values()]
    else:
        arrays = [np.asarray(array, "float64") for array in (model if isinstance(model, (list, tuple)) else [model])]
    values = np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0)
    if not values.size:
        raise ValueError(f"Argument `models` must hold weights. Received: none, under {name!r}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"Argument `models` holds weights that are NaN or infinite, under {name!r}: there is no bin for them.")
    return values
