"""Putting regularizers on the weights of a model so that they act now and are there again after saving: all of them or none."""

from collections.abc import Callable
from typing import Any

import keras

from keras_reg.binding import join
from keras_reg.contract import is_proximal
from keras_reg.models.attachment.carrier import carried, carry, original_class, present, restore
from keras_reg.models.attachment.rebuilt import rebuilt_weights, same_regularizer, units
from keras_reg.models.attachment.slots import Slots
from keras_reg.running import proximal_optimizers
from keras_reg.strength_variable import forget_compiled_steps


class Assignment:
    """The regularizers that some weights of a model shall have, and what has to be set where so that they keep them.

    Planned on copies: the model is as it was until `apply`, which does no more than set attributes.

    Args:
        model: A built model or layer.
        wanted: Pairs of a weight and its regularizer, or `None` for none.
        lasting: Whether what would not outlast saving is an error.

    Attributes:
        kept: Where each weight's regularizer is kept, by `id` of the weight.
    """

    def __init__(self, model: Any, wanted: list[tuple[Any, Any]], lasting: bool = True):
        self.model = model
        self.wanted = {id(variable): regularizer for variable, regularizer in wanted}
        self.kept: dict[int, str] = {}
        self._on_variables: dict[int, tuple[Any, Any]] = {id(v): (v, r) for v, r in wanted}
        self._in_slots: list[tuple[Any, Any]] = []
        self._around: list[tuple[Any, list[Any]]] = []
        refused = {}
        for unit in units(model):
            if any(id(v) in self.wanted for v in unit.weights):
                try:
                    self._plan(unit)
                except ValueError as error:
                    refused[unit.name] = f"{unit.name!r} ({original_class(unit).__name__}): {error}"
        names = [v.path for v, _ in wanted if id(v) not in self.kept]
        if lasting and (refused or names):
            raise _would_not_last(list(refused.values()) or names)
        self._check_optimizers()

    def _plan(self, unit: Any) -> None:
        slots = Slots.of(unit)
        weights = unit.weights
        final = [self.wanted.get(id(v), v.regularizer) for v in weights]
        around = {id(v): v for v in carried(unit) if id(v) not in self.wanted}
        in_slots, on_variables, kept = [], {}, {}
        by_slot = set()
        for slot in slots.all:
            fed = [weights[i] for i in slot.indices]
            if not any(id(v) in self.wanted for v in fed):
                continue
            by_slot.update(slot.indices)
            # Frozen ones, as the kernel beside its LoRA weights, take what the others get: on them it does nothing.
            deciding = [i for i in slot.indices if id(weights[i]) in self.wanted or weights[i].trainable]
            value = final[deciding[0]]
            alike = all(same_regularizer(final[i], value) for i in deciding)
            # The very object of the weight: what moves its strength is to be saved.
            in_slots.append((slot, value if alike else None))
            for i, variable in zip(slot.indices, fed, strict=True):
                if alike:
                    around.pop(id(variable), None)
                    if not same_regularizer(variable.regularizer, value):
                        on_variables[id(variable)] = (variable, value)
                elif i in deciding and final[i] is not None:
                    around[id(variable)] = variable
                kept[id(variable)] = f"{original_class(slot.layer).__name__}.{slot.attribute.lstrip('_')}"
        for i, variable in enumerate(weights):
            if i not in by_slot and id(variable) in self.wanted:
                kept[id(variable)] = "as it is built"
                if not same_regularizer(slots.fixed[i], final[i]):
                    around[id(variable)] = variable
        if around or carried(unit):
            kept |= {key: f"around {original_class(unit).__name__}" for key in around}
            self._rehearse(unit, slots, in_slots, {**self._on_variables, **on_variables}, set(around))
            self._around.append((unit, list(around.values())))
        self._in_slots += in_slots
        self._on_variables |= on_variables
        self.kept |= kept

    def _rehearse(self, unit: Any, slots: Slots, in_slots: list, on_variables: dict, around: set[int]) -> None:
        """Put the regularizers on a copy of the layer, and see what it is rebuilt with."""
        chosen = {id(slot): value for slot, value in in_slots}
        for slot in slots.all:
            slot.try_on(chosen.get(id(slot), slot.get()))
        final = [on_variables[id(v)][1] if id(v) in on_variables else v.regularizer for v in unit.weights]
        for variable, regularizer in zip(slots.weights, final, strict=True):
            variable.regularizer = regularizer
        carry(slots.copy, [other for own, other in zip(unit.weights, slots.weights, strict=True) if id(own) in around])
        again = rebuilt_weights(slots.copy, unit)
        lost = [v for v, r, other in zip(unit.weights, final, again, strict=True) if not same_regularizer(r, other.regularizer)]
        if any(id(v) in on_variables for v in lost):
            raise ValueError(f"rebuilt, it has other penalties on {', '.join(v.path for v in lost)}")

    def _check_optimizers(self) -> None:
        for optimizer in self._optimizers():
            optimizer.check_penalties(self._after)

    def _optimizers(self) -> list[Any]:
        return [o for o in proximal_optimizers(getattr(self.model, "optimizer", None)) if o.built]

    def idle_optimizers(self) -> list[Any]:
        """Those that have a prox and no penalty to apply it to."""
        return [o for o in self._optimizers() if not any(o.applies_prox_to(v) for v in self.model.trainable_variables)]

    def _build_optimizer(self) -> None:
        """A `Proximal` that is to lose its last penalty before its first step: it is built for penalties, and then goes on without."""
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None or optimizer.built or not any(proximal_optimizers(optimizer)):
            return
        trained = self.model.trainable_variables
        if any(is_proximal(v.regularizer) for v in trained) and not any(is_proximal(self._after(v)) for v in trained):
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(trained)

    def _after(self, variable: Any) -> Any:
        return self._on_variables[id(variable)][1] if id(variable) in self._on_variables else variable.regularizer

    def apply(self) -> None:
        """Make it so; an error or an interruption on the way leaves the model as it was."""
        self._build_optimizer()
        # Before anything is set: at worst they are compiled once more for nothing.
        forget_compiled_steps(self.model)
        before: list[tuple[Callable, tuple]] = [(slot.set, (slot.get(),)) for slot, _ in self._in_slots]
        before += [(setattr, (variable, "regularizer", variable.regularizer)) for variable, _ in self._on_variables.values()]
        before += [(restore, (unit, present(unit))) for unit, _ in self._around]
        before += [(optimizer.refresh_claims, ()) for optimizer in self._optimizers()]
        try:
            for slot, value in self._in_slots:
                slot.set(value)
            for variable, value in self._on_variables.values():
                variable.regularizer = value
            for unit, variables in self._around:
                carry(unit, variables)
            for optimizer in self._optimizers():
                optimizer.refresh_claims()
            join(self.model.weights)
        except BaseException:
            _go_through(before)
            raise


def _go_through(steps: list[tuple[Callable, tuple]]) -> None:
    """All of them, however often Ctrl-C is pressed."""
    try:
        for function, arguments in steps:
            function(*arguments)
    except KeyboardInterrupt:
        _go_through(steps)


def own_copy(regularizer: Any) -> Any:
    """Another of the same config: what moves the strength of one must not move the other's."""
    return regularizer.__class__.from_config(regularizer.get_config())


def _would_not_last(refused: list[str]) -> ValueError:
    return ValueError(
        "These would lose the change when the model is saved or cloned, so that nothing was changed: "
        f"{'; '.join(refused)}. Give such a class a `get_config` from which Keras can build it anew, leave it out with `exclude=`, or "
        "accept the loss with `lasting=False`."
    )
