"""What a rule for a kind of layer has to say, and the parts that the rules share."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_reg.models.compaction.making import config_of, is_own, made_again
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Matrix, Slot, resolve
from keras_reg.models.compaction.state import take_over_early
from keras_reg.models.compaction.units import Units
from keras_reg.strength_variable import variables_of
from keras_reg.weights import read


class Rule:
    """How a kind of layer treats units. One object for each layer of a model, called for each of the layer's calls.

    A subclass writes `call`; one for layers with weights of several widths also `slots`, and `changes` to their config. Tensors that it
    is not said to look at, by `follows` and `several`, are held at their width by the tracer.

    Example: a layer with a factor for each channel, which loses factors with its channels.

    >>> import keras, numpy as np
    >>> from keras_reg.models import compact, compaction_rule
    >>> from keras_reg.models.compaction.rule import Rule, Slot
    >>> @keras.saving.register_keras_serializable("my_package")
    ... class Scale(keras.layers.Layer):
    ...     def __init__(self, channels, **options):
    ...         super().__init__(**options)
    ...         self.channels = channels
    ...         self.factor = self.add_weight(shape=(channels,), initializer="ones", name="factor")
    ...     def call(self, x):
    ...         return x * self.factor
    ...     def get_config(self):
    ...         return {**super().get_config(), "channels": self.channels}
    >>> class ScaleRule(Rule):
    ...     units = None
    ...     def call(self, args, kwargs, shapes):
    ...         signal = args[0]  # which channels come in, and which of them are constant
    ...         self.units = signal.units if self.units is None else self.units
    ...         self.graph.unite(signal.units, self.units)  # of several calls all lose the same
    ...         return [signal.like(shapes[0], constants=signal.constants * self.values("factor"))]
    ...     def slots(self):
    ...         return [Slot("factor", {0: self.units}, (0,))]  # entries along axis 0 go with the units
    ...     def changes(self):
    ...         return {"channels": self.width(self.units)}
    >>> compaction_rule(Scale, ScaleRule)
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), Scale(4), keras.layers.Dense(1)])
    >>> kernel, *others = model.get_weights()
    >>> model.set_weights([kernel * [1, 0, 0, 1], *others])  # two of four units are dead
    >>> [layer.count_params() for layer in compact(model).layers]  # of 16, 4 and 5
    [8, 2, 3]
    """

    # The names of further arguments whose tensors the rule follows; the first it always does.
    follows: tuple[str, ...] = ()
    # Whether the first argument may be several tensors.
    several = False
    # Whether it follows units along several axes of a tensor.
    grids = False
    # Whether the examples may be along another axis than the first.
    anywhere = False
    # Whether arrays among the arguments are cut as well.
    arrays = False
    # Whether it does the same when a model trains.
    trained_alike = False
    # Whether the weights are those of layers within that have rules of their own.
    wraps = False
    # Whether those of layers within do not concern it.
    alone = False

    def __init__(self, layer: Any, tracer: Any):
        self.layer = layer
        self.tracer = tracer
        self.graph: Units = tracer.graph
        self.positions: dict[str, int] = {}
        # The arguments of the first call.
        self.first: tuple[tuple, dict] | None = None
        self.barred: str | None = None
        # Why something is held at its width here, if it is.
        self.fenced: str | None = None

    @property
    def name(self) -> str:
        return self.tracer.prefix(self.layer)

    def call(self, args: tuple, kwargs: dict, shapes: list[tuple]) -> list[Signal]:
        """The signals of the outputs, whose shapes are given, for arguments in which signals stand for tensors.

        Of a layer's arguments the first is in `args`, the others are in `kwargs` by their names; all of an operation's are in `args`.
        """
        raise NotImplementedError

    def slots(self) -> list[Slot]:
        """The weights that lose something with their units."""
        return []

    def changes(self) -> dict[str, Any]:
        """After `mark`: what is different in the config of the smaller layer."""
        return {}

    def matrices(self) -> list[Matrix]:
        """What this layer reads by."""
        return []

    def stays(self) -> list[tuple[int, int, str]]:
        """Things other than units that stay: how many, how many of them are dead, and why."""
        return []

    def added(self) -> int:
        """After `mark`: how many weights the smaller layer has that the layer had not, such as a bias for constants."""
        return 0

    def unit_macs(self) -> list[tuple[np.ndarray, int]]:
        """Units with the multiplications that each costs beside those by weights."""
        return []

    def rebuild(self) -> Any:
        """After `mark`: the smaller layer, not yet built."""
        if not isinstance(self.layer, keras.Layer):
            return self._operation()
        changes = self.changes()
        new = made_again(self.layer, {**self._initial_values(), **changes}, self.tracer.maker.shared_within(self.layer), self.name)
        if not changes:
            take_over_early(self.layer, new)
        return new

    def arguments(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """After `mark`: what the smaller layer is called with, given the new tensors among the old arguments."""
        return args, kwargs

    def own_config(self) -> dict[str, Any]:
        """The config of the layer, without what may be carried around it."""
        return config_of(self.layer)

    def _operation(self) -> Any:
        try:
            return type(self.layer).from_config(self.layer.get_config())
        except NotImplementedError:  # it holds an array
            new = object.__new__(type(self.layer))
            vars(new).update(vars(self.layer), _inbound_nodes=[], _outbound_nodes=[])
            return new

    def _initial_values(self) -> dict[str, Any]:
        """Zeros in the place of values for the old shape, and of functions of the user's that may be: the weights are set in any case."""
        found = {}
        for slot in self.slots():
            *within, name = slot.path.split(".")
            value = getattr(self.layer, f"{name}_initializer", None)
            variable = slot.variable(self.layer)
            if within or variable is None or not (is_own(value) or isinstance(value, keras.initializers.Constant)):
                continue
            if slot.cut(np.empty(variable.shape, bool), self.graph).shape != tuple(variable.shape):
                found[f"{name}_initializer"] = "zeros"
        return found

    def owned(self) -> list[keras.Variable]:
        """The weights that no layer within has a rule for."""
        return list(self.layer.weights) if isinstance(self.layer, keras.Layer) else []

    def build_shapes(self) -> dict[str, Any]:
        """After `mark`: the shapes to build the smaller layer with, where it is not built by being called."""
        (first,), further = self.first
        shapes = {}
        for name, shape in self.layer._build_shapes_dict.items():
            signal = further.get(name.removesuffix("_shape"), first)
            if shape is not None:
                shape = list(shape)
                if isinstance(signal, Signal):
                    for axis, units in signal.followed.items():
                        shape[axis] = self.width(units)
            shapes[name] = shape if shape is None else tuple(shape)
        return shapes

    def fits(self, new: Any) -> bool:
        """After `mark`: whether a layer that somebody else made has the widths of the smaller one."""
        if not isinstance(self.layer, keras.Layer):
            return True
        cut = {id(slot.variable(self.layer)): slot for slot in self.slots()}
        wanted = [
            cut[id(variable)].cut(np.empty(variable.shape, bool), self.graph).shape if id(variable) in cut else tuple(variable.shape)
            for variable in variables_of(self.layer)
        ]
        return wanted == [tuple(variable.shape) for variable in variables_of(new)]

    def parts(self, new: Any) -> list[tuple["Rule", Any]]:
        """The rules of the layers within, each with its new layer; itself where it has the weights."""
        return [(self, new)]

    # What rules share

    def fence(self, args: tuple, kwargs: dict, shapes: list[tuple], reason: str) -> list[Signal]:
        """Inputs and outputs keep their width."""
        self.fenced = self.fenced or reason
        for signal in signals_in((args, kwargs)):
            signal.pin(self.graph, self.name, reason)
        return [Signal(shape) for shape in shapes]

    def barrier(self, args: tuple, kwargs: dict, shapes: list[tuple], reason: str) -> list[Signal]:
        """Inputs and outputs keep their width, and so do all weights, whatever the other calls of the layer are."""
        self.barred = self.barred or reason
        return self.fence(args, kwargs, shapes, reason)

    def mind_addition(self, axes: list[np.ndarray], wrongly: Callable[[list[int]], bool]) -> None:
        """No cut leads into, or out of, the numbers of units along axes for which Keras adds along another axis; see `adding`."""
        if wrongly([len(units) for units in axes]):
            for units in axes:
                self.graph.pin(units, self.name, "adds what Keras may add along another axis")
        self.graph.avoid(axes, wrongly)

    def held(self) -> list[np.ndarray]:
        """The units that the config of the layer depends on: a barrier holds them."""
        return [units.ravel() for slot in self.slots() for units in slot.axes.values()]

    def settle(self) -> None:
        """What is known only when all calls are."""
        if self.barred:
            for units in self.held():
                self.graph.pin(units, self.name, self.barred)

    def count(self, path: str, positions: tuple) -> None:
        """Notes that a call multiplies by this weight at so many positions; unknown lengths count as one."""
        self.positions[path] = self.positions.get(path, 0) + math.prod(length or 1 for length in positions)

    def width(self, units: np.ndarray) -> int:
        return int(self.graph.kept(units).sum())

    def inner(self, path: str) -> Any:
        """A layer within this one."""
        return resolve(self.layer, path)

    def values(self, path: str) -> np.ndarray | None:
        """The present values of a weight."""
        variable = resolve(self.layer, path)
        if variable is None:
            return None
        values = np.array(read(variable))
        if id(variable) in self.tracer.zeroed:
            values[self.tracer.zeroed[id(variable)]] = 0
        return values

    def macs(self, kept: bool) -> int:
        """Multiplications of one example, before or after."""
        slots = {slot.path: slot for slot in self.slots()}
        total = 0
        for path, positions in self.positions.items():
            values = np.empty(resolve(self.layer, path).shape, bool)
            total += positions * (slots[path].cut(values, self.graph) if kept else values).size
        return total


class Barrier(Rule):
    """A layer without a rule: whatever it reads and gives keeps its width."""

    def call(self, args, kwargs, shapes):
        return self.barrier(args, kwargs, shapes, f"there is no rule for {type(self.layer).__name__}")


def signals_in(structure: Any) -> list[Signal]:
    """All signals in nested arguments."""
    if isinstance(structure, Signal):
        return [structure]
    if isinstance(structure, dict):
        return [signal for item in structure.values() for signal in signals_in(item)]
    if isinstance(structure, (list, tuple)):
        return [signal for item in structure for signal in signals_in(item)]
    return []
