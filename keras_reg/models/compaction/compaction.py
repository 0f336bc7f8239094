"""A model's compaction: who stays, the new model, its weights and its compile state."""

from typing import Any

import keras
import numpy as np

from keras_reg.binding import is_record, move
from keras_reg.contract import is_constraint, structure_of
from keras_reg.models.attachment.assignment import Assignment, own_copy
from keras_reg.models.attachment.rebuilt import same_regularizer
from keras_reg.models.compaction import rules as rules
from keras_reg.models.compaction.classes import is_of_the_hub
from keras_reg.models.compaction.compiling import compile_alike
from keras_reg.models.compaction.constraints import fitted, fitted_budgets
from keras_reg.models.compaction.graphs import graph_of
from keras_reg.models.compaction.making import is_own, own_object
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import Tracer
from keras_reg.models.compaction.transfer import transfer
from keras_reg.regularizers.structural import StructuralGroupLasso, cut


class Compaction:
    """What can leave a model, found by following its units from the inputs to the outputs and back.

    Args:
        model: A built Sequential or functional model.
        inputs: Whether input features may leave, too.
        zeroed: Entries of weights that count as zero, by the `id` of the weight.
    """

    def __init__(self, model: Any, inputs: bool = False, zeroed: dict[int, np.ndarray] | None = None):
        self.graph = graph = _checked(model)
        self.model = model
        self.tracer = Tracer(zeroed or {})
        self.inputs = [_input(tensor, self.tracer.graph) for tensor in graph.inputs]
        self.tracer.generates = is_of_the_hub(model, "Task") and hasattr(model, "generate")
        self.outputs = self.tracer.trace(model, self.inputs)
        if is_of_the_hub(model, "Task"):
            self._hold_the_head(graph)
        self.tracer.settle()
        units = self.tracer.graph
        units.never_empty[:0] = [signal.units for signal in self.inputs if signal.axis is not None]
        for signal in self.outputs:
            signal.pin(units, model.name, "is an output of the model")
        self.free = units.needed(units.pins)
        if not inputs:
            for signal in self.inputs:
                signal.pin(units, model.name, "is an input of the model")
        units.mark(units.needed(units.pins))

    def _hold_the_head(self, graph: Any) -> None:
        """A task of KerasHub makes the layers after its backbone itself, as wide as it always does."""
        head = {id(operation) for operation in graph.operations} - {id(layer) for layer in self.model.backbone._flatten_layers()}
        for rule, _, outputs in self.tracer.calls:
            if id(rule.layer) in head and rule.slots():
                for signal in outputs:
                    signal.pin(self.tracer.graph, rule.name, "is of the head of a task, which makes it itself")

    def keep_all(self) -> None:
        """Nothing leaves: the new model is of the same widths."""
        self.tracer.graph.mark(np.ones(len(self.tracer.graph.roots()), bool))

    @property
    def rules(self) -> list[Rule]:
        """One for each layer and operation, in the order of their first calls."""
        return list(self.tracer.rules.values())

    def features(self) -> list[np.ndarray | None]:
        """For each input the indices of the features that are left; `None` for one whose features cannot be followed."""
        kept = self.tracer.graph.kept
        return [None if signal.axis is None else np.flatnonzero(kept(signal.units)) for signal in self.inputs]

    def build(self) -> Any:
        """The smaller model."""
        new = self.tracer.maker.rebuild(self.model, self.inputs)
        self.tracer.maker.restore()
        pairs = self.tracer.maker.parts(self.model)
        sources = [source for rule, layer in pairs for source in transfer(rule, layer, self.tracer.graph)]
        constrained = self._put_penalties(new, sources)
        _same_trainable(self.model, new)
        compile_alike(self.model, new, {id(variable): (old, slot) for variable, old, slot in sources}, self.tracer.graph)
        # The optimizer remembers the shares of before.
        move([(weight, given.strength) for weight, given in constrained if is_record(weight.regularizer)])
        return new

    def _put_penalties(self, model: Any, sources: list[tuple]) -> list[tuple[Any, Any]]:
        """The regularizers that the new layers have not got by their configs: those set on weights alone, and those that were cut.

        Returns the weights with constraints.
        """
        wanted, parts, constrained = [], [], []
        for new, old, slot in sources:
            if old is None or old.regularizer is None:
                continue
            if isinstance(old.regularizer, StructuralGroupLasso):
                axis = old.regularizer.axis
                mask = self.tracer.graph.kept(slot.axes[axis]).ravel() if slot is not None else None
                parts.append((new, old.regularizer, mask))
            elif is_constraint(old.regularizer):
                constrained.append((new, old))
            elif is_own(old.regularizer):  # it may have no config
                if new.regularizer is None:
                    wanted.append((new, own_object(old.regularizer)))
            elif not same_regularizer(new.regularizer, old.regularizer):
                wanted.append((new, own_copy(old.regularizer)))
        apart = [pair for pair in constrained if structure_of(pair[1].regularizer) is None]
        joint = [pair for pair in constrained if structure_of(pair[1].regularizer) is not None]
        constrained = [(new, given) for new, given in (*fitted(apart), *fitted_budgets(model, joint)) if given is not None]
        wanted += constrained
        parts = [(new, part, mask) for new, part, mask in parts if mask is not None]
        made = cut([(part, mask) for _, part, mask in parts])
        wanted += [(new, part) for (new, _, _), part in zip(parts, made, strict=True)]
        if wanted:
            Assignment(model, wanted, lasting=False).apply()
        return constrained


def _checked(model: Any) -> Any:
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built:
        raise ValueError(
            f"Argument `model` must be built, so that it has weights. Received: {model.name!r}, which is not: give it an Input."
        )
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            "Argument `model` must be a Sequential or functional model, whose graph can be followed. "
            f"Received: {model.name!r}, a subclassed {type(model).__name__}: only its own code knows how its layers are connected."
        )
    return graph


def _input(tensor: Any, graph: Any) -> Signal:
    """Features along the last axis, where there are any: whole numbers may be indices, and one number is no vector."""
    shape = tensor.shape
    if len(shape) < 2 or shape[-1] is None or not keras.backend.is_float_dtype(tensor.dtype):
        return Signal(shape)
    signal = Signal(shape, len(shape) - 1, graph.new(shape[-1]))
    signal.dtype = tensor.dtype
    return signal


def _same_trainable(old: Any, new: Any) -> None:
    """Parents first: what is set on them reaches their layers."""
    if old.trainable != new.trainable:
        new.trainable = old.trainable
    others = {layer.name: layer for layer in getattr(new, "layers", [])}
    for layer in getattr(old, "layers", []):
        if layer.name in others:  # gates come and go
            _same_trainable(layer, others[layer.name])
