"""What has become of a penalty, noted beside it: a penalty may be of the user's, and serve many weights."""

import warnings
import weakref
from typing import Any

from keras_reg.contract import is_constraint
from keras_reg.running import in_train_step, optimizers_in, readers


class Note:
    """What is known of a penalty without anything being written on it."""

    def __init__(self):
        self.flowed = False  # its gradient has joined a loss, although it is proximal
        self.warned = False  # that no optimizer applies its prox
        self.records: weakref.WeakSet = weakref.WeakSet()


_notes: dict[int, Note] = {}


def note_of(penalty: Any) -> Note:
    # By identity: a penalty of the user's may be a dataclass, which compares by value and has no hash.
    if id(penalty) not in _notes:
        _notes[id(penalty)] = Note()
        weakref.finalize(penalty, _notes.pop, id(penalty), None)
    return _notes[id(penalty)]


def let_flow(penalty: Any, models: list[Any]) -> None:
    """Note that the gradient of a proximal penalty joins a loss, and warn, once, where that is not for the time being."""
    note = note_of(penalty)
    waiting = any(not optimizer.built for model in (*models, *readers()) for optimizer in optimizers_in(model))
    if is_constraint(penalty):  # which has no gradient to flow
        if not waiting and any(in_train_step(model) for model in models):
            raise ValueError(
                f"{penalty!r} acts through `keras_reg.optimizers.Proximal` alone, and no such optimizer applies it: compile the model with "
                "`Proximal(optimizer)`, or take it off with `keras_reg.models.detach`. (On activities no constraint can act.)"
            )
        return
    note.flowed = True
    if not note.warned and not waiting:
        note.warned = True
        warnings.warn(
            f"{penalty!r} is proximal, but no optimizer applies its prox: its gradient joins the loss instead, which gives no exact "
            "zeros. Compile the model with `keras_reg.optimizers.Proximal(optimizer)` (in a loop of your own, call its `build` "
            "before the first loss), or set `proximal=False`. A prox is for weights: on activities only the gradient can act.",
            stacklevel=4,
        )
