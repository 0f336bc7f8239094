"""Which of the two ways a proximal penalty acts: through the prox of the optimizer in charge, or through its gradient.

A penalty is called with weights and nothing else, on JAX with a tracer instead of the variable. What it needs to know comes from
two places: the claim that an optimizer with a prox leaves on each variable it is built for, and the model whose step is running.
"""

import sys
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_reg.backend import is_compiling

_READERS = frozenset({"losses", "_get_own_losses", "_get_regularization_losses"})
"""What reads the losses of a model also outside a step of its own."""


class Claim:
    """That `optimizer` applies the prox of the penalty to `variable`, for as long as it exists."""

    def __init__(self, optimizer: Any, variable: Any, strength: Any):
        self._optimizer = weakref.ref(optimizer)
        self._variable = weakref.ref(variable)
        self.strength = strength

    @property
    def holds(self) -> bool:
        return self.is_of(self._optimizer())

    def is_of(self, optimizer: Any) -> bool:
        """Whether `optimizer` applies a prox to the variable; another one may have claimed it before."""
        variable = self._variable()
        return optimizer is not None and variable is not None and optimizer.applies_prox_to(variable)


def claim_in_force(penalty: Any, w: Any) -> Claim | None:
    """The claim under which the prox will act on `w`, or `None`: then the gradient has to."""
    trainer = running_model(ignored=_READERS)
    if trainer is None:
        return penalty.claim if penalty.claim is not None and penalty.claim.holds else None
    optimizers = list(proximal_optimizers(trainer.optimizer))
    if optimizers and not trainer.optimizer.built and running_model(only="train_step") is trainer:
        # TensorFlow builds the optimizer after the loss has been traced; then it would be too late to stop a gradient.
        with keras.name_scope(trainer.optimizer.name):
            trainer.optimizer.build(trainer.trainable_variables)
    claim = getattr(w.regularizer, "claim", None) if isinstance(w, keras.Variable) else penalty.claim
    return claim if claim is not None and any(claim.is_of(optimizer) for optimizer in optimizers) else None


def awaits_its_optimizer() -> bool:
    """Whether the losses of a model are only being read that is compiled with a prox but not yet trained."""
    reader = running_model()
    return reader is not None and not reader.optimizer.built and any(proximal_optimizers(reader.optimizer))


def proximal_optimizers(optimizer: Any) -> Iterator[Any]:
    """The optimizers with a prox in a compiled one, which Keras's wrappers may hold inside."""
    if hasattr(optimizer, "applies_prox_to"):
        yield optimizer
    # Keras's wrappers: LossScaleOptimizer has one inside, MultiOptimizer several.
    elif hasattr(optimizer, "inner_optimizer"):
        yield from proximal_optimizers(optimizer.inner_optimizer)
    else:
        for inner in getattr(optimizer, "optimizers", ()):
            yield from proximal_optimizers(inner)


def running_model(ignored: frozenset = frozenset(), only: str = "") -> Any:
    """The nearest compiled model one of whose methods is running, those `ignored` apart; `None` if there is none.

    In `fit`, `train_on_batch` and the like its optimizer is the one that will be applied.
    """
    if is_compiling():  # whose compiler has no frames to look at
        return None
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        is_method = code.co_argcount and code.co_varnames[0] == "self"
        if is_method and (code.co_name == only if only else code.co_name not in ignored):
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.Model) and getattr(owner, "optimizer", None) is not None:
                return owner
        frame = frame.f_back
    return None
