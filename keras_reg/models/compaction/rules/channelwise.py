"""What treats each channel by itself: batch normalization, activations, noise, pooling, padding."""

import keras
import numpy as np
from keras import layers

from keras_reg.models.compaction.activations import LAYERS, continuous, entrywise, name_of
from keras_reg.models.compaction.constants import apply
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.slots import Slot
from keras_reg.models.compaction.tracer import rule_for


@rule_for(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    """A constant `c` becomes `beta + gamma·(c − mean)/√(variance + epsilon)`."""

    units: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis != self.layer.axis % len(signal.shape):
            return self.barrier(args, kwargs, shapes, "normalizes along another axis")
        if self.units is None:
            self.units = signal.units
        else:
            self.graph.unite(signal.units, self.units)
        gamma, beta, mean, variance = (
            None if values is None else values.astype("float64")
            for values in map(self.values, ("gamma", "beta", "moving_mean", "moving_variance"))
        )
        scale = (1 if gamma is None else gamma) / np.sqrt(variance + self.layer.epsilon)
        constants = (0 if beta is None else beta) + np.where(scale == 0, 0, scale * (signal.constants - mean))
        return [signal.like(shapes[0], constants=constants)]

    def slots(self):
        if self.units is None:
            return []
        # Without gamma it takes a mean of zero for zeros to come out as zeros.
        produced = {"gamma": (0,), "beta": (0,), "moving_mean": () if self.layer.scale else (0,), "moving_variance": ()}
        return [Slot(path, {0: self.units}, axes) for path, axes in produced.items()]


@rule_for(layers.PReLU)
class PReLURule(Rule):
    """A constant below zero is multiplied by its slope, where that is the same at all places."""

    units: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        (signal,) = args
        if signal.axis is None:
            return self.barrier(args, kwargs, shapes, "has a slope for each place of its input")
        slope = self.values("alpha").astype("float64")
        if getattr(self, "axis", signal.axis - 1) != signal.axis - 1:
            return self.barrier(args, kwargs, shapes, "is called along several axes")
        self.axis = signal.axis - 1
        if slope.shape[self.axis] == 1 < len(signal.units):
            rows = np.broadcast_to(slope.reshape(1, -1), (len(signal.units), slope.size))
        else:
            rows = np.moveaxis(slope, self.axis, 0).reshape(len(signal.units), -1)
            if self.units is None:
                self.units = signal.units
            else:
                self.graph.unite(signal.units, self.units)
        uniform = np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)
        return [signal.like(shapes[0], constants=np.where(signal.constants >= 0, signal.constants, signal.constants * uniform))]

    def slots(self):
        return [] if self.units is None else [Slot("alpha", {self.axis: self.units})]


@rule_for(layers.Activation, *LAYERS)
class ActivationRule(Rule):
    def call(self, args, kwargs, shapes):
        signal = args[0]
        if isinstance(self.layer, layers.Activation) and not entrywise(self.layer.activation):
            reason = f"{name_of(self.layer.activation)} is not known to act on each entry alone"
            return self.barrier(args, kwargs, shapes, reason)
        if signal.axis is None:
            return [signal.like(shapes[0])]
        smooth = continuous(self.layer.activation if isinstance(self.layer, layers.Activation) else self.layer)
        return [signal.like(shapes[0], constants=apply(self.layer, signal.constants, self.layer.compute_dtype, smooth))]


@rule_for(
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.AlphaDropout),
    *(layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization, layers.Identity),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, layers.UpSampling1D, layers.UpSampling3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
)
class KeepsConstants(Rule):
    """The identity when a model predicts, or a choice or mean of values of the same channel."""

    def call(self, args, kwargs, shapes):
        signal = args[0]
        channels = 1 if getattr(self.layer, "data_format", None) == "channels_first" else len(signal.shape) - 1
        if signal.axis is not None and hasattr(self.layer, "data_format") and signal.axis != channels:
            return self.barrier(args, kwargs, shapes, "works along the axis of the units")
        if signal.axis is not None and shapes[0][signal.axis] != signal.shape[signal.axis]:
            return self.barrier(args, kwargs, shapes, "changes the length of the axis of the units")
        if signal.axis is not None and (getattr(self.layer, "noise_shape", None) or [None] * len(signal.shape))[signal.axis] not in (
            None,
            1,
        ):
            return self.barrier(args, kwargs, shapes, "has a fixed noise_shape")
        return [signal.like(shapes[0])]


@rule_for(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D, layers.UpSampling2D)
class KeepsZeros(KeepsConstants):
    """Of constants only zero stays what it is, by padding with zeros or by an interpolation that rounds."""

    def call(self, args, kwargs, shapes):
        (output,) = super().call(args, kwargs, shapes)
        if output.axis is not None and getattr(self.layer, "interpolation", None) != "nearest":
            output.constants = np.where(output.constants == 0, 0.0, np.nan)
        return [output]


_POOLS = [getattr(layers, f"Global{kind}Pooling{n}D") for kind in ("Average", "Max") for n in (1, 2, 3)]
_POOLS += [pool for kind in ("Average", "Max") for n in (1, 2, 3) if (pool := getattr(layers, f"Adaptive{kind}Pooling{n}D", None))]


@rule_for(*_POOLS)
class PoolingRule(Rule):
    def call(self, args, kwargs, shapes):
        signal = args[0]
        first = self.layer.data_format == "channels_first"
        if signal.axis is not None and signal.axis != (1 if first else len(signal.shape) - 1):
            return self.barrier(args, kwargs, shapes, "pools along the axis of the units")
        return [signal.like(shapes[0], axis=1 if first else len(shapes[0]) - 1)]


@rule_for("keras.src.applications.convnext.StochasticDepth")
class StochasticDepthRule(Rule):
    def call(self, args, kwargs, shapes):
        return [args[0].like(shapes[0])]


@rule_for("keras.src.applications.convnext.LayerScale")
class LayerScaleRule(Rule):
    """A factor for each channel."""

    units: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        (signal,) = args
        if signal.axis != len(signal.shape) - 1:
            return self.barrier(args, kwargs, shapes, "scales along another axis")
        if self.units is None:
            self.units = signal.units
        else:
            self.graph.unite(signal.units, self.units)
        gamma = self.values("gamma").astype("float64")
        return [signal.like(shapes[0], constants=np.where(gamma == 0, 0, signal.constants * gamma))]

    def slots(self):
        return [] if self.units is None else [Slot("gamma", {0: self.units}, (0,))]

    def changes(self):
        return {} if self.units is None else {"projection_dim": self.width(self.units)}


@rule_for(layers.Rescaling)
class RescalingRule(Rule):
    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis is None or np.ndim(self.layer.scale) or np.ndim(self.layer.offset):
            return self.barrier(args, kwargs, shapes, "has a scale for each channel")
        return [signal.like(shapes[0], constants=apply(self.layer, signal.constants, self.layer.compute_dtype))]


@rule_for(layers.Masking)
class MaskingRule(Rule):
    def call(self, args, kwargs, shapes):
        self.tracer.masks = True
        return self.barrier(args, kwargs, shapes, "masks by the values of all its inputs")


@rule_for(layers.Lambda)
class LambdaBarrier(Rule):
    def call(self, args, kwargs, shapes):
        return self.barrier(args, kwargs, shapes, "runs a function that cannot be looked into")

    def rebuild(self):
        # The function itself: its config has neither its globals nor what it closes over.
        old = self.layer
        config = {key: value for key, value in old.get_config().items() if key in ("name", "trainable", "dtype")}
        return layers.Lambda(old.function, output_shape=old._output_shape, mask=old.mask, arguments=old.arguments, **config)


@rule_for(layers.LayerNormalization, layers.GroupNormalization, layers.UnitNormalization)
class NormalizationBarrier(Rule):
    """Statistics over channels change when one leaves."""

    def call(self, args, kwargs, shapes):
        return self.barrier(args, kwargs, shapes, "normalizes over its channels")


@rule_for(layers.Softmax, keras.layers.Softmax)
class SoftmaxBarrier(Rule):
    def call(self, args, kwargs, shapes):
        return self.barrier(args, kwargs, shapes, "normalizes over its channels")
