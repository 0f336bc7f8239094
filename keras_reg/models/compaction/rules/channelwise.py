"""What treats each channel by itself: batch normalization, activations, noise, pooling, padding."""

import math

import keras
import numpy as np
from keras import layers, ops

from keras_reg.models.compaction.activations import LAYERS, continuous, entrywise, name_of
from keras_reg.models.compaction.constants import apply
from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.rules.merging import length_at
from keras_reg.models.compaction.signals import Signal
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
    grids = True

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if isinstance(self.layer, layers.Activation) and not entrywise(self.layer.activation):
            reason = f"{name_of(self.layer.activation)} is not known to act on each entry alone"
            return self.barrier(args, kwargs, shapes, reason)
        if signal.axis is None:
            return [signal.like(shapes[0])]
        smooth = continuous(getattr(self.layer, "activation", getattr(self.layer, "function", self.layer)))
        return [signal.mapped(shapes[0], lambda constants: apply(self.layer, constants, self.layer.compute_dtype, smooth))]


@rule_for(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization, layers.Identity)
class IdentityRule(Rule):
    """The identity when a model predicts."""

    grids = True

    def call(self, args, kwargs, shapes):
        signal = args[0]
        shape = getattr(self.layer, "noise_shape", None) or [None] * len(signal.shape)
        if any(shape[axis] not in (None, 1) for axis in signal.followed):
            return self.barrier(args, kwargs, shapes, "has a fixed noise_shape")
        return [signal.like(shapes[0])]


@rule_for(
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
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
        return [signal.like(shapes[0])]


@rule_for(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D, layers.UpSampling2D)
class KeepsZeros(KeepsConstants):
    """Of constants only zero stays what it is, by padding with zeros or by an interpolation that rounds."""

    def call(self, args, kwargs, shapes):
        (output,) = super().call(args, kwargs, shapes)
        if output.axis is not None and getattr(self.layer, "interpolation", None) != "nearest":
            output.constants = np.where(output.constants == 0, 0.0, np.nan)
        return [output]


@rule_for(layers.Resizing, "Resize")
class ResizingRule(KeepsZeros):
    trained_alike = True

    def call(self, args, kwargs, shapes):
        (output,) = super().call(args, kwargs, shapes)
        if output.axis is not None and self.layer.pad_to_aspect_ratio and self.layer.fill_value:
            output.constants = np.full(len(output.constants), np.nan)
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


class ByChannel(Rule):
    """Numbers of the config, some for each channel: a constant becomes another."""

    # The settings, by their names in the config and as attributes.
    settings: dict[str, str]
    units: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        signal = args[0]
        if signal.axis is None and all(np.size(value) == 1 for value in self._values()):
            return [Signal(shapes[0])]
        if signal.axis is None:
            return self.barrier(args, kwargs, shapes, "has a number for each unit of an axis that cannot be followed")
        if any(np.ndim(value) > 1 or (np.size(value) > 1 and signal.axis != len(signal.shape) - 1) for value in self._values()):
            return self.barrier(args, kwargs, shapes, "has numbers for each place")
        if self.units is None:
            self.units = signal.units
        elif len(self.units) != len(signal.units):
            return self.barrier(args, kwargs, shapes, "is called on different widths")
        else:
            self.graph.unite(signal.units, self.units)
        constants = self.changed(signal.constants, *(np.asarray(value, "float64") for value in self._values()))
        return [signal.like(shapes[0], constants=constants)]

    def _values(self) -> list:
        return [getattr(self.layer, attribute) for attribute in self.settings.values()]

    def changed(self, constants: np.ndarray, *values: np.ndarray) -> np.ndarray:
        """What becomes of constants."""
        raise NotImplementedError

    def held(self):
        return [] if self.units is None else [self.units]

    def changes(self):
        if self.units is None or self.barred:
            return {}
        kept = self.graph.kept(self.units)
        cut = {name: value for name, value in zip(self.settings, self._values(), strict=True) if np.size(value) > 1}
        return {name: np.asarray(value)[kept].tolist() for name, value in cut.items()} if not kept.all() else {}


@rule_for(layers.Rescaling)
class RescalingRule(ByChannel):
    settings = {"scale": "scale", "offset": "offset"}  # noqa: RUF012

    def changed(self, constants, scale, offset):
        return np.where(scale == 0, 0.0, constants * scale) + offset


@rule_for(layers.Normalization)
class FixedNormalizationRule(ByChannel):
    """By means and variances that it was given, or that it has found in data: those are weights."""

    settings = {"mean": "input_mean", "variance": "input_variance"}  # noqa: RUF012

    def call(self, args, kwargs, shapes):
        rank = len(args[0].shape)
        axes = [axis % rank for axis in np.ravel(() if self.layer.axis is None else self.layer.axis).astype(int)]
        if axes not in ([], [rank - 1]):
            return self.barrier(args, kwargs, shapes, "has numbers for each place")
        return super().call(args, kwargs, shapes)

    @property
    def found(self) -> bool:
        return self.layer.input_mean is None

    def _values(self):
        if self.found:
            return [self.values("adapt_mean"), self.values("adapt_variance")]
        return [ops.convert_to_numpy(ops.convert_to_tensor(value)) for value in super()._values()]  # rounded as the layer rounds them

    def changed(self, constants, mean, variance):
        deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
        return constants * deviation + mean if self.layer.invert else (constants - mean) / deviation

    def slots(self):
        if not self.found or self.units is None or np.size(self.layer.axis) == 0:
            return []
        return [Slot(path, {0: self.units}) for path in ("adapt_mean", "adapt_variance")]

    def changes(self):
        return {} if self.found else super().changes()


@rule_for(layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """The channels of a group stay or go together; a group of zeros gives its shifts. Statistics of one group are those of all."""

    units: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        signal = args[0]
        groups = self.layer.groups
        if signal.axis is None or signal.axis != self.layer.axis % len(signal.shape) or groups == 1:
            return self.barrier(args, kwargs, shapes, "normalizes over its channels")
        together = signal.units.reshape(groups, -1)
        for column in together.T[1:]:
            self.graph.unite(column, together[:, 0])
        if self.units is None:
            self.units = signal.units
        else:
            self.graph.unite(signal.units, self.units)
        gamma, beta = self.values("gamma"), self.values("beta")
        zero = np.repeat((signal.constants.reshape(groups, -1) == 0).all(1), together.shape[1])
        closed = np.zeros(len(zero), bool) if gamma is None else gamma == 0
        return [signal.like(shapes[0], constants=np.where(zero | closed, 0.0 if beta is None else beta, np.nan))]

    def slots(self):
        if self.units is None:
            return []
        return [Slot(path, {0: self.units}, (0,)) for path in ("gamma", "beta") if getattr(self.layer, path) is not None]

    def changes(self):
        if self.units is None or self.barred:
            return {}
        return {"groups": self.width(self.units) * self.layer.groups // len(self.units)}


@rule_for(layers.Masking)
class MaskingRule(Rule):
    def call(self, args, kwargs, shapes):
        self.tracer.masks = True
        return self.barrier(args, kwargs, shapes, "masks by the values of all its inputs")


@rule_for(layers.Lambda)
class LambdaBarrier(ActivationRule):
    """A function that cannot be looked into, unless somebody says that it acts on each entry alone."""

    def call(self, args, kwargs, shapes):
        if entrywise(self.layer.function) and not self.layer.arguments:
            return super().call(args, kwargs, shapes)
        return self.barrier(args, kwargs, shapes, "runs a function that cannot be looked into")

    def rebuild(self):
        # The function itself: its config has neither its globals nor what it closes over.
        old = self.layer
        config = {key: value for key, value in old.get_config().items() if key in ("name", "trainable", "dtype")}
        return layers.Lambda(old.function, output_shape=old._output_shape, mask=old.mask, arguments=old.arguments, **config)


class AlongOthers(Rule):
    """Statistics over some axes, that change when a unit along them leaves; along others each place is by itself."""

    grids = True

    def call(self, args, kwargs, shapes):
        signal, axes = args[0], self.axes()
        if axes is None:
            return self.barrier(args, kwargs, shapes, "normalizes over its channels")
        axes = {axis % len(signal.shape) for axis in axes}
        for mask in signals_in(kwargs):
            # One with a place for each unit would not fit those that are left.
            axes |= {axis for axis in signal.followed if length_at(mask, axis - len(signal.shape)) != 1}
        if not set(signal.followed) - axes:
            return self.barrier(args, kwargs, shapes, "normalizes over its channels")
        left = signal.only([*set(signal.followed) - axes], self.graph, self.name, "normalizes over its channels")
        return [left.mapped(shapes[0], lambda constants: self.of_constants(constants, axes, [*signals_in(kwargs), signal]))]

    def of_constants(self, constants: np.ndarray, axes: set[int], signals: list[Signal]) -> np.ndarray:
        """What comes out is the same for all inputs where what goes in is, but not at all places."""
        return np.full(len(constants), np.nan)

    def axes(self) -> list[int] | None:
        axis = self.layer.axis
        return axis if axis is None else list(axis) if isinstance(axis, (list, tuple)) else [axis]


@rule_for(layers.LayerNormalization)
class NormalizationRule(AlongOthers):
    pass


@rule_for("LogSoftmax")
class LogSoftmaxRule(AlongOthers):
    pass


@rule_for(layers.Softmax, "Softmax")
class SoftmaxRule(AlongOthers):
    """Equal shares of constants."""

    def of_constants(self, constants, axes, signals):
        lengths = [signals[-1].shape[axis] for axis in axes]
        if len(signals) > 1 or None in lengths:
            return super().of_constants(constants, axes, signals)
        return np.where(np.isfinite(constants), 1 / math.prod(lengths), np.nan)
