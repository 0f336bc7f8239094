"""What a rule for a kind of layer has to say, and the parts that the rules share."""

import math
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg.models.attachment.carrier import original_class
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.units import Read, Units
from keras_reg.regularizers.structural import without_structures
from keras_reg.weights import read


def resolve(layer: Any, path: str) -> Any:
    """What is at a path of attributes, and of numbers for members of lists."""
    for part in path.split("."):
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return layer


@dataclass
class Slot:
    """A weight of a layer and the units along its axes.

    Args:
        path: The attribute of the layer, as `"kernel"` or `"cell.bias"`.
        axes: By axis, or by several that follow one another, the units that index it, in the shape of these axes.
        produces: Those of the axes whose units this weight produces; the others read theirs.
        finish: What is done to the values once they are cut: an addend, a factor.
    """

    path: str
    axes: dict[int | tuple[int, ...], np.ndarray]
    produces: tuple = ()
    finish: Callable[[np.ndarray], np.ndarray] | None = None

    def variable(self, layer: Any) -> keras.Variable | None:
        return resolve(layer, self.path)

    def cut(self, values: np.ndarray, graph: Units) -> np.ndarray:
        """What is left of an array of this weight's shape, such as its values or its momenta."""
        for axis, units in self.axes.items():
            kept = graph.kept(units)
            if kept.ndim == 1:
                values = np.compress(kept, values, axis)
            else:
                rows = kept.any(1)
                shape = list(values.shape)
                shape[axis[0]], shape[axis[1]] = rows.sum(), kept[rows].sum(1)[0]
                merged = values.reshape((*values.shape[: axis[0]], kept.size, *values.shape[axis[1] + 1 :]))
                values = np.compress(kept.ravel(), merged, axis[0]).reshape(shape)
        return values


@dataclass
class Matrix:
    """A weight that reads units and produces others: output `j` is the sum over taps and inputs `i` of `array[:, i, j]` times input `i`.

    Args:
        graph: The units of the model.
        inputs: The units that it reads.
        outputs: The units that it produces.
        array: The weight, as `(taps, inputs, outputs)`.
        reach: Where it is not zero, if that is not where `array` is not.
    """

    graph: Units
    inputs: np.ndarray
    outputs: np.ndarray
    array: np.ndarray
    reach: np.ndarray | None = None
    constants: np.ndarray | None = field(default=None, init=False)
    exact: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self):
        self._uses = None
        # Zero times infinity is not zero.
        self._finite = np.isfinite(self.array).all((0, 2))
        self.graph.reads.append(Read(self.inputs, self.outputs, self.uses, self.replaceable))

    def uses(self) -> np.ndarray:
        if self._uses is None:
            self._uses = (self.array != 0).any(0) if self.reach is None else self.reach
        return self._uses

    def feed(self, units: np.ndarray, constants: np.ndarray, exact: bool) -> np.ndarray:
        """Notes a call on these units and returns what their constants add to each output, NaN where it is not constant.

        `exact` says whether a constant input adds the same to the output at every position.
        """
        if units is not self.inputs:
            self.graph.unite(units, self.inputs)
        takes = np.isfinite(constants) & (exact | (constants == 0)) & self._finite
        if self.constants is None:
            self.constants, self.exact = constants, takes
        else:
            self.constants = np.where(self.constants == constants, constants, np.nan)
            self.exact = self.exact & takes & np.isfinite(self.constants)
        total = self._total(constants, takes)
        return np.where(self.uses()[~takes].any(0), np.nan, total)

    def replaceable(self) -> np.ndarray:
        return self.exact if self.exact is not None else np.zeros(len(self.inputs), bool)

    def stuck(self) -> np.ndarray:
        """Constants that cannot be folded: the border of a padded convolution does not see them."""
        return np.isfinite(self.constants) & ~self.exact

    def _total(self, constants: np.ndarray, which: np.ndarray) -> np.ndarray:
        rows = which & (np.nan_to_num(constants) != 0)
        sums = self.array[:, rows].astype("float64").sum(0)
        return constants[rows] @ sums if rows.any() else np.zeros(self.array.shape[2])

    def addend(self) -> np.ndarray:
        """After `mark`: what the bias of each output has to take over from the inputs that went."""
        return self._total(self.constants, self.exact & ~self.graph.kept(self.inputs))


class Rule:
    """How a kind of layer treats units. One object for each layer of a model, called for each of the layer's calls.

    A subclass writes `call`; one for layers with weights of several widths also `slots`, and `changes` to their config.
    """

    def __init__(self, layer: Any, tracer: Any):
        self.layer = layer
        self.tracer = tracer
        self.graph: Units = tracer.graph
        self.positions: dict[str, int] = {}
        self.barred: str | None = None

    @property
    def name(self) -> str:
        return self.tracer.prefix(self.layer)

    def call(self, args: tuple, kwargs: dict, shapes: list[tuple]) -> list[Signal]:
        """The signals of the outputs, whose shapes are given, for arguments in which signals stand for tensors.

        Of a layer's arguments the first is in `args`, the others in `kwargs`; all of an operation's are in `args`.
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
        # Parts of a structural penalty fit the old widths: they are cut and put back once the weights are there.
        config = without_structures({**self.own_config(), **self._functions(), **self.changes()})
        try:
            return original_class(self.layer).from_config(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Layer {self.name!r} cannot be made again from its own config: {error}") from error

    def own_config(self) -> dict[str, Any]:
        """The config of the layer, without what may be carried around it."""
        return original_class(self.layer).get_config(self.layer)

    def _operation(self) -> Any:
        try:
            return type(self.layer).from_config(self.layer.get_config())
        except NotImplementedError:  # it holds an array
            new = object.__new__(type(self.layer))
            vars(new).update(vars(self.layer), _inbound_nodes=[], _outbound_nodes=[])
            return new

    def _functions(self) -> dict[str, Any]:
        """What the config of a layer holds by name only, or for one shape: functions of the user's own, initial values."""
        found = {}
        shapes = {slot.path: slot for slot in self.slots()}
        for name in self.own_config():
            value = getattr(self.layer, name, None)
            own = isinstance(value, types.FunctionType) and not value.__module__.startswith("keras.")
            if own and name.endswith(("activation", "_initializer", "_regularizer", "_constraint")):
                found[name] = value
            slot = shapes.get(name.removesuffix("_initializer"))
            if name.endswith("_initializer") and slot is not None and (own or isinstance(value, keras.initializers.Constant)):
                variable = slot.variable(self.layer)
                if variable is not None and slot.cut(np.empty(variable.shape, bool), self.graph).shape != tuple(variable.shape):
                    # The weights are set in any case.
                    found[name] = "zeros"
        return found

    def owned(self) -> list[keras.Variable]:
        """The weights that no layer within has a rule for."""
        return list(self.layer.weights) if isinstance(self.layer, keras.Layer) else []

    def parts(self, new: Any) -> list[tuple["Rule", Any]]:
        """The rules of the layers within, each with its new layer; itself where it has the weights."""
        return [(self, new)]

    # What rules share

    def fence(self, args: tuple, kwargs: dict, shapes: list[tuple], reason: str) -> list[Signal]:
        """Inputs and outputs keep their width."""
        for signal in signals_in((args, kwargs)):
            signal.pin(self.graph, self.name, reason)
        return [Signal(shape) for shape in shapes]

    def barrier(self, args: tuple, kwargs: dict, shapes: list[tuple], reason: str) -> list[Signal]:
        """Inputs and outputs keep their width, and so do all weights, whatever the other calls of the layer are."""
        self.barred = self.barred or reason
        return self.fence(args, kwargs, shapes, reason)

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
        return None if variable is None else np.array(read(variable))

    def macs(self, kept: bool) -> int:
        """Multiplications of one example, before or after."""
        slots = {slot.path: slot for slot in self.slots()}
        total = 0
        for path, positions in self.positions.items():
            values = np.empty(resolve(self.layer, path).shape, bool)
            total += positions * (slots[path].cut(values, self.graph) if kept else values).size
        return total


def signals_in(structure: Any) -> list[Signal]:
    """All signals in nested arguments."""
    if isinstance(structure, Signal):
        return [structure]
    if isinstance(structure, dict):
        return [signal for item in structure.values() for signal in signals_in(item)]
    if isinstance(structure, (list, tuple)):
        return [signal for item in structure for signal in signals_in(item)]
    return []


def apply(function: Callable, constants: np.ndarray, dtype: str) -> np.ndarray:
    """An entrywise function of those that are constant."""
    known = np.isfinite(constants)
    result = np.full(len(constants), np.nan)
    if known.any():
        outcome = ops.convert_to_numpy(function(ops.convert_to_tensor(constants[known].reshape(1, -1), dtype=dtype)))
        result[known] = np.asarray(outcome, "float64").reshape(-1)
    return np.where(np.isfinite(result), result, np.nan)
