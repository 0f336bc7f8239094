"""Several penalties on the same weights."""

import copy
import functools
import operator
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_reg import ops as maps
from keras_reg._loading import regularizer_from
from keras_reg._registration import register
from keras_reg._validation import boolean, non_negative, received, shown, step_size
from keras_reg.binding import is_record
from keras_reg.ops.dtypes import widen
from keras_reg.regularizers.arguments import pair
from keras_reg.regularizers.convex import L1, L1L2, L2
from keras_reg.regularizers.grouped import GroupLasso, SparseGroupLasso
from keras_reg.regularizers.part import Part
from keras_reg.regularizers.penalty import Penalty

OF_KERAS = {keras.regularizers.L1: L1, keras.regularizers.L2: L2, keras.regularizers.L1L2: L1L2}
REASON = "they have no prox in closed form together, only any one of them with L2, and L1 with group lassos of one axis"


@register
class Sum(Penalty):
    """The sum of several penalties, as `L1(0.1) + GroupLasso(0.01)` makes it; each acts in its own way.

    Those with `proximal=True` are one prox. It exists for any one penalty with `L2`, and for `L1` with the group lasso (of one axis);
    the prox of `f(x) + c * sum(x**2)` at step `t` is that of `f` at step `t / (1 + 2 * t * c)` and `w / (1 + 2 * t * c)`, also with a step
    for each weight. The gradients of the others join the loss.

    Args:
        penalties: Penalties of keras_reg, or Keras's `L1`, `L2` and `L1L2`. Sums among them are taken apart.
        moves: The name of the class whose strength is that of the sum, which is what `StrengthScheduler`, `TargetSparsity`, `with_strength`
            and `strength_max` are about; the others stay. `None` (default): all move by one factor, and the strength is the sum of
            theirs; in a sum with a constraint, such as `L0Constraint`, that is what moves.
        proximal: `True` for all of them; `False` (default) leaves each as it is.

    Raises:
        ValueError: where the proximal ones have no prox together.

    Example:

    >>> from keras_reg.regularizers import L2, GroupLasso
    >>> penalty = GroupLasso(0.5, size_weights=False) + L2(0.1)
    >>> float(penalty([[3.0, 0.0], [4.0, 0.0]]))
    5.0
    >>> penalty
    GroupLasso(strength=0.5, axis=-1, size_weights=False) + L2(l2=0.1)

    Reference: [Parikh and Boyd, 2014](https://doi.org/10.1561/2400000003), section 2.2;
    [Friedman, Hastie and Tibshirani, 2010](https://arxiv.org/abs/1001.0736) for L1 with groups.
    """

    strength_names = ("penalties",)

    def __init__(self, penalties: Sequence[Any], moves: str | None = None, proximal: bool = False):
        if not isinstance(penalties, (list, tuple)):
            raise TypeError(f"Argument `penalties` must be a list of penalties. Received: penalties={shown(penalties)}")
        given = [as_penalty(penalty) for penalty in penalties]
        parts = [part for penalty in given for part in parts_of(penalty)]
        inner = {penalty._given_moves for penalty in given if isinstance(penalty, Sum)} - {None}
        moves = inner.pop() if moves is None and len(inner) == 1 else moves  # as the sum within had it
        if not parts:
            raise ValueError("Argument `penalties` must have at least one penalty. Received: penalties=[]")
        if boolean(proximal, "proximal"):
            parts = [part if part.proximal else type(part).from_config({**part.get_config(), "proximal": True}) for part in parts]
        super().__init__(any(part.proximal for part in parts))
        self.penalties = parts
        if any(isinstance(part, Part) for part in parts):
            raise ValueError(
                "What reaches over several weights cannot be part of a sum: a structural penalty or constraint. For L2 beside it give the "
                f"optimizer a weight decay, as `AdamW` has. Received: penalties={parts!r}"
            )
        names = [type(part).__name__ for part in parts]
        constraints = [type(part).__name__ for part in parts if part.constraint]
        if not isinstance(moves, (str, type(None))):
            raise TypeError(f"Argument `moves` must be the name of a class or None. {received(moves, 'moves')}")
        self._given_moves = moves
        self.moves = constraints[0] if moves is None and constraints else moves
        if self.moves is not None and names.count(self.moves) != 1:
            raise ValueError(f"Argument `moves` must name one of {sorted(set(names))}, which is there once. Received: moves={moves!r}")
        if constraints and self.moves != constraints[0]:
            raise ValueError(f"Argument `moves` must be None in a sum with {constraints[0]}, whose share moves. Received: moves={moves!r}")
        if self.proximal:
            Together.of([part for part in parts if part.proximal])  # refuses what has no prox

    # Which of them are what.

    @property
    def convex(self) -> bool:
        return all(part.convex for part in self.penalties)

    @property
    def constraint(self) -> bool:
        return any(part.constraint for part in self.penalties)

    @property
    def axis(self) -> Any:
        """That of the groups that become zero as a whole, if one penalty is of groups."""
        return next((axis for part in self.penalties if (axis := getattr(part, "axis", None)) is not None), None)

    @property
    def by_prox(self) -> Penalty:
        return self._some([part for part in self.penalties if part.proximal])

    @property
    def by_gradient(self) -> Penalty | None:
        others = [part for part in self.penalties if not part.proximal]
        return self._some(others) if others else None

    def _some(self, parts: list[Penalty]) -> Penalty:
        return parts[0] if len(parts) == 1 else self._of(parts)

    def _of(self, parts: list[Penalty]) -> "Sum":
        made = copy.copy(self)
        made.penalties, made.proximal = parts, any(part.proximal for part in parts)
        return made

    # Strengths.

    @property
    def strength(self) -> float:
        return sum(part.strength for part in self.penalties if self.moves in (None, type(part).__name__))

    def with_strength(self, strength: float) -> "Sum":
        strength, total = non_negative(strength, "strength"), self.strength
        if self.moves is None and total == 0 and strength != 0:
            raise ValueError(
                f"The strengths of {self!r} are all 0, so they have no ratio to keep: build the penalty with the strengths wanted."
            )
        return self._of([self._moved(part, Penalty.with_strength, strength, total) for part in self.penalties])

    def at_strength(self, strength: Any) -> "Sum":
        total = self.strength
        return self._of([self._moved(part, Penalty.at_strength, strength, total) for part in self.penalties])

    def _moved(self, part: Penalty, how: Any, strength: Any, total: float) -> Penalty:
        set_to = getattr(part, how.__name__)
        if self.moves is None:
            return set_to(strength * (part.strength / total if total else 0.0))
        return set_to(strength) if type(part).__name__ == self.moves else part

    # The contract.

    def value(self, w: Any) -> Any:
        return functools.reduce(operator.add, [part.value(w) for part in self.penalties])

    def prox(self, w: Any, step: Any) -> Any:
        return self._together.prox(w, step_size(step, w))

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        return self._together.subdiff_distance(*pair(w, grad))

    @property
    def _together(self) -> "Together":
        try:
            return Together.of(self.penalties)
        except ValueError as error:
            raise NotImplementedError(str(error)) from None

    def strength_max(self, grad_at_zero: Any) -> float:
        own = self._together.main
        if own is None or own.strength == 0 or self.moves not in (None, type(own).__name__):
            return super().strength_max(grad_at_zero)
        return own.strength_max(grad_at_zero) * (self.strength / own.strength)

    def support(self, w: Any) -> Any:
        supports = [part.support(w) for part in self.penalties]
        return functools.reduce(ops.logical_and, supports)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        for part in self.penalties:
            part.check_shape(shape)

    def stacked(self) -> "Sum | None":
        parts = [part.stacked() for part in self.penalties]
        return None if None in parts else self._of(parts)

    def get_config(self) -> dict:
        return {
            "penalties": [keras.saving.serialize_keras_object(part) for part in self.penalties],
            "moves": self._given_moves,
            "proximal": all(part.proximal for part in self.penalties),
        }

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.penalties)) + ("" if self._given_moves is None else f" (moves {self.moves})")


class Together:
    """Penalties whose prox in one is known.

    Args:
        squares: The strength of L2 in all, a number or a tensor.
        main: What is there beside it, if anything.
    """

    def __init__(self, squares: Any, main: Penalty | None):
        self.squares, self.main = squares, main

    @classmethod
    def of(cls, parts: list[Penalty]) -> "Together":
        magnitudes, squares, groups, others = [], [], {}, []
        for part in parts:
            kind = type(part)
            if kind in (L1, L1L2, SparseGroupLasso):
                magnitudes.append(part.l1)
            if kind in (L2, L1L2):
                squares.append(part.l2)
            elif kind in (GroupLasso, SparseGroupLasso):
                groups.setdefault((part.axis, part.size_weights), []).append(part.strength if kind is GroupLasso else part.group)
            elif kind is not L1:
                others.append(part)
        if len(others) + len(groups) > 1 or (others and magnitudes) or (others and others[0].constraint and squares):
            raise ValueError(f"The penalties {' + '.join(map(repr, parts))} cannot be applied by one prox: {REASON}.")
        if others:
            main = others[0]
        elif groups:
            (axis, size_weights), strengths = next(iter(groups.items()))
            main = SparseGroupLasso(1.0, 1.0, axis, size_weights) if magnitudes else GroupLasso(1.0, axis, size_weights)
            if magnitudes:
                main.l1, main.group = sum(magnitudes), sum(strengths)
            else:
                main = main.at_strength(sum(strengths))
        else:
            main = L1(1.0).at_strength(sum(magnitudes)) if magnitudes else None
        return cls(sum(squares), main)

    def prox(self, w: Any, step: Any) -> Any:
        if self.main is None:
            return maps.shrink(w, step, self.squares)
        if isinstance(self.squares, int):  # there are none
            return self.main.prox(w, step)
        w, dtype = widen(w, "w")
        return ops.cast(self.main.prox(maps.shrink(w, step, self.squares), step / (1 + 2 * self.squares * step)), dtype)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        grad = grad + 2 * self.squares * w
        return ops.absolute(grad) if self.main is None else self.main.subdiff_distance(w, grad)


def parts_of(penalty: Any) -> list[Any]:
    """The penalties of a sum; any other by itself."""
    return list(penalty.penalties) if isinstance(penalty, Sum) else [penalty]


def names_of(penalty: Any) -> str:
    """The class of a penalty; of a sum those of all."""
    return " + ".join(part.__class__.__name__ for part in parts_of(penalty))


def as_penalty(value: Any) -> Penalty:
    """A penalty of keras_reg, also of what is one in Keras; of a list their sum."""
    if isinstance(value, (list, tuple)):
        return Sum(value)
    if isinstance(value, dict):
        value = regularizer_from(value, "penalties")
    if is_record(value):
        return value.present
    if type(value) in OF_KERAS:
        return OF_KERAS[type(value)](**value.get_config())
    if not isinstance(value, Penalty):
        raise TypeError(f"Argument `penalties` must have penalties of keras_reg, or Keras's L1, L2 and L1L2. Received: {shown(value)}")
    return value
