"""Pictures, as Matplotlib figures: `figure.savefig("weights.png")`, or the last line of a notebook's cell. They need `matplotlib`."""

from keras_reg.visualization.heatmap import kernel_heatmap as kernel_heatmap
from keras_reg.visualization.histograms import weight_histograms as weight_histograms
from keras_reg.visualization.landscape import landscape as landscape
from keras_reg.visualization.reliability import reliability_diagram as reliability_diagram
from keras_reg.visualization.ridges import weight_ridges as weight_ridges
from keras_reg.visualization.strengths import strength_curve as strength_curve
