"""One kernel as a picture, with its zero groups marked."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_reg.ops.groups import group_axes
from keras_reg.visualization.style import given_axes, legend_below, new_figure
from keras_reg.weights import group_axis, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def kernel_heatmap(kernel: Any, axis: int | tuple[int, ...] | None = None, title: str | None = None, ax: "Axes | None" = None) -> "Figure":
    """A heat map of a kernel: units or filters from left to right, inputs from top to bottom, and zero groups in black.

    A convolution's kernel has the positions of an input channel one below the other.

    Args:
        kernel: A layer's variable, or an array of rank 2 or more.
        axis: The axis (or axes) that index the groups. Defaults to those of the variable's penalty, or else -1: units and filters.
        title: The title. Defaults to the variable's path.
        ax: Matplotlib axes to draw on, in place of a figure of its own.

    Returns:
        A Matplotlib figure. The legend says how many groups are zero.

    Example:

    >>> import numpy as np
    >>> from keras_reg.visualization import kernel_heatmap
    >>> kernel = np.ones((4, 6))
    >>> kernel[[1, 2]] = 0
    >>> figure = kernel_heatmap(kernel, axis=-2)
    >>> figure.axes[0].get_legend().get_texts()[0].get_text()
    'zero groups: 2 of 4 (axis -2)'
    """
    if isinstance(kernel, keras.Layer):
        raise TypeError(f"Argument `kernel` must be a variable, such as `layer.kernel`, or an array. Received: the layer {kernel.name!r}")
    values = read(kernel) if isinstance(kernel, keras.Variable) else np.asarray(kernel)
    if values.dtype == object or values.ndim < 2 or not values.size:
        raise ValueError(f"Argument `kernel` must have numbers, along at least two axes. Received: kernel.shape={values.shape}")
    values = values.astype("float64")
    if axis is None:
        axis = group_axis(kernel) if isinstance(kernel, keras.Variable) else -1
    _, inside = group_axes(axis, values.ndim)
    alive = np.any(values != 0, axis=inside, keepdims=True) if inside else values != 0
    zero = np.broadcast_to(~alive, values.shape)
    matrix, dead = (np.moveaxis(array, -2, 0).reshape(-1, values.shape[-1]) for array in (values, zero))

    figure = new_figure(6.5, 5.0) if ax is None else None
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots() if ax is None else given_axes(ax, 1)[0]
    largest = np.max(np.abs(matrix[np.isfinite(matrix)]), initial=0) or 1.0
    image = axes.imshow(matrix, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    axes.imshow(np.ma.masked_equal(dead, False), cmap=ListedColormap(["#000000"]), aspect="auto", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="weight (no unit)")
    label = f"zero groups: {np.sum(~alive)} of {alive.size} (axis {axis})"
    legend_below(axes, [Patch(color="#000000", label=label)])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("unit (index)" if values.ndim == 2 else "filter (index)")
    axes.set_ylabel("input (index)" if values.ndim == 2 else f"input channel (index), {len(matrix) // values.shape[-2]} positions each")
    if values.ndim > 2:
        positions = len(matrix) // values.shape[-2]
        axes.set_yticks(np.arange(values.shape[-2]) * positions, np.arange(values.shape[-2]))
        axes.yaxis.set_major_locator(_every(axes.get_yticks()))
        axes.yaxis.set_major_formatter(lambda place, _: f"{place / positions:.0f}")
    axes.set_title(title if title is not None else getattr(kernel, "path", "kernel"))
    return axes.figure


def _every(ticks: np.ndarray) -> Any:
    """At most a dozen of the ticks."""
    from matplotlib.ticker import FixedLocator

    return FixedLocator(ticks[:: max(1, -(-len(ticks) // 12))])
