"""Follows units through the graph of a model, call by call."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_reg.models.compaction.constants import rounded
from keras_reg.models.compaction.graphs import graph_of, walk
from keras_reg.models.compaction.maker import Maker
from keras_reg.models.compaction.narrowed import unnarrowed_kind
from keras_reg.models.compaction.rule import Barrier, Rule, signals_in
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.units import Units
from keras_reg.strength_variable import variables_of

_RULES: dict[Any, type[Rule]] = {}


def rule_for(*kinds: Any) -> Callable[[type[Rule]], type[Rule]]:
    """Registers a rule for layer classes (or their full names), or for operations of `keras.ops` by the names of their classes.

    A subclass needs a rule of its own: what it computes is another thing.
    """

    def register(rule: type[Rule]) -> type[Rule]:
        for kind in kinds:
            _RULES[kind] = rule
        return rule

    return register


class Tracer:
    """All rules of a model's layers, and the units that they share.

    Args:
        zeroed: Entries of weights that count as zero, by the `id` of the weight.
    """

    def __init__(self, zeroed: dict[int, np.ndarray]):
        self.zeroed = zeroed
        self.graph = Units(trial=bool(zeroed))
        self.rules: dict[int, Rule] = {}
        self.calls: list[tuple[Rule, list[Signal], list[Signal]]] = []
        self.maker = Maker(self)
        self._prefixes: list[str] = []
        self._names: dict[int, str] = {}
        # Layers that others hold, by `id`: those others.
        self.shared: dict[int, list[Any]] = {}
        # Weights of layers that others take as arguments, and who takes them.
        self.operands: list[tuple[Rule, keras.Variable]] = []
        # Whether some steps of sequences are masked anywhere.
        self.masks = False
        # Whether the model generates step by step, from a cache that it makes itself.
        self.generates = False

    def prefix(self, layer: Any) -> str:
        """The layer's name, that of the nested model before it."""
        return self._names.setdefault(id(layer), "/".join([*self._prefixes, layer.name]))

    def rule(self, operation: Any) -> Rule:
        """The rule object of a layer or operation, made at its first call."""
        if id(operation) not in self.rules:
            self.prefix(operation)
            self.rules[id(operation)] = self._kind(operation)(operation, self)
        return self.rules[id(operation)]

    def _kind(self, operation: Any) -> type[Rule]:
        if graph_of(operation) is not None:
            return _RULES[keras.Model]
        if isinstance(operation, keras.Layer):
            kind = unnarrowed_kind(operation)
            return _RULES.get(kind) or _RULES.get(f"{kind.__module__}.{kind.__qualname__}", Barrier)
        known = type(operation).__module__.startswith("keras.")
        return _RULES.get(type(operation).__name__, Barrier) if known else Barrier

    def visit(self, operation: Any, args: tuple, kwargs: dict, shapes: list[tuple], dtypes: list[str] | None = None) -> list[Signal]:
        """One call of a layer or operation."""
        rule = self.rule(operation)
        args, kwargs = _arranged(operation, args, kwargs)
        rule.first = rule.first or (args, kwargs)
        self.operands += [(rule, item) for item in tree.flatten((args, kwargs)) if isinstance(item, keras.Variable)]
        self.masks |= any("mask" in name and bool(signals_in(value)) for name, value in kwargs.items())
        # What makes a call one that no rule is for.
        reason = None if rule.trained_alike else _in_training(kwargs)
        reason = reason or (None if rule.arrays else _with_array(args, kwargs))
        if reason is None and not rule.several and args and not isinstance(args[0], Signal) and signals_in(args[0]):
            reason = "is called on several tensors at once"
        if reason is None and any(len(s.followed) > 1 or s.batch for s in signals_in((args, kwargs))):
            args, kwargs = tree.map_structure(lambda value: self._narrowed(rule, value), (args, kwargs))
        outputs = rule.call(args, kwargs, shapes) if reason is None else rule.barrier(args, kwargs, shapes, reason)
        if len(outputs) != len(shapes):
            raise AssertionError(f"{type(rule).__name__} gave {len(outputs)} outputs for {len(shapes)}")
        if reason is None:
            # No rule looks at them: a mask, say, that would be cut to a width that broadcasts.
            for name, value in kwargs.items():
                for signal in signals_in(value) if name not in rule.follows else ():
                    signal.pin(self.graph, rule.name, f"takes it as {name}")
        for signal, dtype in zip(outputs, dtypes or [getattr(operation, "compute_dtype", "float32")] * len(outputs), strict=True):
            signal.dtype = dtype
            if signal.axis is not None:
                signal.joint = rounded(signal.joint, dtype)
        self.graph.never_empty.extend(units for signal in outputs for units in signal.followed.values())
        self.calls.append((rule, signals_in((args, kwargs)), outputs))
        return outputs

    def _narrowed(self, rule: Rule, value: Any) -> Any:
        """An argument as a rule sees it: with one axis, the last of those that are followed, if it is not for several."""
        if not isinstance(value, Signal):
            return value
        if value.batch and not rule.anywhere:
            value.pin(self.graph, rule.name, "reads a tensor whose first axis is not that of the examples")
            return Signal(value.shape)
        return value if rule.grids else value.only([*value.followed][-1:], self.graph, rule.name, "follows units along one axis only")

    def trace(self, model: Any, inputs: list[Signal]) -> list[Signal]:
        """The signals of a model's outputs."""

        def visit(operation, args, kwargs, tensors):
            shapes, dtypes = [tensor.shape for tensor in tensors], [tensor.dtype for tensor in tensors]
            return self.visit(operation, args, kwargs, shapes, dtypes)

        return walk(model, inputs, visit)

    def settle(self) -> None:
        """After the last call."""
        for rule, other in self._sharers():
            rule.barrier((), {}, [], f"shares weights with {other.name}")
        for rule, variable in self.operands:
            if (owner := self.owner(variable)) is not None:
                owner.barrier((), {}, [], f"has a weight that {rule.name} takes, too")
                rule.barrier((), {}, [], f"takes a weight of {owner.name}")
        for rule in list(self.rules.values()):
            rule.settle()

    def owner(self, variable: keras.Variable) -> Rule | None:
        """The rule of the layer of a graph that has a weight, in itself or in a layer within."""
        for rule in self.rules.values():
            if (
                isinstance(rule.layer, keras.Layer)
                and graph_of(rule.layer) is None
                and any(own is variable for own in variables_of(rule.layer))
            ):
                return rule
        return None

    def _sharers(self) -> list[tuple[Rule, Rule]]:
        """Rules that own the same weight as another; notes the layers within that several hold."""
        owners: dict[int, list[Rule]] = {}
        holders: dict[int, tuple[Any, dict]] = {}
        for rule in self.rules.values():
            if not isinstance(rule.layer, keras.Layer) or graph_of(rule.layer) is not None:
                continue
            for variable in rule.owned():
                owners.setdefault(id(variable), []).append(rule)
            if not rule.wraps:
                for layer in rule.layer._flatten_layers():
                    holders.setdefault(id(layer), (layer, {}))[1][id(rule)] = rule.layer
        self.shared = {
            key: [holder for holder in among.values() if holder is not layer] for key, (layer, among) in holders.items() if len(among) > 1
        }
        found = {}
        for rules in owners.values():
            if len(rules) > 1:
                found |= {id(rule): (rule, rules[0] if rule is not rules[0] else rules[1]) for rule in rules}
        return list(found.values())

    def nested(self, model: Any, inputs: list[Signal]) -> list[Signal]:
        """The same for a model within the model."""
        self.enter(model)
        try:
            return self.trace(model, inputs)
        finally:
            self.leave()

    def enter(self, layer: Any) -> None:
        """What is visited from here on is within this layer."""
        self._prefixes.append(layer.name)

    def leave(self) -> None:
        """Back to what is around it."""
        self._prefixes.pop()


def _arranged(operation: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments as `Rule.call` expects them, however they were given."""
    signature = inspect.signature(operation.call)
    given = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            given.update({f"{name}[{number}]": item for number, item in enumerate(value)})
        else:
            given[name] = value
    if not isinstance(operation, keras.Layer):
        return tuple(given.values()), {}
    first = next(iter(given), None)
    return () if first is None else (given.pop(first),), given


def _in_training(kwargs: dict) -> str | None:
    training = kwargs.get("training")
    if training is not None and not (isinstance(training, (bool, int, np.bool_)) and not training):
        return f"is called with training={training}"
    return None


def _with_array(args: tuple, kwargs: dict) -> str | None:
    if any(tuple(getattr(item, "shape", ())) and not isinstance(item, Signal) for item in tree.flatten((args, kwargs))):
        return "is called with an array of a fixed width"
    return None
