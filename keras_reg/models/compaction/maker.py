"""Makes the smaller layers and the model of them."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from keras import tree

from keras_reg.layers.gate import Gate
from keras_reg.models.compaction.classes import is_of_the_hub, like, sequential_like, task_like
from keras_reg.models.compaction.graphs import graph_of, walk
from keras_reg.models.compaction.kept import Unkeepable
from keras_reg.models.compaction.narrowed import replace_within
from keras_reg.models.compaction.rule import Barrier, Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.state import pairs
from keras_reg.strength_variable import variables_of

if TYPE_CHECKING:
    from keras_reg.models.compaction.tracer import Tracer


class Maker:
    """The new layers for the old ones of a tracer's rules, once these have decided."""

    def __init__(self, tracer: "Tracer"):
        self.tracer = tracer
        # By `id` of an old layer: what is called one after another where the old model calls it, given its new layer.
        self.around: dict[int, Callable[[Any], list[Any]]] = {}
        self._chains: dict[int, list[Any]] = {}
        self._new: dict[int, Any] = {}
        self._held: set[int] = set()
        self._spared: list[tuple[Any, str, Any]] = []

    def rebuilt(self, operation: Any) -> Any:
        """The new layer or operation for an old one: one for all its calls."""
        if id(operation) not in self._new:
            # A layer that others hold is made after those: they may make it themselves.
            for holder in self.tracer.shared.get(id(operation), ()):
                self.rebuilt(holder)
        return self._make(operation)

    def _make(self, operation: Any) -> Any:
        if id(operation) not in self._new:
            # One that is never called, but held by others, has no rule yet.
            rule = self.tracer.rules.get(id(operation)) or Barrier(operation, self.tracer)
            new = rule.rebuild()
            self._new[id(operation)] = new
            if isinstance(operation, keras.Layer) and new is not None and not rule.wraps:
                self._share(operation, new)
            self._spare(new)
        return self._new[id(operation)]

    def chain(self, operation: Any) -> list[Any]:
        """What is called, one after another, where the old model calls this."""
        if id(operation) not in self._chains:
            new = self.rebuilt(operation)
            around = self.around.get(id(operation), lambda one: [] if one is None else [one])
            self._chains[id(operation)] = around(new)
        return self._chains[id(operation)]

    def shared_within(self, layer: Any) -> dict[int, Any]:
        """New layers for those within this one that others hold as well."""
        within = [inner for inner in layer._flatten_layers(include_self=False) if id(inner) in self.tracer.shared]
        return {id(inner): self._make(inner) for inner in within}

    def _share(self, layer: Any, new: Any) -> None:
        """Of the layers within that others hold as well there is one for all, whichever of them makes its own."""
        for old, other in pairs(layer, new):
            if old is layer or id(old) not in self.tracer.shared:
                continue
            if other is not self._new.get(id(old)):
                if id(old) in self._held:
                    replace_within(new, other, self._new[id(old)])
                else:
                    self._new[id(old)] = other
            self._held.add(id(old))

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
            for axis, units in signal.followed.items():
                shape[axis] = int(self.tracer.graph.kept(units).sum())
            old = tensor._keras_history.operation
            tensors.append(type(old).from_config({**old.get_config(), "batch_shape": tuple(shape)}))
        if isinstance(model, keras.Sequential):
            return sequential_like(model, [tensors[0], *(new for layer in model.layers for new in self.chain(layer))])

        def visit(operation, args, kwargs, outputs):
            args, kwargs = tree.map_structure(self._operand, self.tracer.rule(operation).arguments(args, kwargs))
            return tree.flatten(_called(self.chain(operation), args, kwargs))

        outputs = walk(model, [layer.output for layer in tensors], visit)
        inputs = tree.pack_sequence_as(graph._inputs_struct, [layer.output for layer in tensors])
        return like(model, inputs, tree.pack_sequence_as(graph._outputs_struct, outputs), self._new)

    def _operand(self, value: Any) -> Any:
        """A weight of a layer that is an argument of another: that of the new layer."""
        owner = self.tracer.owner(value) if isinstance(value, keras.Variable) else None
        if owner is None:
            return value
        new = self.rebuilt(owner.layer)
        if not new.built:
            new.build(**owner.build_shapes())
        return next(own for old, own in zip(variables_of(owner.layer), variables_of(new), strict=True) if old is value)

    def _rebuild_task(self, model: Any) -> Any:
        """One around a smaller backbone, if its head comes out as the rules have it."""
        if id(model.backbone) not in self.tracer.rules:
            raise Unkeepable(f"{model.name} does not call its backbone as a whole")
        new = task_like(model, self.rebuilt(model.backbone))
        for operation, other in zip(model.operations, new.operations, strict=True):
            rule = self.tracer.rules.get(id(operation))
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
                for rule, new in self.tracer.rule(operation).parts(self._new[id(operation)]):
                    found[id(rule), id(new)] = rule, new
        return list(found.values())


def _called(chain: list[Any], args: tuple, kwargs: dict) -> Any:
    """What comes of one layer after another; gates get the first argument alone."""
    if len(chain) == 1:
        return chain[0](*args, **kwargs)
    first, *rest = args
    for layer in chain:
        first = layer(first) if isinstance(layer, Gate) else layer(first, *rest, **kwargs)
    return first
