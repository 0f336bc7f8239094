"""Follows units through the graph of a model, call by call."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_reg.models.compaction.classes import is_of_the_hub, like, sequential_like, task_like
from keras_reg.models.compaction.constants import rounded
from keras_reg.models.compaction.kept import Unkeepable, original_kind
from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.units import Units

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


def graph_of(model: Any) -> Any:
    """The functional graph of a Sequential or functional model; `None` for any other, as for one with a `call` of its own."""
    if not isinstance(model, keras.Model) or not type(model).call.__module__.startswith("keras."):
        return None
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    return model if hasattr(model, "_nodes_by_depth") and hasattr(model, "_inputs_struct") else None


def walk(model: Any, inputs: list, visit: Callable[[Any, tuple, dict, list], list]) -> list:
    """Runs through a model's graph on any kind of values: `visit(operation, args, kwargs, output_tensors)` returns those of the outputs."""
    graph = graph_of(model)
    values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.operation or node.is_input or any(id(tensor) not in values for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(values)
            outputs = visit(node.operation, args, kwargs, node.outputs)
            values.update((id(tensor), value) for tensor, value in zip(node.outputs, outputs, strict=True))
    return [values[id(tensor)] for tensor in graph.outputs]


class Barrier(Rule):
    """A layer without a rule: whatever it reads and gives keeps its width."""

    def call(self, args, kwargs, shapes):
        return self.barrier(args, kwargs, shapes, f"there is no rule for {type(self.layer).__name__}")


class Tracer:
    """All rules of a model's layers, and the units that they share."""

    def __init__(self):
        self.graph = Units()
        self.rules: dict[int, Rule] = {}
        self.calls: list[tuple[Rule, list[Signal], list[Signal]]] = []
        self._prefixes: list[str] = []
        self._names: dict[int, str] = {}
        self._new: dict[int, Any] = {}
        self._shared: list[Any] = []
        self._spared: list[tuple[Any, str, Any]] = []
        # Whether some steps of sequences are masked anywhere.
        self.masks = False

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
            kind = original_kind(operation)
            return _RULES.get(kind) or _RULES.get(f"{kind.__module__}.{kind.__qualname__}", Barrier)
        known = type(operation).__module__.startswith("keras.")
        return _RULES.get(type(operation).__name__, Barrier) if known else Barrier

    def visit(self, operation: Any, args: tuple, kwargs: dict, shapes: list[tuple], dtypes: list[str] | None = None) -> list[Signal]:
        """One call of a layer or operation."""
        rule = self.rule(operation)
        args, kwargs = _arranged(operation, args, kwargs)
        self.masks |= any("mask" in name and bool(signals_in(value)) for name, value in kwargs.items())
        reason = _special(args, kwargs)
        if reason is None and not rule.several and args and not isinstance(args[0], Signal) and signals_in(args[0]):
            reason = "is called on several tensors at once"
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
                signal.constants = rounded(signal.constants, dtype)
        self.graph.never_empty.extend(signal.units for signal in outputs if signal.axis is not None)
        self.calls.append((rule, signals_in((args, kwargs)), outputs))
        return outputs

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
        for rule in list(self.rules.values()):
            rule.settle()

    def _sharers(self) -> list[tuple[Rule, Rule]]:
        """Rules that own the same weight as another; notes the layers within that several hold."""
        owners: dict[int, list[Rule]] = {}
        holders: dict[int, tuple[Any, set]] = {}
        for rule in self.rules.values():
            if not isinstance(rule.layer, keras.Layer) or graph_of(rule.layer) is not None:
                continue
            for variable in rule.owned():
                owners.setdefault(id(variable), []).append(rule)
            if not rule.wraps:
                for layer in rule.layer._flatten_layers():
                    holders.setdefault(id(layer), (layer, set()))[1].add(id(rule))
        self._shared = [layer for layer, among in holders.values() if len(among) > 1]
        pairs = {}
        for rules in owners.values():
            if len(rules) > 1:
                pairs |= {id(rule): (rule, rules[0] if rule is not rules[0] else rules[1]) for rule in rules}
        return list(pairs.values())

    def nested(self, model: Any, inputs: list[Signal]) -> list[Signal]:
        """The same for a model within the model."""
        self._prefixes.append(model.name)
        try:
            return self.trace(model, inputs)
        finally:
            self._prefixes.pop()

    # After `mark`

    def rebuilt(self, operation: Any) -> Any:
        """The new layer or operation for an old one: one for all its calls."""
        if id(operation) not in self._new:
            # One that is never called, but held by others, has no rule yet.
            rule = self.rules.get(id(operation)) or Barrier(operation, self)
            self._new[id(operation)] = new = rule.rebuild()
            self._spare(new)
        return self._new[id(operation)]

    def shared_within(self, layer: Any) -> dict[int, Any]:
        """New layers for those within this one that others hold as well."""
        within = {id(inner) for inner in layer._flatten_layers(include_self=False)}
        return {id(inner): self.rebuilt(inner) for inner in self._shared if id(inner) in within}

    def _spare(self, new: Any) -> None:
        """Sets the initial values of a layer of Keras's own to zeros until `restore`: random ones take seconds to draw, on JAX."""
        if not isinstance(new, keras.Layer) or graph_of(new) is not None or not type(new).__module__.startswith("keras."):
            return
        for layer in new._flatten_layers():
            for name, value in list(vars(layer).items()):
                if name.endswith("_initializer") and isinstance(value, keras.initializers.Initializer) and hasattr(value, "seed"):
                    self._spared.append((layer, name, value))
                    object.__setattr__(layer, name, keras.initializers.Zeros())

    def restore(self) -> None:
        """After the layers are built."""
        for layer, name, value in self._spared:
            object.__setattr__(layer, name, value)

    def rebuild(self, model: Any, inputs: list[Signal]) -> Any:
        """A model of the new layers, on inputs of the width that is left."""
        if is_of_the_hub(model, "Task"):
            with contextlib.suppress(Unkeepable):
                return self._rebuild_task(model)
        graph = graph_of(model)
        tensors = []
        for tensor, signal in zip(graph.inputs, inputs, strict=True):
            shape = list(tensor.shape)
            if signal.axis is not None:
                shape[signal.axis] = int(self.graph.kept(signal.units).sum())
            old = tensor._keras_history.operation
            tensors.append(type(old).from_config({**old.get_config(), "batch_shape": tuple(shape)}))
        if isinstance(model, keras.Sequential):
            return sequential_like(model, [tensors[0], *map(self.rebuilt, model.layers)])

        def visit(operation, args, kwargs, outputs):
            return tree.flatten(self.rebuilt(operation)(*args, **kwargs))

        outputs = walk(model, [layer.output for layer in tensors], visit)
        inputs = tree.pack_sequence_as(graph._inputs_struct, [layer.output for layer in tensors])
        return like(model, inputs, tree.pack_sequence_as(graph._outputs_struct, outputs), self._new)

    def _rebuild_task(self, model: Any) -> Any:
        """One around a smaller backbone, if its head comes out as the rules have it."""
        if id(model.backbone) not in self.rules:
            raise Unkeepable(f"{model.name} does not call its backbone as a whole")
        new = task_like(model, self.rebuilt(model.backbone))
        news = {operation.name: operation for operation in new.operations}
        for operation in model.operations:
            rule, other = self.rules.get(id(operation)), news[operation.name]
            if operation is not model.backbone and rule is not None:
                if not rule.fits(other):
                    raise Unkeepable(f"{model.name}: {operation.name} comes out in another form")
                self._new[id(operation)] = other
        return new

    def parts(self, model: Any) -> list[tuple[Rule, Any]]:
        """The rules of all layers with weights of their own, each with its new layer."""
        operations = model.layers if isinstance(model, keras.Sequential) else graph_of(model).operations
        found = {}
        for operation in operations:
            if id(operation) in self._new:
                for rule, new in self.rule(operation).parts(self._new[id(operation)]):
                    found[id(rule), id(new)] = rule, new
        return list(found.values())


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


def _special(args: tuple, kwargs: dict) -> str | None:
    """What makes a call one that no rule is for."""
    training = kwargs.get("training")
    if training is not None and not (isinstance(training, (bool, int, np.bool_)) and not training):
        return f"is called with training={training}"
    if any(getattr(item, "shape", ()) and not isinstance(item, Signal) for item in tree.flatten((args, kwargs))):
        return "is called with an array of a fixed width"
    return None
