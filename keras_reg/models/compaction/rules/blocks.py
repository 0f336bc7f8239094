"""Layers that make their layers themselves, as KerasHub's transformers do: a rule says in which order they call them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_reg.models.compaction.activations import continuous, entrywise
from keras_reg.models.compaction.constants import apply
from keras_reg.models.compaction.narrowed import Narrowed, narrowed
from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.rules.einsum import EinsumDenseRule
from keras_reg.models.compaction.rules.merging import Entrywise, product
from keras_reg.models.compaction.rules.nested import Wrapper
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Slot, resolve
from keras_reg.strength_variable import seeds_of, variables_of
from keras_reg.weights import own_variables


class BlockRule(Wrapper, Entrywise):
    """The layers within have rules of their own; what these cut is put in its place once the block is built.

    A subclass writes `run`, in the order of the block's own `call`.
    """

    grids = False
    # The paths of the layers that `run` visits: without one of them, as in another release, the block keeps its width.
    paths: tuple[str, ...] = ()
    opened = False

    def __init__(self, layer, tracer):
        super().__init__(layer, tracer)
        self._within: dict[int, tuple[str, Rule]] = {}
        # What layers within say of how wide something is: by their paths, the names and the units, or what tells the value after `mark`.
        self.numbers: dict[str, dict[str, np.ndarray | Callable[[], Any]]] = {}
        # Weights that are the block's own, or of a layer within that no rule is for.
        self.cuts: dict[str, Slot] = {}

    def run(self, x: Signal, kwargs: dict[str, Any], shapes: list[tuple]) -> list[Signal]:
        """The outputs."""
        raise NotImplementedError

    def refusal(self, kwargs: dict[str, Any]) -> str | None:
        """What makes a call one that `run` is not for."""
        return None

    def call(self, args, kwargs, shapes):
        try:
            for path in self.paths:
                self.inner(path)
        except (AttributeError, IndexError):
            return self.barrier(args, kwargs, shapes, f"is a {type(self.layer).__name__} of a release that no rule is for")
        if reason := self.refusal(kwargs):
            return self.barrier(args, kwargs, shapes, reason)
        self.opened = True
        self.tracer.enter(self.layer)
        try:
            outputs = self.run(args[0], kwargs, shapes)
        finally:
            self.tracer.leave()
        return outputs + [Signal(shape) for shape in shapes[len(outputs) :]]

    # What `run` is written in

    def visit(self, path: str, x: Signal, shape: tuple, **kwargs: Any) -> Signal:
        """A call of a layer within, of whose outputs the first matters."""
        layer = self.inner(path)
        self._within[id(layer)] = path, self.tracer.rule(layer)
        return self.tracer.visit(layer, (x,), kwargs, [shape])[0]

    def norm(self, path: str, x: Signal) -> Signal:
        return self.visit(path, x, x.shape)

    def opaque(self, path: str, x: Signal, width: int | None = None) -> Signal:
        """A layer that is not looked into; its output is as wide as its input, if nothing else is said."""
        return self.visit(path, x, (*x.shape[:-1], width or x.shape[-1]))

    def dense(self, path: str, x: Signal) -> Signal:
        layer = self.inner(path)
        width = layer.units if isinstance(layer, keras.layers.Dense) else layer.partial_output_shape[-1]
        rank = len(x.shape) if isinstance(layer, keras.layers.Dense) else len(layer.partial_output_shape) + 1
        return self.visit(path, x, (*x.shape[: rank - 1], width))

    def add(self, *signals: Signal) -> Signal:
        shape = signals[0].shape
        return self.merge(list(signals), shape, lambda *columns: np.sum(columns, axis=0), adds=True)[0]

    def multiply(self, *signals: Signal) -> Signal:
        return self.merge(list(signals), signals[0].shape, product)[0]

    def activated(self, activation: Any, x: Signal) -> Signal:
        """An activation between layers."""
        if not entrywise(activation):
            x.pin(self.graph, self.name, f"its activation {activation} is not known to be entrywise")
            return Signal(x.shape)
        if x.axis is None or activation is None:
            return x
        return x.mapped(x.shape, lambda constants: apply(activation, constants, x.dtype, continuous(activation)))

    def feedforward(self, first: str, second: str, x: Signal, activation: Any = None) -> Signal:
        return self.dense(second, self.activated(activation, self.dense(first, x)))

    def gated(self, gate: str, first: str, second: str, x: Signal, activation: Any) -> Signal:
        """Hidden units that are multiplied by others, of which an activation was taken."""
        return self.dense(second, self.multiply(self.activated(activation, self.dense(gate, x)), self.dense(first, x)))

    def attention(self, path: str, query: Signal, value: Signal) -> Signal:
        """Keras's own attention, or one derived from it. There may be a mask."""
        width = self.inner(path)._output_dense.kernel.shape[-1]
        output = self.visit(path, query, (*query.shape[:-1], width), value=value, attention_mask=True)
        rule = self._within[id(self.inner(path))][1]
        if self.tracer.generates and rule.matrix is not None:
            for units in (rule.keyed, rule.carried):
                self.graph.pin(units.ravel(), rule.name, CACHE)
        return output

    def heads(self, path: str, x: Signal, names: tuple[str, str, str, str], source: Signal | None = None) -> Signal:
        """Attention by four EinsumDense layers: a head of keys and values goes with all heads of queries that look at it.

        The query, key and value layers end in heads and their dimensions; of values nothing is constant but zero, since rotations,
        masks and caps come between.
        """
        query, key, value, output = (f"{path}.{name}" for name in names)
        made = [self._by_heads(part, x if part == query or source is None else source) for part in (query, key, value)]
        if any(signal.axis is None for signal in made):
            for signal in made:
                signal.pin(self.graph, self.name, "has heads that cannot be followed")
            return self.dense(output, Signal(made[0].shape))
        q, k, v = made
        several = len(q.units) // len(k.units)
        self.graph.unite(k.units, v.units)
        self.graph.unite(q.units, np.repeat(k.units, several))
        if self.tracer.generates:
            self.graph.pin(k.units, self.name, CACHE)
        numbers = self.numbers.setdefault(path, {})
        for name, units in (("num_query_heads", q.units), ("num_key_value_heads", k.units)):
            for own in (name, f"_{name}"):
                if hasattr(self.inner(path), own):
                    numbers[own] = units
        constants = np.where(np.repeat(v.constants, several) == 0, 0.0, np.nan)
        return self.dense(output, Signal(q.shape, q.axis, q.units, constants))

    def _by_heads(self, path: str, x: Signal) -> Signal:
        layer = self.inner(path)
        heads, width = layer.partial_output_shape[-2:]
        rule = self.tracer.rule(layer)
        if isinstance(rule, EinsumDenseRule):
            rule.place = -2
        return self.visit(path, x, (*x.shape[:-1], heads, width))

    # After `mark`

    def within(self):
        return [rule for _, rule in self._within.values()]

    def owned(self):
        """What no rule within has."""
        inner = {id(variable) for rule in self.within() for variable in variables_of(rule.layer)}
        return [variable for variable in self.layer.weights if id(variable) not in inner]

    def slots(self):
        return list(self.cuts.values())

    def rebuild(self):
        new = super().rebuild()
        cut = {path: rule for path, rule in self._within.values() if rule.added() or not rule.fits(rule.layer)}
        parts = {path: (rule.rebuild(), rule.build_shapes()) for path, rule in cut.items()}
        weights = {slot.path: slot.cut(np.empty(resolve(self.layer, slot.path).shape, bool), self.graph).shape for slot in self.slots()}
        weights = {path: shape for path, shape in weights.items() if shape != tuple(resolve(self.layer, path).shape)}
        attributes = self._attributes()
        if not parts and not weights and not attributes:
            return new
        build = self.layer._narrow["build"] if isinstance(self.layer, Narrowed) else dict(self.layer._build_shapes_dict)
        return narrowed(new, parts, attributes, build, weights=weights)

    def _attributes(self) -> dict[str, dict[str, Any]]:
        """Those that become others."""
        found = {}
        for path, numbers in self.numbers.items():
            inner = self.inner(path) if path else self.layer
            values = {name: units() if callable(units) else self.width(units) for name, units in numbers.items()}
            values = {name: value for name, value in values.items() if value is not None and value != getattr(inner, name, None)}
            if values:
                found[path] = values
        return found

    def parts(self, new):
        """The layers within, each with its new one; those that no rule is for, as they are but for the weights that are cut."""
        found = {id(old): other for old, other in zip(self.layer._flatten_layers(), new._flatten_layers(), strict=True)}
        pairs = [pair for _, rule in self._within.values() for pair in rule.parts(found[id(rule.layer)])]
        covered = {id(layer) for _, rule in self._within.values() for layer in rule.layer._flatten_layers()}
        cuts: dict[int, list[Slot]] = {}
        for slot in self.slots():
            path, _, name = slot.path.rpartition(".")
            owner = self.inner(path) if path else self.layer
            cuts.setdefault(id(owner), []).append(dataclasses.replace(slot, path=name))
        for layer in self.layer._flatten_layers():
            if id(layer) not in covered and (own_variables(layer) or seeds_of(layer)):
                pairs.append((AsItIs(layer, self.tracer, cuts.get(id(layer), ())), found[id(layer)]))
        return pairs


CACHE = "keeps its keys and values in a cache of its task, which has one shape for all layers"


class AsItIs(Rule):
    """A layer of which only the variables of its own are taken over, some of them cut."""

    alone = True

    def __init__(self, layer, tracer, cuts=()):
        super().__init__(layer, tracer)
        self._cuts = list(cuts)

    def slots(self):
        return self._cuts

    def call(self, args, kwargs, shapes):
        return self.barrier(args, kwargs, shapes, "is not looked into")


def signals_of(kwargs: dict[str, Any], name: str) -> Signal | None:
    """A tensor among further arguments."""
    return next(iter(signals_in(kwargs.get(name))), None)
