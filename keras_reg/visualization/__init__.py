"""Plots: functions that return a Matplotlib figure, to show or to save. Matplotlib is imported when they are called."""

from keras_reg.visualization.reliability import reliability_diagram as reliability_diagram
