"""What all pictures share: colours that the colour-blind tell apart, and figures that no window manager holds on to."""

from typing import Any

# Of Okabe and Ito, 2008; the first, a grey that is none of theirs, is for what the others are compared with.
COLOURS = ("#BBBBBB", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def new_figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need the package matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")
