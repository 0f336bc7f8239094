"""A weight and its penalty as one record.

A penalty by itself is numbers and pure functions, and may serve many weights. What belongs to one weight under it is kept here: the
strength to which it has been moved, the optimizer that applies its prox, the other weights of its structure. The record stands in
`variable.regularizer` as soon as somebody needs more than the number: an optimizer being built, a callback that moves strengths, a
structure. It passes for the penalty as it is now.
"""

import collections
import functools
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_reg.backend import loss_sees_the_optimizer, outside_of_graphs, read, table
from keras_reg.contract import is_penalty, kind_of, regularizer_attributes, structure_of
from keras_reg.notes import let_flow, note_of
from keras_reg.ops.dtypes import widen
from keras_reg.running import build_optimizers, optimizers_in, readers, running_models
from keras_reg.strength_variable import StrengthVariable, forget_compiled_steps
from keras_reg.weights import layers_of, own_variables


class Record:
    """A penalty on one weight, at its present strength.

    Attributes:
        configured: The penalty as the user made it; never changed here.
    """

    def __init__(self, penalty: Any, variable: Any):
        self.configured = penalty
        self._variable = weakref.ref(variable)
        self._moved = None  # the strength, where it has been moved, as it was set
        self._state = None  # the same as a variable that compiled steps take anew
        self._claims: list[tuple[Any, int]] = []
        self._models = weakref.WeakSet()  # those in whose steps it was called
        self._structure = None
        self._shown = False  # where the layer holds the penalty
        note_of(penalty).records.add(self)

    # To all others it is the penalty as it is now.

    @property
    def __class__(self) -> type:
        return self.configured.__class__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "configured" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self.configured, name)
        if name in ("proximal", "structure", "part", "axis") or isinstance(value, (bool, str, type(None))):
            return value  # of what is no strength, no strength need be read
        return getattr(self.present, name)

    def __repr__(self) -> str:
        return repr(self.present)

    def __add__(self, other: Any) -> Any:
        return self.present + other

    def __radd__(self, other: Any) -> Any:
        return other + self.present

    def __reduce__(self) -> tuple:
        # A copy is a penalty like any other, on no weight yet.
        return _rebuilt, (self.__class__, self.get_config())

    @property
    def variable(self) -> Any:
        return self._variable()

    @property
    def present(self) -> Any:
        """The penalty with the strengths that act now, as plain numbers."""
        strength = self.strength
        return self.configured if strength == self.configured.strength else self.configured.with_strength(strength)

    @property
    def strength(self) -> float:
        """What acts now; of several strengths the sum."""
        for optimizer, index in self.claims:
            return self._exact(optimizer.strength_at(index))
        # JAX's trainer empties the variables that it has taken over.
        if self._state is None or self._state.state._value is None:
            return self._set
        with outside_of_graphs():
            return self._exact(float(read(self._state.state)))

    @property
    def has_moved(self) -> bool:
        """Whether the strength has been set since it was configured."""
        return self._moved is not None or self.strength != self.configured.strength

    @property
    def _set(self) -> float:
        return self.configured.strength if self._moved is None else self._moved

    def _exact(self, read: float) -> float:
        """The number that was set, if what was read is that number in the precision of the variable, or cannot be read now."""
        return self._set if np.isnan(read) or np.float32(self._set) == np.float32(read) else read

    @property
    def claims(self) -> list[tuple[Any, int]]:
        """The optimizers that have claimed the weight, the latest first: each applies the prox wherever it trains the weight.

        Each has the strength at an index of its own.
        """
        return [(optimizer, index) for reference, index in reversed(self._claims) if (optimizer := reference()) is not None]

    def is_claimed_by(self, optimizer: Any) -> bool:
        return any(optimizer is other for other, _ in self.claims)

    def claim(self, optimizer: Any, index: int) -> None:
        """From here on `optimizer` applies the prox, and has the strength at `index`."""
        others = [(weakref.ref(other), i) for other, i in reversed(self.claims) if other is not optimizer]
        self._claims = [*others, (weakref.ref(optimizer), index)]

    def set_strength(self, strength: float) -> None:
        """Move this weight's strength; several strengths keep their ratio."""
        move([(self.variable, strength)])

    def restart(self, penalty: Any) -> None:
        """Take the penalty as it has been configured anew."""
        self.configured = penalty
        self.__dict__.pop("kind", None)
        _write({self: penalty.strength})
        self._moved = None
        for model in self._models:
            forget_compiled_steps(model)

    @functools.cached_property
    def kind(self) -> Any:
        """See `kind_of`."""
        return kind_of(self.configured)

    def in_step(self) -> Any:
        """The penalty with the strengths that act in the loss of the step that is being computed or traced."""
        if loss_sees_the_optimizer():
            for optimizer, index in self.claims:
                return self.at(optimizer.strength_in_step(index))
        return self.at(self.strength if self._state is None else self._state.state.value)

    def at(self, strength: Any) -> Any:
        """The penalty at a strength that is a number or a tensor."""
        if not isinstance(strength, float):
            return self.configured.at_strength(strength)
        return self.configured if strength == self.configured.strength else self.configured.with_strength(strength)

    def __call__(self, w: Any) -> Any:
        models = running_models()
        self._models.update(models)
        if self.configured.proximal and not self._prox_acts(models):
            for model in models:
                build_optimizers(model)
        stopped = self.configured.proximal and self._prox_acts(models)
        if self.configured.proximal and not stopped:
            let_flow(self.configured, models)
        penalty = self.in_step()
        if stopped and (own := table(w)) is not None and own.is_lazy:
            return own.shown * ops.cast(penalty.strength, own.dtype)
        w = self.configured.checked(w)
        if structure_of(penalty) is not None and not isinstance(w, KerasTensor):
            return self._joint(penalty, w, models, stopped)
        if not stopped or isinstance(w, KerasTensor):
            return penalty.value_of(w)
        others, held = penalty.by_gradient, penalty.by_prox.value_of(ops.stop_gradient(w))
        return held if others is None else held + others.value_of(w)

    def _prox_acts(self, models: list[Any]) -> bool:
        applied = [optimizer for model in models for optimizer in optimizers_in(model)]
        return any(self.is_claimed_by(optimizer) for optimizer in applied) if models else bool(self.claims)

    def _joint(self, penalty: Any, w: Any, models: list[Any], stopped: bool) -> Any:
        """The first of the weights of a structure shows the penalty of all, the others nothing."""
        members = self.members(models)
        if members[0] is not self.variable:
            return ops.zeros((), w.dtype)
        wide, dtype = widen(w)
        tensors = [wide, *(ops.cast(v.value, wide.dtype) for v in members[1:])]
        if stopped:
            tensors = [ops.stop_gradient(tensor) for tensor in tensors]
        return ops.cast(penalty.joint_total([record(v).configured for v in members], tensors), dtype)

    def members(self, models: Iterable[Any] = ()) -> list[Any]:
        """The trainable weights of the structure that this one is a part of, in order."""
        if self._structure is None:
            for model in models:
                join(model.trainable_variables)
        found = [v for reference in self._structure or [self._variable] if (v := reference()) is not None and v.trainable]
        own = [v for v in found if structure_of(v.regularizer) == self.configured.structure]
        return own or [self.variable]


def _rebuilt(cls: type, config: dict) -> Any:
    return cls.from_config(config)


def is_record(regularizer: Any) -> bool:
    return type(regularizer) is Record


def present(regularizer: Any) -> Any:
    """The penalty at the strengths that act now."""
    return regularizer.present if is_record(regularizer) else regularizer


def structure_key(regularizer: Any) -> Any:
    """What weights of one structure have in common; `None` for a weight by itself."""
    if (name := structure_of(regularizer)) is None:
        return None
    return (name, id(regularizer._structure)) if is_record(regularizer) else name


def record(variable: Any) -> Record:
    """The record of a weight with a penalty of keras_reg, made if need be."""
    if not is_record(variable.regularizer) or variable.regularizer.variable is not variable:
        variable.regularizer = Record(present(variable.regularizer), variable)
    return variable.regularizer


def join(variables: Iterable[Any]) -> None:
    """Tell the weights of a structure of each other."""
    structures: dict[tuple[str, int], list[Any]] = {}
    seen: collections.Counter = collections.Counter()
    for variable in variables:
        if is_penalty(variable.regularizer) and (name := structure_of(variable.regularizer)) is not None:
            # Copies of a model within one have structures of the same names, and list their weights in the same order.
            part = getattr(variable.regularizer, "part", None)
            structures.setdefault((name, seen[name, part]), []).append(variable)
            seen[name, part] += part is not None
    for members in structures.values():
        known = [v for m in members if is_record(m.regularizer) for r in m.regularizer._structure or () if (v := r()) is not None]
        references = [weakref.ref(v) for v in {id(v): v for v in (*known, *members)}.values()]
        for variable in members:
            record(variable)._structure = references


def called(penalty: Any, w: Any) -> Any:
    """The penalty of `w` where no record stands for it yet."""
    given, w = w, penalty.checked(w)
    if penalty.proximal or structure_of(penalty) is not None:
        models = running_models()
        for model in models:
            build_optimizers(model)
        own = _its_record(penalty, given, models)
        if own is not None:
            return own(given)
        if penalty.proximal:
            let_flow(penalty, models)
    return penalty.value_of(w)


def _its_record(penalty: Any, w: Any, models: list[Any]) -> Record | None:
    """The record that has come to stand for the penalty in the meantime, or has to for the sake of a structure."""
    if structure_of(penalty) is not None:
        for model in (*models, *readers()):
            join(model.trainable_variables)
    if isinstance(w, keras.Variable):
        return w.regularizer if is_record(w.regularizer) and w.regularizer.configured is penalty else None
    known = [r for r in note_of(penalty).records if r.variable is not None and r.variable.regularizer is r]
    return known[0] if len(known) == 1 and structure_of(penalty) is not None else None


def has_flowed(regularizer: Any) -> bool:
    """Whether the gradient of a proximal penalty has joined a loss."""
    return is_penalty(regularizer) and note_of(regularizer.configured if is_record(regularizer) else regularizer).flowed


# Moving strengths. A strength is state: what it has been moved to acts in the loss and in the prox, and is what is shown and saved.


def penalised(model: Any) -> dict[str, Any]:
    """The trainable weights with a penalty of keras_reg, by `variable.path`."""
    return {v.path: v for v in model.trainable_variables if is_penalty(v.regularizer)}


def make_movable(model: Any, variables: Iterable[Any]) -> None:
    """Have the strengths of these weights of the model be state of its layers that compiled steps take anew."""
    variables = list(variables)
    for variable in variables:
        record(variable)._models.add(model)
    wanted = {id(v): v for v in variables if record(v)._state is None and not (record(v).claims and loss_sees_the_optimizer())}
    if wanted:
        for layer in layers_of(model):
            for variable in own_variables(layer):
                if id(variable) in wanted:
                    own = wanted.pop(id(variable)).regularizer
                    own._state = StrengthVariable.on(layer, variable, own.strength, model)
        forget_compiled_steps(model)


def move(strengths: Iterable[tuple[Any, float]]) -> None:
    """Set the strengths of weights with a penalty of keras_reg; those that share a structure move together."""
    moved: dict[Record, float] = {}
    for variable, strength in strengths:
        own = record(variable)
        own.configured.with_strength(strength)  # refuses what has no ratio to keep
        for member in own.members() if own._structure else [variable]:
            moved[record(member)] = strength
    for model in _models_of(moved):
        make_movable(model, [own.variable for own in moved if model in own._models])
    _write(moved)
    _show_in_layers(moved)


def _models_of(records: Iterable[Record]) -> list[Any]:
    return list({id(model): model for own in records for model in own._models}.values())


def _write(strengths: Mapping[Record, float]) -> None:
    """The one place that writes strengths, wherever they are kept."""
    for model in _models_of(strengths):
        if hasattr(model, "jax_state_sync"):  # within an epoch JAX's trainer has the state
            model.jax_state_sync()
    by_optimizer: dict[int, tuple[Any, dict[int, float]]] = {}
    with outside_of_graphs():
        for own, strength in strengths.items():
            own._moved = strength
            if own._state is not None:
                own._state.state.assign(strength)
            for optimizer, index in own.claims:
                by_optimizer.setdefault(id(optimizer), (optimizer, {}))[1][index] = strength
    for optimizer, changed in by_optimizer.values():
        optimizer.set_strengths_at(changed)


def reconfigured(penalty: Any) -> None:
    """Have all weights under a penalty follow it, whose strength has been set anew."""
    for own in list(note_of(penalty).records):
        if own.variable is not None and own.variable.regularizer is own:
            own.restart(penalty)


def _show_in_layers(records: Iterable[Record]) -> None:
    """Put records where the layers hold the penalties, so that configs, copies and files have the present strengths."""
    todo = [own for own in records if own._models and not own._shown]
    for model in {model for own in todo for model in own._models}:
        for layer in layers_of(model):
            for name in regularizer_attributes(layer):
                held = vars(layer)[name]
                under = [v.regularizer for v in layer.weights if is_record(v.regularizer) and v.regularizer.configured is held]
                if under:
                    setattr(layer, name, under[0])
    for own in todo:
        own._shown = True
