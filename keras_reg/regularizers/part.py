"""A weight's part in a structure: which of its entries belong to which groups that reach over several weights."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_reg._validation import axes, items, received, whole_number
from keras_reg.ops.groups import group_axes


class Part:
    """What penalties and constraints on structures share.

    Attributes:
        structure: The name that parts of the same groups share; `None` where the groups are not known yet.
        part: The number of the part in its structure; `None` where a config does not say it.
        axis: The axis (or axes that follow one another) whose entries belong to groups.
        groups: For each entry along it the number of its group, -1 for none; `None` for the numbers from `first`.
        first: Where `groups` start that are not listed.
    """

    structure: str | None = None
    part: int | None = None
    axis: int | tuple[int, ...] = -1
    groups: list[int] | None = None
    first: int = 0

    def place(self, structure: Any, part: Any, axis: Any, groups: Sequence[int] | None) -> None:
        """Take the arguments that say where the part is."""
        if not isinstance(structure, (str, type(None))):
            raise TypeError(f"Argument `structure` must be a name or None. {received(structure, 'structure')}")
        self.structure = structure
        self.part = None if part is None else whole_number(part, "part", at_least=0)
        self.axis = axes(axis, "axis")
        if isinstance(self.axis, tuple) and any(b - a != 1 for a, b in itertools.pairwise(self.axis)):
            raise ValueError(f"Argument `axis` must hold axes that follow one another. {received(axis, 'axis')}")
        self.groups = None if groups is None else [whole_number(group, "groups", at_least=-1) for group in items(groups, "groups")]

    def place_config(self) -> dict:
        axis = list(self.axis) if isinstance(self.axis, tuple) else self.axis
        return {"structure": self.structure, "part": self.part, "axis": axis, "groups": self.groups}

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if self.structure is None:
            raise ValueError("Its groups are not known yet: give it to a model by `keras_reg.models.attach(model, penalty)`.")
        group_axes(self.axis, len(shape))  # an axis that is not there
        if self.groups is not None and len(self.groups) != self.length(shape):
            raise ValueError(f"It was made for {len(self.groups)} entries along axis {self.axis}, and there are {self.length(shape)}.")

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        """For each entry along the axis the number of its group; -1 for none."""
        if self.groups is not None:
            return np.array(self.groups)
        return self.first + np.arange(self.length(shape))

    def length(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[axis] for axis in self._axes(len(shape)))

    def collect(self, values: Any, number: int) -> Any:
        """For each of so many groups the sum of its entries here."""
        collected = ops.sum(ops.reshape(values, self.flat_shape(values.shape)), axis=(0, 2))
        numbers = self.numbers(values.shape)
        if np.array_equal(numbers, np.arange(number)):
            return collected
        # Entries without a group go to one more, which is dropped.
        segments = ops.convert_to_tensor(np.where(numbers < 0, number, numbers).astype("int32"))
        return ops.segment_sum(collected, segments, num_segments=number + 1)[:number]

    def spread(self, values: Any, shape: tuple[int, ...], otherwise: float = 0.0) -> Any:
        """What each group has, at its entries here, in a shape that broadcasts to the weights."""
        numbers, number = self.numbers(shape), int(values.shape[0])
        if not np.array_equal(numbers, np.arange(number)):
            padded = ops.concatenate([values, ops.zeros((1,), values.dtype) + otherwise])
            values = ops.take(padded, ops.convert_to_tensor(np.where(numbers < 0, number, numbers).astype("int32")))
        axes = self._axes(len(shape))
        return ops.reshape(values, [length if axis in axes else 1 for axis, length in enumerate(shape)])

    def flat_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        axes = self._axes(len(shape))
        parts = shape[: axes[0]], [shape[axis] for axis in axes], shape[axes[-1] + 1 :]
        # The batch axis of activations may have no static size.
        return tuple(-1 if None in tuple(part) else math.prod(part) for part in parts)

    def _axes(self, rank: int) -> list[int]:
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return [axis % rank for axis in axes]
