"""How the weights of one layer were spread over training, read back from the logs."""

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_reg._validation import whole_number
from keras_reg.callbacks.event_file import read_histograms
from keras_reg.visualization.style import COLOURS, given_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def weight_ridges(log_dir: str | os.PathLike, tag: str, rows: int = 12, ax: "Axes | None" = None) -> "Figure":
    """The distribution of a weight at several steps, one ridge above the other, from what `WeightHistogram` wrote.

    Args:
        log_dir: The directory given to the callback.
        tag: The name of a histogram there: the path of the weight in the model, with `/update` or `/gradient` for those.
        rows: The largest number of steps to show. The first and the last are among them.
        ax: Matplotlib axes to draw on, in place of a figure of its own.

    Returns:
        A Matplotlib figure: the height of a ridge is `log(1 + count)` of its bin, scaled to that of its fullest bin.

    Example:

    >>> import tempfile
    >>> import keras, numpy as np
    >>> from keras_reg.callbacks import WeightHistogram
    >>> from keras_reg.visualization import weight_ridges
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    >>> model.compile("sgd", "mse")
    >>> log_dir = tempfile.mkdtemp()
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=3, verbose=0, callbacks=[WeightHistogram(log_dir)])
    >>> [label.get_text() for label in weight_ridges(log_dir, "dense/kernel").axes[0].get_yticklabels()]
    ['0', '1', '2', '3']
    """
    rows = whole_number(rows, "rows", at_least=2)
    directory = os.path.join(os.fspath(log_dir), "weights")
    found = read_histograms(directory)
    if not found:
        raise ValueError(f"Argument `log_dir` must be a directory that WeightHistogram wrote to. Received: log_dir={os.fspath(log_dir)!r}")
    if tag not in found:
        raise ValueError(f"Argument `tag` must be one of {', '.join(found)}. Received: tag={tag!r}")
    steps = list(found[tag])
    chosen = [steps[index] for index in sorted(set(np.linspace(0, len(steps) - 1, rows).round().astype(int)))]
    axes = new_figure(6.5, 1.4 + 0.45 * len(chosen)).subplots() if ax is None else given_axes(ax, 1)[0]
    for place, step in enumerate(chosen):
        left, right, counts = found[tag][step].astype("float64").T
        if not len(counts):
            continue
        # Stairs, as the bins are: two points an edge. 1.6 rows high, so that ridges stand before one another.
        # Zeros outnumber all others by orders of magnitude: on a linear scale nothing else would show.
        height = 1.6 * np.log1p(counts) / np.log1p(counts.max())
        x = np.concatenate([[left[0]], np.stack([left, right], axis=1).ravel(), [right[-1]]])
        y = place + np.concatenate([[0], np.repeat(height, 2), [0]])
        colour = COLOURS[6]
        axes.fill_between(x, place, y, color=colour, linewidth=0, zorder=-place)
        axes.plot(x, y, color="white", linewidth=1.0, zorder=-place)
    axes.set_yticks(range(len(chosen)), [str(step) for step in chosen])
    last = tag.rsplit("/", 1)[-1]
    axes.set_xlabel(f"{last if last in ('update', 'gradient') else 'weight'} (no unit)")
    axes.set_ylabel("training step (updates of the optimizer)")
    axes.set_title(f"{tag}: weights per bin, logarithmic,\neach row scaled to its fullest bin", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    return axes.figure
