"""The moved strengths of a `Proximal` optimizer in files: stored under their weights, so that what fits is restored and the rest is said.

What has not been moved is in the config of the layers alone, and so is as configured wherever weights are loaded.
"""

import json
import re
import warnings
from typing import Any

import numpy as np

from keras_reg._keras import KerasSaveable
from keras_reg.binding import move


class StrengthFile(KerasSaveable):
    """What Keras saves and loads beside the inner optimizer, as an attribute of a `Proximal`.

    The optimizer itself has nothing in a file: an optimizer of another kind that is handed the file skips it with Keras's own warning.
    """

    name = "strength_file"

    def __init__(self, optimizer: Any):
        self._of = _Holder(optimizer)

    def _obj_type(self) -> str:
        return "Loss"  # Keras knows a few kinds; what it leaves out of this one does not matter

    def save_own_variables(self, store: Any) -> None:
        rows = [[v.path, list(v.shape), v.regularizer.strength] for v in self._of.optimizer.claimed if v.regularizer.has_moved]
        if not rows and self._of.waiting:
            rows = self._of.waiting  # loaded and not yet used
        store["strengths"] = np.frombuffer(json.dumps(rows).encode(), "uint8")

    def load_own_variables(self, store: Any) -> None:
        if "strengths" in store.keys():  # noqa: SIM118
            self._of.waiting = json.loads(np.asarray(store["strengths"]).astype("uint8").tobytes().decode())
            self.restore()

    def load_other(self, store: Any) -> None:
        """What stands in a file at the place of the optimizer: the state of a bare one, or the strengths of an earlier version of this."""
        if not len(store.keys()):
            return
        optimizer, first = self._of.optimizer, np.asarray(store["0"]) if "0" in store.keys() else None  # noqa: SIM118
        if first is not None and first.dtype.kind in "iu":  # the number of iterations comes first
            _load_bare(optimizer, store)
            return
        claimed = optimizer.claimed
        if len(claimed) == len(store.keys()):
            move([(variable, float(np.asarray(store[str(index)]))) for index, variable in enumerate(claimed)])
        else:
            warnings.warn(
                f"The saved strengths do not fit {optimizer.name!r}, which has {len(claimed)} penalised variables, and the file "
                f"{len(store.keys())}: those configured stay.",
                stacklevel=2,
            )

    def restore(self) -> None:
        """Set the strengths that were loaded, as soon as the optimizer is built."""
        optimizer, rows = self._of.optimizer, self._of.waiting
        if not optimizer.built or rows is None:
            return
        self._of.waiting = None
        found, others, unknown = _matched(optimizer.claimed, rows)
        move(found)
        # What had not been moved is as it was configured.
        move([(variable, variable.regularizer.configured.strength) for variable in others if variable.regularizer.has_moved])
        if unknown:
            warnings.warn(
                f"Not all saved strengths fit {optimizer.name!r}: there is no penalised variable here for {', '.join(unknown)}. "
                "Strengths that were not restored are as configured.",
                stacklevel=2,
            )


class _Holder:
    """Out of sight of what walks over attributes to save them."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        self.waiting: list[list] | None = None


def _matched(variables: list[Any], rows: list[list]) -> tuple[list[tuple[Any, float]], list[Any], list[str]]:
    """Variables with their strengths; those that nothing was saved of; the paths of the saved that fit none.

    By shape and path, or else by the end of it, as the name of the model leads a path or not; or else by the names of layer and weight
    without the numbers that Keras gives to layers without names, in order.
    """
    found, left, saved = [], list(variables), list(rows)
    for parts, number in ((0, "$"), (-2, "$"), (-2, r"_\d+$")):

        def key(path, shape, parts=parts, number=number):
            return tuple(re.sub(number, "", part) for part in path.split("/")[parts:]), tuple(shape)

        for one in {key(v.path, v.shape) for v in left}:
            here = [v for v in left if key(v.path, v.shape) == one]
            there = [row for row in saved if key(*row[:2]) == one]
            if len(here) == len(there):
                found += [(v, row[2]) for v, row in zip(here, there, strict=True)]
                saved = [row for row in saved if not any(row is other for other in there)]
                left = [v for v in left if not any(v is other for other in here)]
    return found, left, [row[0] for row in saved]


def _load_bare(optimizer: Any, store: Any) -> None:
    inner, past = optimizer.inner_optimizer, optimizer._past
    own = len(inner.variables)
    if past is not None and len(store.keys()) == own - 1:
        # A bare optimizer does not add up its learning rates.
        store = {**{key: store[key] for key in store.keys()}, str(own - 1): np.zeros((), past.dtype)}  # noqa: SIM118
    inner.load_own_variables(store)

    def once(store):
        del vars(inner)["load_own_variables"]
        if len(store.keys()):
            inner.load_own_variables(store)

    # Keras goes on to the inner optimizer, of which such a file has nothing.
    vars(inner)["load_own_variables"] = once
