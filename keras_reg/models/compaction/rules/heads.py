"""Attention within blocks of KerasHub, by four layers: whole heads, and where nothing mixes them, dimensions of heads."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_reg.models.compaction.rules.attention import even
from keras_reg.models.compaction.rules.blocks import CACHE, BlockRule
from keras_reg.models.compaction.rules.dense import Reader
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot
from keras_reg.models.compaction.units import Read


class OfHeads(Reader):
    """A Dense or EinsumDense layer on one side of which are heads with their dimensions, each a unit; every head keeps as many."""

    cells: np.ndarray

    def needs_bias(self):
        return False  # of constants only zeros leave

    def flat(self) -> bool:
        """Whether heads and their dimensions are one axis."""
        return len(self.layer.kernel.shape) == 2

    def left(self) -> tuple[int, ...]:
        """The lengths of their axes after `mark`."""
        kept = self.graph.kept(self.cells)
        return (int(kept.sum()),) if self.flat() else (int(kept.any(1).sum()), int(kept.sum(1).max()))

    def along(self, axis: int, weight_is_flat: bool) -> dict:
        """The axes of a weight that they are along, the first of which is given."""
        return {axis: self.cells.ravel()} if weight_is_flat else {(axis, axis + 1): self.cells}

    def changes(self):
        if self.matrix is None:
            return {}
        if isinstance(self.layer, keras.layers.Dense):
            return {"units": self.made()[-1]}
        shape = self.layer.partial_output_shape
        return {"output_shape": (*shape[: len(shape) - len(self.made())], *self.made())}

    def made(self) -> tuple[int, ...]:
        """The lengths of the last axes of the output, after `mark`."""
        raise NotImplementedError


class ToHeads(OfHeads):
    """Queries, keys or values."""

    def call(self, args, kwargs, shapes):
        self.values_of_cells = np.full(self.cells.shape, np.nan)
        if reason := self.unsupported():
            self.graph.pin(self.cells.ravel(), self.name, reason)
            return self.barrier(args, kwargs, shapes, reason)
        (signal,) = args
        units, constants = signal.along(-1, self.graph, self.name)
        if self.matrix is None:
            self.inputs = units
            self.matrix = Matrix(self.graph, units, self.cells.ravel(), self.values("kernel").reshape(1, len(units), -1))
        self.count("kernel", signal.shape[1:-1])
        sums, bias = self.matrix.feed(units, constants, exact=False), self.values("bias")
        made = self.activated(sums if bias is None else sums + bias.astype("float64").ravel())
        self.values_of_cells = made.reshape(self.cells.shape)
        return [Signal(shapes[0])]

    def slots(self):
        if self.matrix is None:
            return []
        kernel, bias = self.along(1, self.flat()), self.along(0, self.flat())
        return [Slot("kernel", {0: self.inputs, **kernel}, tuple(kernel)), Slot("bias", bias, tuple(bias))]

    def made(self):
        return self.left()


class FromHeads(OfHeads):
    """The layer that reads the values of all heads."""

    def call(self, args, kwargs, shapes):
        if reason := self.unsupported():
            self.graph.pin(self.cells.ravel(), self.name, reason)
            return self.barrier(args, kwargs, shapes, reason)
        place = self.place()
        kernel = np.moveaxis(self.values("kernel"), place, -1)
        if self.matrix is None:
            self.outputs = self.graph.new(kernel.shape[-1])
            self.matrix = Matrix(self.graph, self.cells.ravel(), self.outputs, kernel.reshape(1, self.cells.size, -1))
        self.count("kernel", shapes[0][1:-1])
        constants = self.produced(self.matrix.feed(self.matrix.inputs, self.values_of_cells.ravel(), exact=False))
        return [self.finish_outputs(Signal(shapes[0], len(shapes[0]) - 1, self.outputs, constants))]

    def place(self) -> int:
        """The axis of the kernel for the output."""
        equation = getattr(self.layer, "equation", "abc,cd->abd").replace(" ", "")
        return equation.partition("->")[0].split(",")[1].index(equation[-1])

    def slots(self):
        if self.matrix is None:
            return []
        place = self.place()
        read = self.along(0 if place else 1, self.flat())
        return [Slot("kernel", {**read, place: self.outputs}, (place,)), Slot("bias", {0: self.outputs}, (0,))]

    def made(self):
        return (self.width(self.outputs),)

    def build_shapes(self):
        (name, shape), left = *self.layer._build_shapes_dict.items(), self.left()
        return {name: (*shape[: len(shape) - len(left)], *left)}


@dataclass
class Heads:
    """The units of an attention: of its heads, of their dimensions in queries and keys, and in values; `dead` says which have no effect."""

    own: np.ndarray
    keyed: np.ndarray
    carried: np.ndarray
    dead: np.ndarray | None = None


class HeadsRule(BlockRule):
    """A block with attention by layers that it holds itself."""

    def __init__(self, layer, tracer):
        super().__init__(layer, tracer)
        self.attentions: dict[str, Heads] = {}

    def refusal(self, kwargs):
        if any(kwargs.get(name) is not None for name in ("cache", "attention_cache", "self_attention_cache", "cross_attention_cache")):
            return "is given a cache"
        return None

    def new_heads(self, path: str, number: int, key: str, value: str, alike: bool = False) -> Heads:
        """The units of an attention at a path, the same for all calls.

        Args:
            path: That of the attention.
            number: How many heads it has.
            key: The layer of the keys.
            value: The layer of the values.
            alike: Whether keys and values have the same number of dimensions, as the attention knows one only.
        """
        if path not in self.attentions:
            keyed, carried = (self.graph.new(self._columns(f"{path}.{name}")).reshape(number, -1) for name in (key, value))
            heads = Heads(self.graph.new(number), keyed, carried)
            for head in range(number):
                one = heads.own[head : head + 1]
                self.graph.reads.append(Read(heads.keyed[head], heads.carried[head], self._alive(heads, head), _none(heads.keyed.shape[1])))
                self.graph.reads.append(Read(one, heads.carried[head], _all(heads.carried.shape[1]), _none(1)))
                self.graph.bundles.append(np.concatenate([one, heads.keyed[head], heads.carried[head]]))
            self.graph.never_empty.append(heads.carried)
            self.graph.constraints.append(lambda kept: even(kept, heads.carried, heads.keyed, heads.own, alike))
            if self.tracer.generates:
                self.graph.pin(np.concatenate([heads.keyed.ravel(), heads.carried.ravel()]), self.name, CACHE)
            self.attentions[path] = heads
        return self.attentions[path]

    def _columns(self, path: str) -> int:
        """How many dimensions a layer gives to all heads together."""
        return math.prod(self.inner(path).kernel.shape[1:])

    def _alive(self, heads: Heads, head: int) -> Callable[[], np.ndarray]:
        return lambda: np.repeat(~heads.dead[head][:, None], heads.carried.shape[1], 1)

    def whole_heads(self, path: str, number: int) -> np.ndarray:
        """The units of heads whose dimensions all stay, as rotations mix them."""
        if path not in self.attentions:
            own = self.graph.new(number)
            self.graph.never_empty.append(own)
            if self.tracer.generates:
                self.graph.pin(own, self.name, CACHE)
            self.attentions[path] = Heads(own, own[:, None], own[:, None])
        return self.attentions[path].own

    def project(self, path: str, cells: np.ndarray, x: Signal) -> np.ndarray:
        """What is constant of queries, keys or values, by heads and dimensions."""
        rule = self._of_heads(path, ToHeads, cells)
        self.visit(path, x, (*x.shape[:-1], cells.size))
        return rule.values_of_cells

    def read(self, path: str, cells: np.ndarray, values: np.ndarray, x: Signal) -> Signal:
        """What comes of the values; of constants only zeros are known: there may be masks, and weights that do not sum to one."""
        rule = self._of_heads(path, FromHeads, cells)
        rule.values_of_cells = values
        width = math.prod(self.inner(path).kernel.shape) // cells.size
        return self.visit(path, Signal((*x.shape[:-1], cells.size)), (*x.shape[:-1], width))

    def _of_heads(self, path: str, kind: type, cells: np.ndarray) -> OfHeads:
        layer = self.inner(path)
        if id(layer) not in self.tracer.rules:
            self.tracer.prefix(layer)
            self.tracer.rules[id(layer)] = kind(layer, self.tracer)
            self.tracer.rules[id(layer)].cells = cells
        return self.tracer.rules[id(layer)]

    def attend(self, path: str, names: Sequence[str], number: int, x: Signal, source: Signal | None = None, alike: bool = False) -> Signal:
        """Attention by scores that are products of queries and keys; `names` are those of the four layers."""
        source = x if source is None else source
        query, key, value, output = (f"{path}.{name}" for name in names)
        heads = self.new_heads(path, number, names[1], names[2], alike)
        queries, keys = self.project(query, heads.keyed, x), self.project(key, heads.keyed, source)
        values = self.project(value, heads.carried, source)
        self.score(heads, (queries == 0) | (keys == 0))
        return self.read(output, heads.carried, values, x)

    def attend_whole(self, path: str, names: Sequence[str], x: Signal, number: int, groups: int | None = None) -> Signal:
        """The same for whole heads, so many of queries and maybe fewer of keys and values."""
        own = self.whole_heads(path, groups or number)
        several = number // len(own)
        query, key, value, output = (f"{path}.{name}" for name in names)
        queries, keys = (np.repeat(np.repeat(own, times)[:, None], self._columns(key) // len(own), 1) for times in (several, 1))
        self.project(query, queries, x)
        self.project(key, keys, x)
        return self.read(output, queries, np.repeat(self.project(value, keys, x), several, 0), x)

    def score(self, heads: Heads, dead: np.ndarray) -> None:
        """Notes which dimensions add nothing to the scores of a call."""
        heads.dead = dead if heads.dead is None else heads.dead & dead

    def rows(self, path: str) -> list[int]:
        """After `mark`: which of the heads are left."""
        return np.flatnonzero(self.graph.kept(self.attentions[path].carried).any(1)).tolist()

    def number(self, path: str) -> Callable[[], int]:
        return lambda: len(self.rows(path))

    def dimensions(self, path: str) -> Callable[[], int]:
        """Those of the values of a head."""
        return lambda: int(self.graph.kept(self.attentions[path].carried).sum(1).max())

    def all_dimensions(self, path: str) -> Callable[[], int]:
        return lambda: self.width(self.attentions[path].carried)

    def chosen(self, path: str, of_all: Callable[[], list]) -> Callable[[], list | None]:
        """Of what there is for each head, that of the heads that are left, if any has left."""

        def choose():
            return None if len(self.rows(path)) == len(self.attentions[path].own) else [of_all()[row] for row in self.rows(path)]

        return choose


def _none(number: int) -> Callable[[], np.ndarray]:
    return lambda: np.zeros(number, bool)


def _all(number: int) -> Callable[[], np.ndarray]:
    return lambda: np.ones((1, number), bool)
