"""Gates put into a model that exists: on what its layers read or give, or on their kernels."""

import math
from typing import Any

import keras
import numpy as np

from keras_reg._validation import one_of, received
from keras_reg.layers import GatedKernel
from keras_reg.layers.gate import Gate
from keras_reg.layers.gated_kernel import KINDS
from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.graphs import graph_of
from keras_reg.models.compaction.groups import unit_costs
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.units import FIXED
from keras_reg.regularizers.gates import GatePenalty
from keras_reg.weights import select

PLACES = ("before", "after", "kernel")
COSTS = ("parameters", "macs")


def insert_gates(
    model: Any, gate: Any, include: Any = None, exclude: Any = None, where: str = "before", cost: str | None = "parameters"
) -> Any:
    """A copy of a built model with gates, that is trained as it is: same weights, penalties and compile state.

    Every place gets a copy of `gate`, and gates of its own. Tensors that carry the same units, such as those of a residual sum, share
    them: a gate for each structural group. `strip` and `compact` take the gates out again, with what they have closed.

    Args:
        model: A built Sequential or functional model. It stays as it is.
        gate: A `keras_reg.layers.HardConcreteGate` or `GaussianGate`, that is in no model.
        include: Which layers, as in `attach`; of these the `Dense`, `EinsumDense` and convolutional ones count. Defaults to all.
        exclude: Which of these to leave out, in the same terms.
        where: `"before"` (default): on what the layers read, their inputs and all hidden units; where a `Flatten` spreads channels, before
            that. Such gates always go into kernels again. `"after"`: on what the layers give, activation included, but for the outputs of
            the model. `"kernel"`: on their weights, along the `axis` of `gate`, `None` for single ones.
        cost: What the weights of the gates' penalty count: the `"parameters"` that are behind a gate (default), or the multiplications,
            `"macs"`. `None` leaves the penalty as it is.

    Returns:
        The new model.

    Raises:
        TypeError: If `gate` is no gate.
        ValueError: If the model is not built, or subclassed; if no layer is left to gate; if the units that a layer reads or gives are not
            known.

    Example:

    >>> import keras
    >>> from keras_reg.layers import HardConcreteGate
    >>> from keras_reg.models import insert_gates
    >>> from keras_reg.regularizers import HardConcreteL0
    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300, "relu", name="a"), keras.layers.Dense(10, name="b")])
    >>> gated = insert_gates(model, HardConcreteGate(gate_regularizer=HardConcreteL0(0.5 / 60000)))
    >>> [layer.name for layer in gated.layers]
    ['a_gate', 'a', 'b_gate', 'b']
    >>> gated.get_layer("b_gate").gate_regularizer.weights  # 784 + 1 + 10 parameters for each hidden unit
    795.0
    """
    if not isinstance(gate, Gate) or gate.built:
        raise TypeError(f"Argument `gate` must be a gate of keras_reg.layers that is in no model yet. {received(gate, 'gate')}")
    one_of(where, PLACES, "where")
    if cost is not None:
        one_of(cost, COSTS, "cost")
    if isinstance(gate.gate_regularizer, GatePenalty) and cost is not None and isinstance(gate.gate_regularizer.weights, list):
        raise ValueError("Argument `cost` must be None where the penalty of `gate` lists weights itself. Received: both")
    compaction = Compaction(model)
    compaction.keep_all()
    rules = _chosen(compaction, include, exclude)
    places = _Places(compaction, gate, cost)
    if where == "kernel":
        for rule in rules:
            places.put_on_kernel(rule)
    else:
        for rule in rules:
            places.put(rule, where, skip_outputs=include is None)
    if not compaction.tracer.maker.around:
        raise ValueError(f"No layer of {model.name!r} is left that could have gates: all give its outputs. Received: where={where!r}")
    return compaction.build()


def _chosen(compaction: Compaction, include: Any, exclude: Any) -> list[Rule]:
    """The rules of the layers that are meant, and that the model, or one within it, calls itself."""
    model = compaction.model
    ids = {id(layer) for weight in select(model, include, exclude) for layer in weight.layers}
    called = set(_operations(model))
    rules = [rule for rule in compaction.rules if isinstance(rule.layer, KINDS) and id(rule.layer) in ids & called]
    if not rules:
        raise ValueError(
            f"No Dense, EinsumDense or convolution of {model.name!r} is meant that the model calls itself. "
            f"Received: include={include!r}, exclude={exclude!r}"
        )
    return rules


def _operations(model: Any) -> list[int]:
    found = []
    for operation in graph_of(model).operations:
        found += [id(operation)] if graph_of(operation) is None else _operations(operation)
    return found


def _placed(gate: Any, where: str) -> Any:
    """What is called in the place of a new layer."""
    return {
        "before": lambda new: [gate, new],
        "after": lambda new: [new, gate],
        "kernel": lambda new: [GatedKernel(new, gate, name=new.name)],
    }[where]


class _Places:
    """Where gates go, and the gates that are there already."""

    def __init__(self, compaction: Compaction, gate: Any, cost: str | None):
        self.compaction, self.gate, self.cost = compaction, gate, cost
        self.around = compaction.tracer.maker.around
        graph = compaction.tracer.graph
        roots = graph.roots()
        # Units that something fixed was added to are one with it, and yet each is somebody's.
        self.names = np.where(roots == roots[FIXED], np.arange(len(roots)), roots)
        self.costs = unit_costs(compaction, self.names)
        self.made: dict[tuple, Any] = {}
        self.taken = {layer.name for layer in compaction.model._flatten_layers()}

    def put(self, rule: Rule, where: str, skip_outputs: bool) -> None:
        """On what the calls of a layer read or give."""
        for other, inputs, outputs in self.compaction.tracer.calls:
            if other is not rule:
                continue
            operation, signal = rule.layer, (inputs if where == "before" else outputs)[0]
            if signal.axis is None or rule.barred:
                raise ValueError(
                    f"It is not known which units there are {where} {rule.name!r}: leave it out by `exclude=`, or put a gate in by "
                    f"hand. Received: a tensor of shape {signal.shape}"
                )
            if where == "before":
                operation, signal = self._before_spreading(operation, signal)
            elif skip_outputs and any(signal is output for output in self.compaction.outputs):
                continue
            self.around[id(operation)] = _placed(self._of_units(rule.layer, signal), where)

    def put_on_kernel(self, rule: Rule) -> None:
        kernel = rule.layer.kernel
        gate = self._copy(rule.layer, self.gate.axis, per_sample=False)
        number = math.prod(kernel.shape[axis] for axis in gate.indexed(len(kernel.shape)))
        behind = math.prod(kernel.shape) // number
        self._weigh(gate, [behind * (rule.positions.get("kernel", 1) if self.cost == "macs" else 1)])
        self.around[id(rule.layer)] = _placed(gate, "kernel")

    def _before_spreading(self, operation: Any, signal: Signal) -> tuple[Any, Signal]:
        """Back to where each unit has one place, as before a `Flatten`."""
        at = operation, signal
        while at[1].axis is not None and len(set(units := self.names[at[1].units].tolist())) < len(units):
            made = [(rule, inputs) for rule, inputs, outputs in self.compaction.tracer.calls if any(at[1] is one for one in outputs)]
            if len(made) != 1 or len(made[0][1]) != 1:
                return operation, signal
            at = made[0][0].layer, made[0][1][0]
        return at if at[1].axis is not None else (operation, signal)

    def _of_units(self, layer: Any, signal: Signal) -> Any:
        """The gates of these units."""
        names = self.names[signal.units].tolist()
        axis = -1 if signal.axis == len(signal.shape) - 1 else signal.axis
        key = (axis, *names)
        if key not in self.made:
            self.made[key] = self._copy(layer, axis, per_sample=self.gate.per_sample)
            place = 1 if self.cost == "macs" else 0
            self._weigh(self.made[key], [self.costs.get(name, [0, 0])[place] for name in names])
        return self.made[key]

    def _copy(self, layer: Any, axis: Any, per_sample: bool) -> Any:
        name, number = f"{layer.name}_gate", 1
        while name in self.taken:
            name, number = f"{layer.name}_gate_{number}", number + 1
        self.taken.add(name)
        config = {**self.gate.get_config(), "name": name, "axis": axis, "per_sample": per_sample}
        config["dtype"] = keras.dtype_policies.serialize(layer.dtype_policy)
        if config["seed"] is not None:  # noise of its own
            config["seed"] += len(self.taken)
        return type(self.gate).from_config(config)

    def _weigh(self, gate: Any, costs: list[int]) -> None:
        penalty = gate.gate_regularizer
        if self.cost is not None and isinstance(penalty, GatePenalty):
            weights = [penalty.weights * cost for cost in costs]
            weights = weights[0] if len(set(weights)) == 1 else weights
            gate.gate_regularizer = type(penalty).from_config({**penalty.get_config(), "weights": weights})
