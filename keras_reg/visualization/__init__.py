"""Pictures, as Matplotlib figures: `figure.savefig("weights.png")`, or the last line of a notebook's cell. They need `matplotlib`."""

from keras_reg.visualization.heatmap import kernel_heatmap
from keras_reg.visualization.histograms import weight_histograms
from keras_reg.visualization.landscape import landscape
from keras_reg.visualization.reliability import reliability_diagram
from keras_reg.visualization.ridges import weight_ridges
from keras_reg.visualization.strengths import strength_curve

__all__ = [
    "kernel_heatmap",
    "landscape",
    "reliability_diagram",
    "strength_curve",
    "weight_histograms",
    "weight_ridges",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
