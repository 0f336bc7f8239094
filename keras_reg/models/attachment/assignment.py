"""Putting regularizers on the weights of a model so that they act now and are there again after saving: all of them or none."""

from collections.abc import Callable
from typing import Any

from keras_reg.binding import forget_compiled_steps, is_record, join, proximal_optimizers
from keras_reg.models.attachment.carrier import carried, carry, original_class
from keras_reg.models.attachment.rebuilt import rebuilt_weights, same_regularizer, slots, units


class Assignment:
    """The regularizers that some weights of a model shall have, and what has to be set where so that they keep them.

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
        found, fixed = slots(unit)
        weights = unit.weights
        final = [self.wanted.get(id(v), v.regularizer) for v in weights]
        around = {id(v): v for v in carried(unit) if id(v) not in self.wanted}
        by_slot = set()
        for slot in found:
            fed = [weights[i] for i in slot.indices]
            if not any(id(v) in self.wanted for v in fed):
                continue
            by_slot.update(slot.indices)
            # Frozen ones, as the kernel beside its LoRA weights, take what the others get: on them it does nothing.
            deciding = [i for i in slot.indices if id(weights[i]) in self.wanted or weights[i].trainable]
            value = final[deciding[0]]
            alike = all(same_regularizer(final[i], value) for i in deciding)
            # The very object of the weight: what moves its strength is to be saved.
            self._in_slots.append((slot, value if alike else None))
            for i, variable in zip(slot.indices, fed, strict=True):
                if alike:
                    around.pop(id(variable), None)
                    if not same_regularizer(variable.regularizer, value):
                        self._on_variables[id(variable)] = (variable, value)
                elif i in deciding and final[i] is not None:
                    around[id(variable)] = variable
                self.kept[id(variable)] = f"{original_class(slot.layer).__name__}.{slot.attribute.lstrip('_')}"
        for i, variable in enumerate(weights):
            if i not in by_slot and id(variable) in self.wanted:
                self.kept[id(variable)] = "as it is built"
                if not same_regularizer(fixed[i], final[i]):
                    around[id(variable)] = variable
        if around or carried(unit):
            self._around.append((unit, list(around.values())))
            self.kept |= {key: f"around {original_class(unit).__name__}" for key in around}

    def _check_optimizers(self) -> None:
        for optimizer in self._optimizers():
            optimizer.check_penalties(lambda v: self._on_variables[id(v)][1] if id(v) in self._on_variables else v.regularizer)

    def _optimizers(self) -> list[Any]:
        return [o for o in proximal_optimizers(getattr(self.model, "optimizer", None)) if o.built]

    def apply(self) -> None:
        """Make it so; an error on the way leaves the model as it was."""
        undo: list[tuple[Callable, tuple]] = []
        try:
            for slot, value in self._in_slots:
                undo.append((slot.set, (slot.get(),)))
                slot.set(value)
            for variable, value in self._on_variables.values():
                undo.append((setattr, (variable, "regularizer", variable.regularizer)))
                variable.regularizer = value
            for unit, variables in self._around:
                undo.append((carry, (unit, carried(unit))))
                carry(unit, variables)
                self._check_rebuilt(unit)
        except BaseException:
            for function, arguments in reversed(undo):
                function(*arguments)
            raise
        for optimizer in self._optimizers():
            optimizer.refresh_claims()
        join(self.model.weights)
        forget_compiled_steps(self.model)

    def _check_rebuilt(self, unit: Any) -> None:
        try:
            weights = rebuilt_weights(unit)
        except ValueError as error:
            raise _would_not_last([f"{unit.name!r} ({original_class(unit).__name__}): {error}"]) from None
        lost = [a.path for a, b in zip(unit.weights, weights, strict=True) if not same_regularizer(a.regularizer, b.regularizer)]
        if lost and not set(lost).isdisjoint(v.path for v, _ in self._on_variables.values()):
            raise _would_not_last(lost)


def own_copy(regularizer: Any) -> Any:
    """Another of the same config: what moves the strength of one must not move the other's."""
    return regularizer.__class__.from_config(regularizer.get_config())


def is_claimed(regularizer: Any) -> bool:
    """Whether an optimizer applies its prox."""
    return is_record(regularizer) and bool(regularizer.claims)


def _would_not_last(refused: list[str]) -> ValueError:
    return ValueError(
        "These would lose the change when the model is saved or cloned, so that nothing was changed: "
        f"{'; '.join(refused)}. Give such a class a `get_config` from which Keras can build it anew, leave it out with `exclude=`, or "
        "accept the loss with `lasting=False`."
    )
