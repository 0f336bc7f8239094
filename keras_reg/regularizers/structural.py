"""A group lasso whose groups reach over several weights: all that has to go for a unit of the model to leave."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_reg._registration import register
from keras_reg._validation import floating_tensor, items, non_negative, one_of, step_size
from keras_reg.backend import scaled
from keras_reg.ops.dtypes import at_least, like, tiny, widen
from keras_reg.ops.groups import norm_left, share_left
from keras_reg.regularizers.arguments import largest_magnitude, pair
from keras_reg.regularizers.part import Part
from keras_reg.regularizers.penalty import Penalty

COSTS = ("parameters", "macs")


@register
class StructuralGroupLasso(Part, Penalty):
    """`strength * sum_g weight_g * ||w_g||`, where group `g` holds the entries of several weights that have to be zero for a unit to leave.

    `keras_reg.models.attach(model, StructuralGroupLasso(strength))` finds the groups in the graph of the model (`structural_groups`) and
    gives each of its weights a part of the penalty: a filter, its bias, the scale and shift of its batch normalization, and those of all
    others that are added to it in a residual sum. Under `Proximal` groups become zero as a whole, and `compact` takes their units out.

    A group of `p` weights has the weight `√p`, or with a cost `√p·c/mean(c)`: units whose leaving frees more weigh more.

    The prox acts on all parts at once. Where `Proximal` does not act, and in `value` and `prox`, which see one weight alone, each weight's
    share of a group counts as a group.

    Args:
        strength: Non-negative strength, in units of loss per unit of weight.
        cost: `None`, or what the leaving of a unit frees: `"parameters"` or `"macs"`.
        structure, axis, groups, weights, part: Set by `attach`. The name that parts of the same groups share; the axis (or axes that follow
            one another) whose entries belong to groups; for each entry along it the number of its group, -1 for none (`None`: the numbers
            from 0); the weights of these groups, one for all or one for each entry; and the number of this part.
        proximal: As in `Penalty`, but `True` by default.

    Example:

    >>> import keras
    >>> from keras_reg.models import attach
    >>> from keras_reg.regularizers import StructuralGroupLasso
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="output")])
    >>> len(attach(model, StructuralGroupLasso(1e-3)).rows)
    2
    """

    convex = True

    def __init__(
        self,
        strength: float,
        cost: str | None = None,
        structure: str | None = None,
        axis: int | tuple[int, ...] = -1,
        groups: Sequence[int] | None = None,
        weights: float | Sequence[float] = 1.0,
        proximal: bool = True,
        part: int | None = None,
    ):
        super().__init__(proximal)
        self.strength = non_negative(strength, "strength")
        self.cost = None if cost is None else one_of(cost, COSTS, "cost")
        self.place(structure, part, axis, groups)
        several = isinstance(weights, (list, tuple, np.ndarray))
        self.weights = [non_negative(w, "weights") for w in items(weights, "weights")] if several else non_negative(weights, "weights")
        if several and groups is not None and len(self.weights) != len(self.groups):
            raise ValueError(
                f"Argument `weights` must have one number for each of the {len(self.groups)} `groups`, or be one for all. "
                f"Received: {len(self.weights)} weights"
            )

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        if isinstance(self.weights, list) and len(self.weights) != self.length(shape):
            raise ValueError(f"It was made for {len(self.weights)} entries along axis {self.axis}, and there are {self.length(shape)}.")

    def group_weights(self, number: int) -> np.ndarray:
        """The weight of each entry's group."""
        return np.broadcast_to(np.asarray(self.weights, "float64"), (number,))

    def value(self, w: Any) -> Any:
        return self.strength * Groups.of([(self, w.shape)]).total([w])

    def joint_total(self, parts: Sequence["StructuralGroupLasso"], tensors: Sequence[Any]) -> Any:
        """The penalty of all weights that have a part in the structure together, at the strength of this part."""
        return self.strength * Groups.of([(part, w.shape) for part, w in zip(parts, tensors, strict=True)]).total(list(tensors))

    def prox(self, w: Any, step: Any) -> Any:
        step = step_size(step, w)
        w, dtype = widen(w, "w")
        return ops.cast(Groups.of([(self, w.shape)]).prox([w], [step], self.strength)[0], dtype)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        groups = Groups.of([(self, w.shape)])
        norms = groups.norms([w])
        dead = ops.equal(norms, 0)
        shift = self.strength * ops.cast(groups.weights, w.dtype)
        # Where a group lives, the gradient of its norm is its direction.
        direction = w * self.spread(shift / ops.where(dead, ops.ones_like(norms), norms), w.shape)
        at_zero = at_least(groups.norms([grad]) - shift, 0.0)
        return ops.where(dead, at_zero, groups.norms([grad + direction]))

    def support(self, w: Any) -> Any:
        w, _ = widen(floating_tensor(w, "w"))
        alive = Groups.of([(self, w.shape)]).norms([w]) > 0
        outside = ops.equal(self.spread(ops.ones_like(ops.cast(alive, w.dtype)), w.shape), 0)
        kept = ops.logical_or(self.spread(ops.cast(alive, w.dtype), w.shape) > 0, outside)
        return ops.broadcast_to(kept, w.shape)

    def strength_max(self, grad_at_zero: Any) -> float:
        grad, _ = widen(floating_tensor(grad_at_zero, "grad_at_zero"))
        groups = Groups.of([(self, grad.shape)])
        return largest_magnitude(groups.norms([grad]) / ops.cast(groups.weights, grad.dtype))

    def get_config(self) -> dict:
        return {
            "strength": self.strength,
            "cost": self.cost,
            **self.place_config(),
            "weights": self.weights,
            **super().get_config(),
        }

    def __repr__(self) -> str:
        part = "" if self.structure is None else f", structure={self.structure!r}, axis={self.axis}"
        return f"{type(self).__name__}({self.strength!r}{'' if self.cost is None else f', cost={self.cost!r}'}{part})"


def cut(parts: list[tuple[StructuralGroupLasso, np.ndarray]]) -> list[StructuralGroupLasso]:
    """The parts of structures for what is left of their weights, of which masks say which entries along the axis stay."""
    numbers = [(np.arange(len(mask)) if part.groups is None else np.array(part.groups))[mask] for part, mask in parts]
    left: dict[str, np.ndarray] = {}
    for (part, _), own in zip(parts, numbers, strict=True):
        left[part.structure] = np.union1d(left.get(part.structure, []), own[own >= 0])
    made = []
    for (part, mask), own in zip(parts, numbers, strict=True):
        renumbered = np.where(own < 0, -1, np.searchsorted(left[part.structure], own))
        weights = part.weights if isinstance(part.weights, float) else np.array(part.weights)[mask].tolist()
        groups = None if np.array_equal(renumbered, np.arange(len(own))) else renumbered.tolist()
        made.append(part.__class__.from_config({**part.get_config(), "groups": groups, "weights": weights}))
    return made


class Groups:
    """The groups of a structure, over all the weights that have a part in it.

    Args:
        parts: The penalty of each weight.
        weights: The weight of each group.
    """

    def __init__(self, parts: list[StructuralGroupLasso], weights: np.ndarray):
        self.parts = parts
        self.weights = weights

    @classmethod
    def of(cls, parts: list[tuple[StructuralGroupLasso, tuple[int, ...]]]) -> "Groups":
        """For penalties and the shapes of their weights."""
        numbers = [penalty.numbers(tuple(shape)) for penalty, shape in parts]
        weights = np.zeros(max((int(own.max()) for own in numbers if own.size), default=-1) + 1)
        for (penalty, _), own in zip(parts, numbers, strict=True):
            weights[own[own >= 0]] = penalty.group_weights(len(own))[own >= 0]
        return cls([penalty for penalty, _ in parts], weights)

    def sums(self, tensors: list[Any]) -> Any:
        """The sum over each group."""
        collected = [part.collect(values, len(self.weights)) for part, values in zip(self.parts, tensors, strict=True)]
        return functools.reduce(operator.add, collected)

    def spread(self, values: Any, tensors: list[Any], otherwise: float = 0.0) -> list[Any]:
        """What each group has, at its entries."""
        return [part.spread(values, tuple(w.shape), otherwise) for part, w in zip(self.parts, tensors, strict=True)]

    def norms(self, tensors: list[Any]) -> Any:
        """The norm of each group, with gradient 0 at a zero group."""
        squares = self.sums([ops.square(w) for w in tensors])
        zero = ops.equal(squares, 0)
        return ops.where(zero, ops.zeros_like(squares), ops.sqrt(ops.where(zero, ops.ones_like(squares), squares)))

    def total(self, tensors: list[Any]) -> Any:
        """The sum of weights times norms."""
        return ops.sum(self.norms(tensors) * ops.cast(self.weights, tensors[0].dtype))

    def prox(self, tensors: list[Any], steps: list[Any], strength: Any) -> list[Any]:
        """The block soft threshold of all tensors together, with a step for each of them, or for each of their entries."""
        norms = self.norms(tensors)
        threshold = like(norms, strength) * like(norms, self.weights)
        if all(len(getattr(step, "shape", ())) == 0 for step in steps):
            shares = self.spread(share_left(norms, like(norms, steps[0]) * threshold), tensors, otherwise=1.0)
            return [scaled(w, share, share) for w, share in zip(tensors, shares, strict=True)]
        return self._weighted_prox(tensors, steps, threshold, norms)

    def _weighted_prox(self, tensors: list[Any], steps: list[Any], threshold: Any, norms: Any) -> list[Any]:
        """As `keras_reg.ops.weighted_block_soft_threshold`."""
        # Never 0, which would be 0/0 at a weight of 0.
        shares = self.spread(threshold, tensors)
        shifts = [like(w, step) * share + tiny(w) for w, step, share in zip(tensors, steps, shares, strict=True)]

        def size_and_slope(root):
            offsets = [one + shift for one, shift in zip(self.spread(root, tensors, otherwise=1.0), shifts, strict=True)]
            squares = [ops.square(w / offset) for w, offset in zip(tensors, offsets, strict=True)]
            slopes = [square / offset for square, offset in zip(squares, offsets, strict=True)]
            return ops.sqrt(self.sums(squares)), self.sums(slopes)

        at_zero = ops.sqrt(self.sums([ops.square(w / shift) for w, shift in zip(tensors, shifts, strict=True)]))
        root = norm_left(norms, at_zero, size_and_slope)
        # Entries without a group have no shift, and stay.
        alive = self.spread(root, tensors, otherwise=1.0)
        return [scaled(w, one / (one + shift), one) for w, one, shift in zip(tensors, alive, shifts, strict=True)]
