"""Penalties on groups of weights, which live or die together."""

import copy
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_reg import ops as maps
from keras_reg._loading import regularizer_from
from keras_reg._registration import register
from keras_reg._validation import axes, boolean, floating_tensor, non_negative, shown, step_size
from keras_reg.backend import scaled
from keras_reg.ops.dtypes import at_least, magnitude, widen
from keras_reg.ops.groups import group_axes, group_size
from keras_reg.regularizers.arguments import largest_magnitude, pair
from keras_reg.regularizers.convex import L1
from keras_reg.regularizers.entrywise import prox_is_ours
from keras_reg.regularizers.hoyer import HoyerSquare
from keras_reg.regularizers.penalty import Penalty


class GroupPenalty(Penalty):
    """What all group penalties share: the axis that indexes the groups, and the weight of a group."""

    def __init__(self, axis: int | tuple[int, ...], size_weights: bool, proximal: bool):
        super().__init__(proximal)
        self.axis = axes(axis, "axis")
        self.size_weights = boolean(size_weights, "size_weights")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        group_axes(self.axis, len(shape))

    def stacked(self) -> Penalty | None:
        if not prox_is_ours(self):
            return None
        own = (self.axis,) if isinstance(self.axis, int) else self.axis
        several = copy.copy(self)
        several.axis = (0, *(axis if axis < 0 else axis + 1 for axis in own))
        return several

    def group_weight(self, w: Any) -> Any:
        """The square root of the number of weights in a group, or 1."""
        if not self.size_weights:
            return 1.0
        size = group_size(w, self.axis)
        # The batch axis of activations may have no static size.
        return math.sqrt(size or 1) if isinstance(size, int) else ops.sqrt(ops.cast(size, w.dtype))

    def support(self, w: Any) -> Any:
        w = floating_tensor(w, "w")
        _, inside = group_axes(self.axis, len(w.shape))
        alive = ops.not_equal(w, 0)
        kept = ops.any(alive, axis=inside, keepdims=True) if inside else alive
        return ops.broadcast_to(kept, w.shape)

    def get_config(self) -> dict:
        axis = list(self.axis) if isinstance(self.axis, tuple) else self.axis
        return {"axis": axis, "size_weights": self.size_weights, **super().get_config()}

    def _step_kind(self, step: Any, w: Any) -> str:
        """Whether there is one step in all, one per group, or one per weight."""
        shape = tuple(getattr(step, "shape", ()))
        if not shape:
            return "scalar"
        shape = (1,) * (len(w.shape) - len(shape)) + shape
        _, inside = group_axes(self.axis, len(w.shape))
        return "group" if all(shape[axis] == 1 for axis in inside) else "weight"


@register
class Grouped(GroupPenalty):
    """A penalty applied to the norms of groups: whole neurons, filters, channels or inputs are kept or dropped.

    With `p` weights in a group of norm `n`, the penalty is `p * phi(n / sqrt(p))` where `phi` is what `penalty`
    is for one weight: as if all in the group had the same magnitude. For `L1` that is `strength * sqrt(p) * n`, the
    group lasso; for `MCP` and `SCAD` it is the group MCP and group SCAD of strength `strength * sqrt(p)`; for `L0` it counts
    the weights in non-zero groups. With `size_weights=False` it is `phi(n)`.

    Args:
        penalty: A penalty of the magnitudes alone (`L1`, `L0`, `MCP`, `SCAD`, `Lq`, `HoyerSquare`, …: `penalty.radial` is true).
        axis: The axis (or axes) that *index* the groups, as in `BatchNormalization`: on a `Dense` kernel `(inputs, units)`, `-1`
            is one group per unit and `-2` one per input; on a convolution's kernel `-1` is one group per filter and `-2` one per
            input channel; on a depthwise kernel `(-2, -1)` is one group per filter. An axis that the weights lack is an error
            when the layer is built.
        size_weights: Whether the size of a group counts, as above. Defaults to `True`.
        proximal: See `Penalty`; also true where `penalty.proximal` is.

    Example:

    >>> from keras_reg.regularizers import MCP, Grouped
    >>> penalty = Grouped(MCP(1.0, gamma=3.0), axis=-1, size_weights=False)
    >>> float(penalty([[3.0, 0.0], [4.0, 0.0]]))
    1.5

    Reference: [Breheny and Huang, 2015](https://doi.org/10.1007/s11222-013-9424-2).
    """

    strength_names = ("penalty",)

    def __init__(self, penalty: Penalty, axis: int | tuple[int, ...] = -1, size_weights: bool = True, proximal: bool = False):
        if isinstance(penalty, dict):
            penalty = regularizer_from(penalty, "penalty")
        if not isinstance(penalty, Penalty) or not penalty.radial:
            raise TypeError(
                f"Argument `penalty` must be a penalty of the magnitudes alone, such as L1 or MCP. Received: penalty={shown(penalty)}"
            )
        super().__init__(axis, size_weights, boolean(proximal, "proximal") or penalty.proximal)
        self.penalty = penalty
        # A penalty that has no prox refuses here, by its own name.
        if self.proximal and not penalty.proximal:
            type(penalty).from_config({**penalty.get_config(), "proximal": True})

    @property
    def convex(self) -> bool:
        return self.penalty.convex

    @property
    def strength(self) -> float:
        return self.penalty.strength

    def with_strength(self, strength: float) -> "Grouped":
        return Grouped(self.penalty.with_strength(strength), self.axis, self.size_weights, self.proximal)

    def at_strength(self, strength: Any) -> "Grouped":
        moved = copy.copy(self)
        moved.penalty = self.penalty.at_strength(strength)
        return moved

    def stacked(self) -> Penalty | None:
        return None if self.penalty.stacked() is None else super().stacked()

    def value(self, w: Any) -> Any:
        weight = self.group_weight(w)
        norm = maps.group_norm(w, self.axis)
        if isinstance(self.penalty, L1):
            return self.penalty.l1 * weight * ops.sum(norm)
        return self.penalty.value(norm / weight) * self._multiplier(weight)

    def prox(self, w: Any, step: Any) -> Any:
        step = step_size(step, w)
        w, dtype = widen(w, "w")
        self.check_shape(w.shape)
        weight = self.group_weight(w)
        kind = self._step_kind(step, w)
        if isinstance(self.penalty, L1):
            threshold = self.penalty.l1 * weight
            if kind == "weight":
                return ops.cast(maps.weighted_block_soft_threshold(w, step, threshold, self.axis), dtype)
            return ops.cast(maps.block_soft_threshold(w, step * threshold, self.axis), dtype)
        if kind == "weight":
            raise NotImplementedError(
                f"{self!r} has no exact prox with a step for each weight: give one step, or one for each group "
                "(of a shape that broadcasts to the weights, with size 1 along the axes inside a group)."
            )
        norm = maps.group_norm(w, self.axis, keepdims=True)
        shrunk = self.penalty.prox(norm / weight, step) * weight
        # A zero group stays as it is, and so does one whose norm overflows.
        share = ops.where((norm > 0) & ops.isfinite(norm), shrunk / norm, ops.ones_like(norm))
        return ops.cast(scaled(w, share, share), dtype)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        self.check_shape(w.shape)
        weight = self.group_weight(w)
        norm = maps.group_norm(w, self.axis, keepdims=True)
        _, inside = group_axes(self.axis, len(w.shape))
        dead = ops.equal(norm, 0)
        direction = w / ops.where(dead, ops.ones_like(norm), norm)
        along = ops.sum(grad * direction, axis=inside, keepdims=True) if inside else grad * direction
        across = maps.group_norm(grad - along * direction, self.axis)
        along = ops.where(dead, maps.group_norm(grad, self.axis, keepdims=True), along)
        along, norm, dead = (ops.squeeze(t, axis=inside) if inside else t for t in (along, norm, dead))
        multiplier = self._multiplier(weight)
        radial = self.penalty.subdiff_distance(norm / weight, along * (weight / multiplier)) * (multiplier / weight)
        return ops.sqrt(ops.square(radial) + ops.where(dead, ops.zeros_like(across), ops.square(across)))

    def strength_max(self, grad_at_zero: Any) -> float:
        grad = floating_tensor(grad_at_zero, "grad_at_zero")
        self.check_shape(grad.shape)
        return self.penalty.strength_max(maps.group_norm(grad, self.axis) / self.group_weight(grad))

    def _multiplier(self, weight: Any) -> Any:
        """What multiplies the inner penalty: the number of weights in a group, or 1."""
        return weight**2

    def get_config(self) -> dict:
        return {"penalty": keras.saving.serialize_keras_object(self.penalty), **super().get_config()}


@register
class GroupLasso(Grouped):
    """`strength * sum_g sqrt(p_g) * ||w_g||`, with `p_g` the number of weights in group `g`: groups become zero as a whole.

    Between groups it works as L1 does between weights; inside a surviving group it shrinks along the group's direction.

    Args:
        strength: Non-negative strength, in units of loss per unit of weight.
        axis: The axis (or axes) that index the groups; see `Grouped`. Defaults to -1: units, filters.
        size_weights: Whether the norm of a group counts times the square root of its size, so that large and small groups are equally
            likely to go. Defaults to `True`; `False` for the plain sum of norms.
        proximal: See `Penalty`.

    Example:

    >>> from keras_reg.regularizers import GroupLasso
    >>> penalty = GroupLasso(0.5, axis=-1, size_weights=False)
    >>> float(penalty([[3.0, 0.0], [4.0, 0.0]]))
    2.5

    Reference: [Yuan and Lin, 2006](https://doi.org/10.1111/j.1467-9868.2005.00532.x).
    """

    strength_names = ("strength",)

    def __init__(self, strength: float, axis: int | tuple[int, ...] = -1, size_weights: bool = True, proximal: bool = False):
        super().__init__(L1(non_negative(strength, "strength")), axis, size_weights, proximal)

    def with_strength(self, strength: float) -> "GroupLasso":
        return Penalty.with_strength(self, strength)

    def get_config(self) -> dict:
        return {"strength": self.strength, **GroupPenalty.get_config(self)}


@register
class SparseGroupLasso(GroupPenalty):
    """`l1 * sum(|w|) + group * sum_g sqrt(p_g) * ||w_g||`: whole groups go, and single weights within those that stay.

    Args:
        l1: Non-negative strength of the single weights.
        group: Non-negative strength of the groups.
        axis: The axis (or axes) that index the groups; see `Grouped`.
        size_weights: Whether the norm of a group counts times the square root of its size; see `GroupLasso`.
        proximal: See `Penalty`.

    `strength` is `l1 + group`; `with_strength` and `strength_max` keep the ratio of the two.

    Example:

    >>> from keras_reg.regularizers import SparseGroupLasso
    >>> float(SparseGroupLasso(1.0, 0.5, size_weights=False)([[3.0, 0.0], [4.0, 0.0]]))
    9.5

    Reference: [Simon, Friedman, Hastie and Tibshirani, 2013](https://doi.org/10.1080/10618600.2012.681250).
    """

    convex = True
    strength_names = ("l1", "group")

    def __init__(self, l1: float, group: float, axis: int | tuple[int, ...] = -1, size_weights: bool = True, proximal: bool = False):
        super().__init__(axis, size_weights, proximal)
        self.l1 = non_negative(l1, "l1")
        self.group = non_negative(group, "group")

    @property
    def strength(self) -> float:
        return self.l1 + self.group

    def value(self, w: Any) -> Any:
        norms = ops.sum(maps.group_norm(w, self.axis))
        return self.l1 * ops.sum(magnitude(w)) + self.group * self.group_weight(w) * norms

    def prox(self, w: Any, step: Any) -> Any:
        step = step_size(step, w)
        w, dtype = widen(w, "w")
        self.check_shape(w.shape)
        threshold = self.group * self.group_weight(w)
        soft = maps.soft_threshold(w, step * self.l1)
        if self._step_kind(step, w) == "weight":
            return ops.cast(maps.weighted_block_soft_threshold(soft, step, threshold, self.axis), dtype)
        return ops.cast(maps.block_soft_threshold(soft, step * threshold, self.axis), dtype)

    def support(self, w: Any) -> Any:
        return Penalty.support(self, w)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        w, grad = pair(w, grad)
        self.check_shape(w.shape)
        group = self.group * self.group_weight(w)
        norm = maps.group_norm(w, self.axis, keepdims=True)
        direction = w / ops.where(ops.equal(norm, 0), ops.ones_like(norm), norm)
        soft = maps.soft_threshold(grad, self.l1)
        dead = at_least(maps.group_norm(soft, self.axis) - group, 0.0)
        alive = maps.group_norm(ops.where(ops.equal(w, 0), soft, grad + self.l1 * ops.sign(w) + group * direction), self.axis)
        return ops.where(ops.equal(maps.group_norm(w, self.axis), 0), dead, alive)

    def strength_max(self, grad_at_zero: Any) -> float:
        largest_magnitude(grad_at_zero)
        unit = self.with_strength(1.0)
        grad = np.abs(ops.convert_to_numpy(widen(grad_at_zero, "grad_at_zero")[0]).astype("float64"))
        index, _ = group_axes(self.axis, grad.ndim)
        groups = np.moveaxis(grad, index, range(len(index))).reshape(-1, group_size(grad, self.axis))
        group = unit.group * self.group_weight(grad)
        low = np.zeros(len(groups))
        high = np.sum(groups, axis=1) / max(unit.l1, group)
        # The norm of the soft-thresholded group falls in the strength, what it is weighed against rises: one root.
        for _ in range(200):
            middle = (low + high) / 2
            outside = np.linalg.norm(np.maximum(groups - unit.l1 * middle[:, None], 0), axis=1) > group * middle
            low, high = np.where(outside, middle, low), np.where(outside, high, middle)
        return float(np.max(high))

    def get_config(self) -> dict:
        return {"l1": self.l1, "group": self.group, **super().get_config()}


@register
class GroupHoyerSquare(Grouped):
    """`strength * (sum_g ||w_g||)**2 / sum_g ||w_g||**2`: few groups carry the norm; scale-invariant.

    Between `strength` (one non-zero group) and `strength` times the number of groups. It has no closed-form prox, so
    `proximal=True` is refused.

    Args:
        strength: Non-negative strength, in units of loss.
        axis: The axis (or axes) that index the groups; see `Grouped`.
        proximal: `False`.

    Example:

    >>> from keras_reg.regularizers import GroupHoyerSquare
    >>> round(float(GroupHoyerSquare(1.0, axis=-1)([[3.0, 0.0], [4.0, 5.0]])), 5)
    2.0

    Reference: [Yang, Wen and Li, 2020 (DeepHoyer)](https://arxiv.org/abs/1908.09979).
    """

    strength_names = ("strength",)

    def __init__(self, strength: float, axis: int | tuple[int, ...] = -1, proximal: bool = False):
        super().__init__(HoyerSquare(strength), axis, size_weights=False)
        if boolean(proximal, "proximal"):
            raise ValueError("Argument `proximal` must be False for GroupHoyerSquare, which has no prox. Received: proximal=True")

    def with_strength(self, strength: float) -> "GroupHoyerSquare":
        return Penalty.with_strength(self, strength)

    def get_config(self) -> dict:
        config = GroupPenalty.get_config(self)
        return {"strength": self.strength, "axis": config["axis"], "proximal": self.proximal}
