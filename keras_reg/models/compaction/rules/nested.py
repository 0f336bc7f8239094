"""Models within models, and the wrappers Bidirectional and TimeDistributed."""

import keras
import numpy as np
from keras import layers, tree

from keras_reg.models.compaction.graphs import graph_of
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.rules.merging import product
from keras_reg.models.compaction.rules.recurrent import RecurrentRule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for


class Wrapper(Rule):
    """The weights are those of layers within, which have their own rules."""

    wraps = True

    def owned(self):
        return []

    def within(self) -> list[Rule]:
        """The rules of these layers."""
        raise NotImplementedError

    def held(self):
        return [units for rule in self.within() for units in rule.held()]

    def barrier(self, args, kwargs, shapes, reason):
        for rule in self.within():
            rule.barrier((), {}, [], reason)
        return super().barrier(args, kwargs, shapes, reason)


@rule_for(keras.Model)
class ModelRule(Wrapper):
    """A Sequential or functional model that is a layer of another: its own layers have their rules."""

    several = grids = True
    inputs: list[Signal] | None = None
    outputs: list[Signal]

    def call(self, args, kwargs, shapes):
        graph, given = graph_of(self.layer), args[0]
        if isinstance(given, dict) and not isinstance(graph._inputs_struct, dict):
            given = [given.get(tensor.name) for tensor in graph.inputs]
        elif isinstance(given, dict):
            given = [given.get(key) for key in sorted(graph._inputs_struct)]
        signals = tree.flatten(given)
        if [getattr(signal, "shape", None) and len(signal.shape) for signal in signals] != [len(tensor.shape) for tensor in graph.inputs]:
            return self.barrier(args, kwargs, shapes, "is called with other inputs than it was built with")
        if self.inputs is None:
            self.inputs = signals
        for signal, first in zip(signals, self.inputs, strict=True):
            self._share(signal, first)
        outputs = self.tracer.nested(self.layer, signals)
        self.outputs = getattr(self, "outputs", outputs)
        for signal, first in zip(outputs, self.outputs, strict=True):
            self._share(signal, first)
        return outputs

    def _share(self, one: Signal, other: Signal) -> None:
        """All calls have one width."""
        if one is other:
            return
        if one.followed.keys() == other.followed.keys() and one.batch == other.batch:
            for axis, units in one.followed.items():
                self.graph.unite(units, other.followed[axis])
        else:
            for signal in (one, other):
                signal.pin(self.graph, self.name, "is called along several axes")

    def within(self):
        return [
            self.tracer.rule(operation) for operation in graph_of(self.layer).operations if not isinstance(operation, layers.InputLayer)
        ]

    def held(self):
        return super().held() + [units for signal in [*self.inputs, *self.outputs] for units in signal.followed.values()]

    def barrier(self, args, kwargs, shapes, reason):
        if self.inputs is None:
            self.inputs = [Signal(tensor.shape) for tensor in graph_of(self.layer).inputs]
            self.outputs = self.tracer.nested(self.layer, self.inputs)
        return super().barrier(args, kwargs, shapes, reason)

    def rebuild(self):
        return self.tracer.maker.rebuild(self.layer, self.inputs)

    def parts(self, new):
        return self.tracer.maker.parts(self.layer)


@rule_for(layers.TimeDistributed)
class TimeDistributedRule(Wrapper):
    """What the wrapped layer does, at every step."""

    def call(self, args, kwargs, shapes):
        (signal,) = args
        if signal.axis is None or signal.axis < 2:
            inner = Signal((signal.shape[0], *signal.shape[2:]))
            signal.pin(self.graph, self.name, "works along the axis of the units")
        else:
            inner = Signal((signal.shape[0], *signal.shape[2:]), signal.axis - 1, signal.units, signal.constants)
        rule = self.tracer.rule(self.layer.layer)
        before = dict(rule.positions)
        given = {key: value for key, value in kwargs.items() if key != "mask"}
        outputs = self.tracer.visit(self.layer.layer, (inner,), given, [(shape[0], *shape[2:]) for shape in shapes])
        steps = signal.shape[1] or 1
        for path, positions in rule.positions.items():
            rule.positions[path] = before.get(path, 0) + steps * (positions - before.get(path, 0))
        return [
            Signal(o.shape[:1] + s[1:2] + o.shape[1:], None if o.axis is None else o.axis + 1, o.units, o.constants)
            for o, s in zip(outputs, shapes, strict=True)
        ]

    def within(self):
        return [self.tracer.rule(self.layer.layer)]

    def rebuild(self):
        config = self.own_config()
        config["layer"] = self.tracer.maker.rebuilt(self.layer.layer)
        return layers.TimeDistributed(**config)

    def parts(self, new):
        return self.tracer.rule(self.layer.layer).parts(new.layer)


@rule_for(layers.Bidirectional)
class BidirectionalRule(Wrapper):
    """Two recurrent layers; where they are joined end to end, Keras expects both to have the same number of units."""

    follows = ("initial_state",)

    def call(self, args, kwargs, shapes):
        layer = self.layer
        rules = [self.tracer.rule(part) for part in (layer.forward_layer, layer.backward_layer)]
        if not all(isinstance(rule, RecurrentRule) for rule in rules) or layer.stateful:
            return self.barrier(args, kwargs, shapes, "wraps something else than two LSTM, GRU or SimpleRNN layers")
        (signal,), given = args, list(kwargs.get("initial_state") or ())
        joined, length = layer.merge_mode == "concat", 0 if layer.merge_mode is None else 1
        states = (len(shapes) - (length or 2)) // 2
        shape = (*shapes[0][:-1], layer.forward_layer.units)
        # The first half of the states that it is given is for the layer that goes forward.
        halves = given[: len(given) // 2], given[len(given) // 2 :]
        parts = [
            self.tracer.visit(
                part,
                (signal,),
                {"initial_state": half} if half else {},
                [(*shape[:-1], part.units), *[(shape[0], part.units)] * states],
            )
            for part, half in zip((layer.forward_layer, layer.backward_layer), halves, strict=True)
        ]
        (one, *states_one), (other, *states_other) = parts
        if one.axis is None or other.axis is None:
            return [Signal(shape) for shape in shapes]
        if not hasattr(self, "even") and layer.merge_mode in ("concat", None):
            self.even = one.units, other.units
            self.graph.constraints.append(self._even)
            self.graph.bundles.extend(np.stack(self.even, 1))
        if layer.merge_mode is None:
            merged = [one, other]
        elif joined:
            units, constants = np.concatenate([one.units, other.units]), np.concatenate([one.constants, other.constants])
            merged = [Signal(shapes[0], len(shapes[0]) - 1, units, constants)]
        else:
            self.graph.unite(one.units, other.units)
            both = {"mul": product(one.constants, other.constants), "sum": one.constants + other.constants}
            constants = both.get(layer.merge_mode, (one.constants + other.constants) / 2)
            merged = [one.like(shapes[0], constants=constants)]
        return [*merged, *states_one, *states_other]

    def within(self):
        return [self.tracer.rule(part) for part in (self.layer.forward_layer, self.layer.backward_layer)]

    def _even(self, kept) -> np.ndarray:
        one, other = self.even
        counts = kept(one).sum(), kept(other).sum()
        fewer, difference = (one, counts[1] - counts[0]) if counts[0] < counts[1] else (other, counts[0] - counts[1])
        return fewer[~kept(fewer)][:difference]

    def rebuild(self):
        config = self.own_config()
        config["layer"], config["backward_layer"] = (
            self.tracer.rule(part).rebuild() for part in (self.layer.forward_layer, self.layer.backward_layer)
        )
        return layers.Bidirectional(**config)

    def parts(self, new):
        pairs = ((self.layer.forward_layer, new.forward_layer), (self.layer.backward_layer, new.backward_layer))
        return [(self.tracer.rule(old), part) for old, part in pairs]
