"""Convolutions: plain, grouped, transposed, depthwise and separable, in one to three dimensions."""

import numpy as np
from keras import layers

from keras_reg.models.compaction.adding import adds_wrongly
from keras_reg.models.compaction.rules.dense import Reader
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for


class Convolution(Reader):
    """What convolutions have in common: where channels are, and whether a border is padded."""

    @property
    def channels(self) -> int:
        return -1 if self.layer.data_format == "channels_last" else 1

    def without_border(self, signal: Signal) -> bool:
        """Whether every output sees the same number of inputs, so that a constant channel adds the same to all."""
        layer = self.layer
        if layer.padding == "valid" or all(size == 1 for size in layer.kernel_size):
            return True
        if layer.padding != "same":
            return False
        lengths = list(signal.shape[1:])
        del lengths[self.channels if self.channels < 0 else 0]
        padding = (
            max((-(-length // stride) - 1) * stride + (size - 1) * rate + 1 - length, 0) if length else 1
            for length, size, stride, rate in zip(lengths, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        )
        return not any(padding)

    def spatial(self, shape: tuple) -> tuple:
        lengths = list(shape[1:])
        del lengths[self.channels if self.channels < 0 else 0]
        return tuple(lengths)

    def output(self, shape: tuple, constants: np.ndarray) -> list[Signal]:
        if self.channels == 1 and self.layer.use_bias:
            bias = [1] * (len(shape) - 2)
            self.mind_addition([self.outputs], lambda widths: adds_wrongly([None, *widths, *shape[2:]], [1, *widths, *bias]))
        return [self.finish_outputs(Signal(shape, self.channels % len(shape), self.outputs, constants))]


@rule_for(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvRule(Convolution):
    inputs: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        if reason := self.unsupported():
            return self.barrier(args, kwargs, shapes, reason)
        (signal,) = args
        units, constants = signal.along(self.channels, self.graph, self.name)
        self.count("kernel", self.spatial(shapes[0]))
        if self.layer.groups > 1:
            return self._grouped(signal, units, constants, shapes)
        if self.inputs is None:
            kernel = self.values("kernel")
            self.inputs, self.outputs = units, self.graph.new(kernel.shape[-1])
            self.matrix = Matrix(self.graph, units, self.outputs, kernel.reshape(-1, *kernel.shape[-2:]))
        return self.output(shapes[0], self.produced(self.matrix.feed(units, constants, self.without_border(signal))))

    def _grouped(self, signal, units, constants, shapes):
        """A group goes as a whole, with its inputs and outputs: all groups of a convolution have the same width."""
        kernel, groups = self.values("kernel"), self.layer.groups
        if self.inputs is None:
            self.inputs, self.outputs = units, self.graph.new(kernel.shape[-1])
            for reads, gives in zip(units.reshape(groups, -1), self.outputs.reshape(groups, -1), strict=True):
                members = np.concatenate([reads, gives])
                self.graph.unite(members[1:], members[:-1])
            self.graph.constraints.append(self._two)
        else:
            self.graph.unite(units, self.inputs)
        exact = np.isfinite(constants) & (self.without_border(signal) | (constants == 0))
        by_group = kernel.reshape(-1, kernel.shape[-2], groups, kernel.shape[-1] // groups)
        reads = np.where(exact, constants, np.nan).reshape(groups, -1)
        known = np.isfinite(reads)[:, :, None] | (by_group == 0).all(0).transpose(1, 0, 2)
        sums = (np.nan_to_num(reads)[:, :, None] * by_group.astype("float64").sum(0).transpose(1, 0, 2)).sum(1)
        return self.output(shapes[0], self.produced(np.where(known.all(1), sums, np.nan).ravel()))

    def _two(self, kept) -> np.ndarray:
        """Groups that stay although nothing needs them: one alone would be another kind of layer, with other units."""
        first = self.outputs.reshape(self.layer.groups, -1)[:, 0]
        return first[~kept(first)][: max(0, 2 - kept(first).sum())]

    def slots(self):
        if self.inputs is None:
            return []
        if self.matrix is None:
            return [Slot("kernel", {-1: self.outputs}, (-1,)), Slot("bias", {0: self.outputs}, (0,))]
        return [Slot("kernel", {-2: self.inputs, -1: self.outputs}, (-1,)), self.bias_slot()]

    def changes(self):
        if self.inputs is None:
            return {}
        filters = self.width(self.outputs)
        if self.matrix is None:
            return {"filters": filters, "groups": self.layer.groups * filters // self.layer.filters}
        return {"filters": filters, "use_bias": self.layer.use_bias or self.needs_bias()}


@rule_for(layers.Conv1DTranspose, layers.Conv2DTranspose, *([layers.Conv3DTranspose] if hasattr(layers, "Conv3DTranspose") else []))
class ConvTransposeRule(Convolution):
    """The kernel is `(..., outputs, inputs)`. How many taps reach an output depends on its place: only zeros can be left out."""

    def call(self, args, kwargs, shapes):
        if reason := self.unsupported():
            return self.barrier(args, kwargs, shapes, reason)
        (signal,) = args
        units, constants = signal.along(self.channels, self.graph, self.name)
        self.count("kernel", self.spatial(signal.shape))
        if self.matrix is None:
            kernel = np.swapaxes(self.values("kernel"), -1, -2)
            self.inputs, self.outputs = units, self.graph.new(kernel.shape[-1])
            self.matrix = Matrix(self.graph, units, self.outputs, kernel.reshape(-1, *kernel.shape[-2:]))
        exact = all(size == stride == 1 for size, stride in zip(self.layer.kernel_size, self.layer.strides, strict=True))
        return self.output(shapes[0], self.produced(self.matrix.feed(units, constants, exact)))

    def slots(self):
        if self.matrix is None:
            return []
        return [Slot("kernel", {-1: self.inputs, -2: self.outputs}, (-2,)), self.bias_slot()]

    def changes(self):
        if self.matrix is None:
            return {}
        return {"filters": self.width(self.outputs), "use_bias": self.layer.use_bias or self.needs_bias()}


@rule_for(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseRule(Convolution):
    """Each channel has its own filters: it goes with their outputs."""

    inputs: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        (signal,) = args
        units, constants = signal.along(self.channels, self.graph, self.name)
        self.count("kernel", self.spatial(shapes[0]))
        if self.inputs is None:
            self.inputs, self.outputs = units, np.repeat(units, self.layer.depth_multiplier)
        else:
            self.graph.unite(units, self.inputs)
        kernel = self.values("kernel").astype("float64")
        taps = kernel.reshape(-1, len(units), self.layer.depth_multiplier)
        constants = np.where(self.without_border(signal) | (constants == 0), constants, np.nan)[:, None]
        sums = np.where((taps == 0).all(0), 0, constants * taps.sum(0))
        return self.output(shapes[0], self.produced(sums.ravel()))

    def slots(self):
        return [] if self.inputs is None else [Slot("kernel", {-2: self.inputs}, (-2,)), Slot("bias", {0: self.outputs}, (0,))]


@rule_for(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableRule(Convolution):
    inputs: np.ndarray | None = None

    def call(self, args, kwargs, shapes):
        (signal,) = args
        units, constants = signal.along(self.channels, self.graph, self.name)
        self.count("depthwise_kernel", self.spatial(shapes[0]))
        self.count("pointwise_kernel", self.spatial(shapes[0]))
        if self.inputs is None:
            multiplier = self.layer.depth_multiplier
            pointwise = self.values("pointwise_kernel").reshape(len(units), multiplier, -1)
            depthwise = self.values("depthwise_kernel").reshape(-1, len(units), multiplier)
            self.inputs, self.outputs = units, self.graph.new(pointwise.shape[-1])
            sums = np.einsum("im,imo->io", depthwise.astype("float64").sum(0), pointwise.astype("float64"))
            reach = np.einsum("im,imo->io", (depthwise != 0).any(0), pointwise != 0)
            self.matrix = Matrix(self.graph, units, self.outputs, sums[None], reach)
        return self.output(shapes[0], self.produced(self.matrix.feed(units, constants, self.without_border(signal))))

    def slots(self):
        if self.inputs is None:
            return []
        between = np.repeat(self.inputs, self.layer.depth_multiplier)
        return [
            Slot("depthwise_kernel", {-2: self.inputs}),
            Slot("pointwise_kernel", {-2: between, -1: self.outputs}, (-1,)),
            self.bias_slot(),
        ]

    def changes(self):
        if self.inputs is None:
            return {}
        return {"filters": self.width(self.outputs), "use_bias": self.layer.use_bias or self.needs_bias()}
