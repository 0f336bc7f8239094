"""A model's compaction: who stays, the new model, its weights and its compile state."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_reg.models.attachment.assignment import Assignment, own_copy
from keras_reg.models.attachment.rebuilt import same_regularizer
from keras_reg.models.compaction import rules as rules
from keras_reg.models.compaction.rule import Rule, Slot
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import Tracer, graph_of
from keras_reg.regularizers.structural import StructuralGroupLasso, cut
from keras_reg.weights import read


class Compaction:
    """What can leave a model, found by following its units from the inputs to the outputs and back.

    Args:
        model: A built Sequential or functional model.
        inputs: Whether input features may leave, too.
    """

    def __init__(self, model: Any, inputs: bool = False):
        self.graph = graph = _checked(model)
        self.model = model
        self.tracer = Tracer()
        self.inputs = [_input(tensor, self.tracer.graph) for tensor in graph.inputs]
        self.outputs = self.tracer.trace(model, self.inputs)
        self.tracer.settle()
        units = self.tracer.graph
        units.never_empty.extend(signal.units for signal in self.inputs if signal.axis is not None)
        for signal in self.outputs:
            signal.pin(units, model.name, "is an output of the model")
        self.free = units.needed(units.pins)
        if not inputs:
            for signal in self.inputs:
                signal.pin(units, model.name, "is an input of the model")
        units.mark(units.needed(units.pins))

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
        new = self.tracer.rebuild(self.model, self.inputs)
        self.tracer.restore()
        pairs = self.tracer.parts(self.model)
        sources = [source for rule, layer in pairs for source in self._transfer(rule, layer)]
        self._put_penalties(new, sources)
        _same_trainable(self.model, new)
        _compile(self.model, new, {id(new_variable): (old, slot) for new_variable, old, slot in sources}, self.tracer.graph)
        return new

    def _transfer(self, rule: Rule, layer: Any) -> list[tuple[keras.Variable, keras.Variable | None, Slot | None]]:
        """Sets the weights of a new layer; for each the old one, if there was one, and how it was cut."""
        if not isinstance(layer, keras.Layer):
            return []
        graph, made = self.tracer.graph, []
        for slot in rule.slots():
            old, new = slot.variable(rule.layer), slot.variable(layer)
            if new is None:
                continue
            # In double precision, since the constants that go into biases are.
            values = np.zeros(new.shape) if old is None else slot.cut(np.array(read(old)), graph)
            if slot.finish is not None:
                values = slot.finish(values.astype("float64"))
            new.assign(ops.cast(ops.convert_to_tensor(values.astype(_numpy_dtype(new))), new.dtype))
            made.append((new, old, slot))
        done = {id(variable) for new, old, _ in made for variable in (new, old)}
        rest = [[variable for variable in owner.variables if id(variable) not in done] for owner in (rule.layer, layer)]
        for old, new in zip(*rest, strict=True):
            if tuple(old.shape) != tuple(new.shape):
                raise AssertionError(f"{rule.name}: {old.path} of shape {old.shape} does not fit {new.path} of shape {new.shape}")
            new.assign(old.value)
            made.append((new, old, None))
        for one, other in zip(rule.layer._flatten_layers(), layer._flatten_layers(), strict=True):
            if hasattr(other, "finalize_state"):  # of preprocessing, which computes with copies of its variables
                other.finalize_state()
            if getattr(one, "stateful", False) and getattr(one, "states", None):  # no variables of the layer
                for ours, theirs in zip(tree.flatten(other.states), tree.flatten(one.states), strict=True):
                    ours.assign(theirs.value)
        for new, old, _ in made:
            if old is not None and not old._trainable:
                new.trainable = False
        return made

    def _put_penalties(self, model: Any, sources: list[tuple]) -> None:
        """The regularizers that the new layers have not got by their configs: those set on weights alone, and those that were cut."""
        wanted, parts = [], []
        for new, old, slot in sources:
            if old is None or old.regularizer is None:
                continue
            if isinstance(old.regularizer, StructuralGroupLasso):
                axis = old.regularizer.axis
                mask = self.tracer.graph.kept(slot.axes[axis]).ravel() if slot is not None else None
                parts.append((new, old.regularizer, mask))
            elif not same_regularizer(new.regularizer, old.regularizer):
                wanted.append((new, own_copy(old.regularizer)))
        parts = [(new, part, mask) for new, part, mask in parts if mask is not None]
        made = cut([(part, mask) for _, part, mask in parts])
        wanted += [(new, part) for (new, _, _), part in zip(parts, made, strict=True)]
        if wanted:
            Assignment(model, wanted, lasting=False).apply()


def _numpy_dtype(variable: keras.Variable) -> str:
    return "float32" if variable.dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2") else variable.dtype


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
    return Signal(shape, len(shape) - 1, graph.new(shape[-1]))


def _same_trainable(old: Any, new: Any) -> None:
    """Parents first: what is set on them reaches their layers."""
    if old.trainable != new.trainable:
        new.trainable = old.trainable
    for one, other in zip(getattr(old, "layers", []), getattr(new, "layers", []), strict=True):
        _same_trainable(one, other)


def _compile(old: Any, new: Any, sources: dict[int, tuple], graph: Any) -> None:
    """The compile state of the old model: loss, metrics, an optimizer of the same config that remembers what is left of its past."""
    if not old.compiled:
        return
    new.compile(**{key: _copy(value) for key, value in old._compile_config.config.items()})
    if old.optimizer is None or not old.optimizer.built:
        return
    new.optimizer.build(new.trainable_variables)
    places = {id(variable): index for index, variable in enumerate(old.trainable_variables)}
    origins = []
    for variable in new.trainable_variables:
        source, slot = sources[id(variable)]
        origins.append((None if source is None else places[id(source)], slot))
    _remember(old.optimizer, new.optimizer, origins, len(places), graph)


def _copy(value: Any) -> Any:
    """The same metric or optimizer without its state; losses, which have none, and functions as they are."""
    if isinstance(value, (list, tuple, dict)):
        return tree.map_structure(_copy, value)
    if isinstance(value, (keras.Metric, keras.optimizers.Optimizer)):
        return type(value).from_config(value.get_config())
    return value


def _remember(old: Any, new: Any, origins: list, number: int, graph: Any) -> None:
    """Gives the optimizer the state of the old one, cut as the weights were; state of another form starts anew."""
    for name, ours in vars(new).items():
        theirs = getattr(old, name, None)
        if isinstance(ours, keras.optimizers.Optimizer) and isinstance(theirs, keras.optimizers.Optimizer):
            _remember(theirs, ours, origins, number, graph)
        elif isinstance(ours, keras.Variable) and isinstance(theirs, keras.Variable):
            _fill(ours, theirs, None, graph)
        elif isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(origins) and len(theirs) == number:
            if name in ("_variables", "_trainable_variables"):
                continue
            for variable, (place, slot) in zip(ours, origins, strict=True):
                if place is not None:
                    _fill(variable, theirs[place], slot, graph)


def _fill(new: Any, old: Any, slot: Slot | None, graph: Any) -> None:
    if not isinstance(new, keras.Variable) or not isinstance(old, keras.Variable):
        return
    values = np.array(read(old))
    if slot is not None and tuple(old.shape) != tuple(new.shape):
        try:
            values = slot.cut(values, graph)
        except (ValueError, IndexError):
            return
    if values.shape == tuple(new.shape):
        new.assign(ops.cast(ops.convert_to_tensor(values), new.dtype))
