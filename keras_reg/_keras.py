"""What is not public in Keras and needed all the same, each in this place alone; checked against Keras 3.12 to 3.15."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

try:
    from keras.src.backend import get_keras_mask, set_keras_mask
    from keras.src.backend.common import global_state
    from keras.src.saving.keras_saveable import KerasSaveable as KerasSaveable
except ImportError as error:  # pragma: no cover - a Keras to come
    raise ImportError(f"keras_reg needs what this version of Keras has not: {error}") from error


def unlocked(layer: Any) -> Any:
    """The tracker of a layer, which takes no new state once the layer is built, for a `with` in which it does."""
    return _Unlocked(layer._tracker)


@contextlib.contextmanager
def names_kept() -> Iterator[None]:
    """Have the numbers in automatic names (`dense_2`) go on afterwards as if nothing had been made in the `with`."""
    before = dict(global_state.get_global_attribute(_NAMES) or {})
    try:
        yield
    finally:
        global_state.set_global_attribute(_NAMES, collections.defaultdict(int, before))


_NAMES = "object_name_uids"


class _Unlocked:
    def __init__(self, tracker: Any):
        self.tracker = tracker

    def __enter__(self) -> None:
        self.locked = self.tracker.locked
        self.tracker.unlock()

    def __exit__(self, *_: Any) -> None:
        if self.locked:
            self.tracker.lock()


def origin(symbol: Any) -> tuple[Any, list, int]:
    """What a symbol of a functional model comes from: the layer or operation, what went in, and the place among what came out."""
    operation, node, place = symbol._keras_history
    return operation, operation._inbound_nodes[node].input_tensors, place


def mask_of(tensor: Any) -> Any:
    """The mask that a Keras layer gave to its outputs, or `None`."""
    return get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Give a tensor a mask, as a layer does; tracers of JAX take no attribute of their own."""
    set_keras_mask(tensor, mask)
