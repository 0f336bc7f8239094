"""What all pictures share: colours that the colour-blind tell apart, figures that show themselves, and the user's own axes."""

import functools
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito, 2008; the first, a grey that is none of theirs, is for what the others are compared with.
COLOURS = ("#BBBBBB", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LONGEST_NAME = 28


def new_figure(width: float, height: float) -> "Figure":
    """A figure that no window manager holds on to, and that a notebook shows whatever its backend is."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need the package matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def given_axes(ax: Any, number: int) -> "list[Axes]":
    """The user's own axes, as many as there are panels."""
    from matplotlib.axes import Axes

    given = list(np.ravel(np.array(ax, dtype=object)))
    if len(given) != number or not all(isinstance(one, Axes) for one in given):
        wanted = "Matplotlib axes" if number == 1 else f"{number} Matplotlib axes, one for each panel"
        raise ValueError(f"Argument `ax` must be {wanted}. Received: {len(given)} of type {type(given[0]).__name__ if given else None}")
    return given


def short(name: Any) -> str:
    """A name that fits a legend."""
    text = str(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 11]}…{text[-10:]}"


def legend_below(panel: "Axes", handles: Iterable[Any] | None = None, **style: Any) -> None:
    """A legend that covers nothing."""
    style = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "fontsize": "small", **style}
    panel.legend(**style) if handles is None else panel.legend(handles=handles, **style)
