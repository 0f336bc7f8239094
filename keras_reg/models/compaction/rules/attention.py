"""Multi-head and grouped-query attention: whole heads, and in multi-head attention their key and value dimensions."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import Read


def _nothing(number: int):
    return lambda: np.zeros(number, bool)


def even(kept: Callable, carried: np.ndarray, keyed: np.ndarray, own: np.ndarray, alike: bool) -> np.ndarray:
    """What else has to stay for all heads that stay to have as many dimensions, of keys as of values, and at least one.

    Args:
        kept: Tells of units which of them stay.
        carried: Those of the dimensions of values, by heads.
        keyed: Those of the dimensions of queries and keys.
        own: Of each head one that stays if the head does.
        alike: Whether there are as many of keys as of values.
    """
    sides = [(units, kept(units)) for units in (carried, keyed)]
    alive = np.any([kept(own), *(has.any(1) for _, has in sides)], 0)
    alive[0] |= not alive.any()
    least = max(has.sum(1).max() for _, has in sides) if alike else 1
    more = []
    for units, has in sides:
        wanted = max(least, 1, has.sum(1).max())
        more += [units[head][~has[head]][: wanted - has[head].sum()] for head in np.flatnonzero(alive)]
    return np.concatenate(more)


class AttentionRule(Rule):
    """What both have in common: four projections, of which the last reads the values of all heads."""

    grids = True
    follows = ("value", "key")
    matrix: Matrix | None = None
    scores = 0

    def refuse(self, kwargs: dict) -> str | None:
        layer = self.layer
        if getattr(layer, "_use_gate", False) or getattr(layer, "use_gate", False):
            return "has gated heads"
        if kwargs.get("cache") is not None:
            return "is given a cache"
        if kwargs.get("return_attention_scores"):
            return "returns the scores of all heads"
        if any(
            getattr(part, "lora_enabled", False) or part.quantization_mode
            for part in (layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense)
        ):
            return "has LoRA enabled or is quantized"
        return None

    def matrices(self):
        return [] if self.matrix is None else [self.matrix, self.query, self.key, self.value]

    def operands(self, args: tuple, kwargs: dict) -> list[Signal]:
        value = kwargs["value"]
        return [args[0], kwargs["key"] if kwargs.get("key") is not None else value, value]

    def bias(self, part: str) -> np.ndarray | None:
        bias = self.values(f"_{part}_dense.bias")
        return None if bias is None else bias.astype("float64")

    def project(self, operands: list[Signal], columns: list[np.ndarray]) -> list[np.ndarray]:
        """Notes who reads what for whose sake; returns of queries, keys and values what is constant."""
        made = []
        for name, signal, units in zip(("query", "key", "value"), operands, columns, strict=True):
            own, constants = signal.along(-1, self.graph, self.name)
            kernel = self.values(f"_{name}_dense.kernel")
            if getattr(self, name, None) is None:
                setattr(self, name, Matrix(self.graph, own, units, kernel.reshape(1, len(own), -1)))
            self.count(f"_{name}_dense.kernel", signal.shape[1:-1])
            sums = getattr(self, name).feed(own, constants, exact=True)
            bias = self.bias(name)
            made.append((sums if bias is None else sums + bias.ravel()).reshape(kernel.shape[1:]))
        positions = [math.prod(length or 1 for length in signal.shape[1:-1]) for signal in operands]
        self.scores += positions[0] * positions[1]
        return made

    def mix(self, constants: np.ndarray, kwargs: dict, shape: tuple) -> list[Signal]:
        """The output: attention to equal values gives that value, if no mask is in play that could hide all of them."""
        masked = self.tracer.masks or any(
            kwargs.get(name) is not None for name in ("attention_mask", "query_mask", "value_mask", "key_mask")
        )
        self.count("_output_dense.kernel", shape[1:-1])
        sums = self.matrix.feed(self.matrix.inputs, constants.ravel(), exact=not masked)
        bias = self.bias("output")
        return [Signal(shape, len(shape) - 1, self.outputs, sums if bias is None else sums + bias)]

    def projections(self, units: list[np.ndarray], output: dict) -> list[Slot]:
        """The weights, for the units of heads (or of heads by dimensions) in queries, keys and values."""
        slots = []
        for name, own in zip(("query", "key", "value"), units, strict=True):
            axis = 1 if own.ndim == 1 else (1, 2)
            slots.append(Slot(f"_{name}_dense.kernel", {0: getattr(self, name).inputs, axis: own}, (axis,), self.finish(name)))
            axis = 0 if own.ndim == 1 else (0, 1)
            slots.append(Slot(f"_{name}_dense.bias", {axis: own}, (axis,), self.finish(name, bias=True)))
        slots.append(Slot("_output_dense.kernel", {**output, 2: self.outputs}, (2,)))
        slots.append(Slot("_output_dense.bias", {0: self.outputs}, (0,), lambda bias: bias + self.addend()))
        return slots

    def addend(self) -> np.ndarray:
        return self.matrix.addend()[self.graph.kept(self.outputs)]

    def needs_bias(self) -> bool:
        return not self.layer.use_bias and any(bool(np.any(matrix.addend())) for matrix in self.matrices())

    def added(self):
        if self.matrix is None or not self.needs_bias():
            return 0
        return sum(self.width(matrix.outputs) for matrix in (self.matrix, self.query, self.key, self.value))

    def finish(self, name: str, bias: bool = False):
        """Biases take over the constants that their projection no longer reads; queries keep the scale of their scores."""
        matrix = getattr(self, name)

        def apply(values):
            if bias:
                values = values + matrix.addend()[self.graph.kept(matrix.outputs)].reshape(values.shape)
            return values * self.rescaled() if name == "query" else values

        return apply

    def rescaled(self) -> float:
        return 1.0


@rule_for(
    layers.MultiHeadAttention,
    "keras_hub.src.layers.modeling.cached_multi_head_attention.CachedMultiHeadAttention",
    "keras_hub.src.models.whisper.whisper_cached_multi_head_attention.WhisperCachedMultiHeadAttention",
)
class MultiHeadAttentionRule(AttentionRule):
    """A dimension of a head's keys is dead where query or key are zero there for all inputs; all heads that stay keep equally many."""

    def call(self, args, kwargs, shapes):
        operands = self.operands(args, kwargs)
        output = self.layer._output_shape
        if reason := self.refuse(kwargs):
            return self.barrier(args, kwargs, shapes, reason)
        if output is not None and len(output) > 1:
            return self.barrier(args, kwargs, shapes, "gives an output of several axes")
        layer = self.layer
        first = self.matrix is None
        if first:
            kernel = self.values("_output_dense.kernel")
            self.keyed = self.graph.new(layer.num_heads * layer.key_dim).reshape(layer.num_heads, -1)
            self.carried = self.graph.new(layer.num_heads * layer.value_dim).reshape(layer.num_heads, -1)
            self.outputs = self.graph.new(kernel.shape[-1])
            self.matrix = Matrix(self.graph, self.carried.ravel(), self.outputs, kernel.reshape(1, -1, kernel.shape[-1]))
        query, key, value = self.project(operands, [self.keyed.ravel(), self.keyed.ravel(), self.carried.ravel()])
        # A product with what is always zero adds nothing to the scores.
        dead = (query == 0) | (key == 0)
        self.dead = dead if first else self.dead & dead
        if first:
            for head in range(layer.num_heads):
                self.graph.reads.append(Read(self.keyed[head], self.carried[head], self._uses(head), _nothing(layer.key_dim)))
            self.graph.constraints.append(self._even)
            self.graph.never_empty.append(self.carried)
            self.graph.bundles.extend(np.concatenate([self.keyed, self.carried], 1))
        return self.mix(value, kwargs, shapes[0])

    def _uses(self, head: int):
        return lambda: np.repeat(~self.dead[head][:, None], self.layer.value_dim, 1)

    def _even(self, kept) -> np.ndarray:
        cached = "Cached" in type(self.layer).__name__
        # JAX's attention takes keys and values of one width only, and so does a cache of both.
        alike = (keras.backend.backend() == "jax" or cached) and self.keyed.shape == self.carried.shape
        return even(kept, self.carried, self.keyed, self.carried[:, 0], alike)

    def rescaled(self):
        kept = self.graph.kept(self.keyed)
        return math.sqrt(kept.sum(1).max() / self.layer.key_dim)

    def slots(self):
        return [] if self.matrix is None else self.projections([self.keyed, self.keyed, self.carried], {(0, 1): self.carried})

    def changes(self):
        if self.matrix is None:
            return {}
        keys, values = self.graph.kept(self.keyed), self.graph.kept(self.carried)
        return {
            "num_heads": int(values.any(1).sum()),
            "key_dim": int(keys.sum(1).max()),
            "value_dim": int(values.sum(1).max()),
            "use_bias": self.layer.use_bias or self.needs_bias(),
            "output_shape": (self.width(self.outputs),) if self.narrowed() else self.layer._output_shape,
        }

    def narrowed(self) -> bool:
        """Whether the output has another width than the queries, which Keras takes it from otherwise."""
        return self.layer._output_shape is not None or self.width(self.outputs) != self.width(self.query.inputs)

    def unit_macs(self):
        return [] if self.matrix is None else [(units.ravel(), self.scores) for units in (self.keyed, self.carried)]

    def macs(self, kept):
        per_score = sum(self.width(units) if kept else units.size for units in (self.keyed, self.carried)) if self.matrix is not None else 0
        return super().macs(kept) + self.scores * per_score


@rule_for(layers.GroupQueryAttention)
class GroupQueryAttentionRule(AttentionRule):
    """A key-value head goes with all queries that attend to it."""

    def call(self, args, kwargs, shapes):
        operands = self.operands(args, kwargs)
        if reason := self.refuse(kwargs):
            return self.barrier(args, kwargs, shapes, reason)
        layer = self.layer
        queries, dimensions = layer.num_query_heads, layer.head_dim
        if self.matrix is None:
            kernel = self.values("_output_dense.kernel")
            self.groups = self.graph.new(layer.num_key_value_heads)
            self.heads = np.repeat(self.groups, queries // layer.num_key_value_heads)
            self.outputs = self.graph.new(kernel.shape[-1])
            wide = np.repeat(self.heads, dimensions)
            self.matrix = Matrix(self.graph, wide, self.outputs, kernel.reshape(1, -1, kernel.shape[-1]))
            self.graph.never_empty.append(self.groups)
        # The output has the width of the queries, always.
        self.graph.unite(operands[0].along(-1, self.graph, self.name)[0], self.outputs)
        # So have the values that it reads.
        self.graph.unite(operands[2].along(-1, self.graph, self.name)[0], self.outputs)
        _, _, value = self.project(operands, [np.repeat(units, dimensions) for units in (self.heads, self.groups, self.groups)])
        value = np.repeat(value, queries // layer.num_key_value_heads, 0)
        return self.mix(value, kwargs, shapes[0])

    def slots(self):
        return [] if self.matrix is None else self.projections([self.heads, self.groups, self.groups], {0: self.heads})

    def changes(self):
        if self.matrix is None:
            return {}
        return {
            "num_query_heads": self.width(self.heads),
            "num_key_value_heads": self.width(self.groups),
            "use_bias": self.layer.use_bias or self.needs_bias(),
        }

    def unit_macs(self):
        return [] if self.matrix is None else [(self.heads, 2 * self.layer.head_dim * self.scores)]

    def macs(self, kept):
        per_score = 2 * self.layer.head_dim * (self.width(self.heads) if kept else self.heads.size) if self.matrix is not None else 0
        return super().macs(kept) + self.scores * per_score
