"""What the units of a whole model cost, alone and together: which of them fit a budget."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_reg._validation import items, received, whole_number
from keras_reg.ops.dtypes import at_most, like
from keras_reg.ops.projections import magnitudes
from keras_reg.regularizers.part import Part

_MOST = 2**24  # more would only be in a file that somebody has altered
_TINY = 1e-30
_ROUNDING = 1 + 1e-6  # of costs added up in float32


def checked_costs(costs: Any) -> dict:
    """What the groups of a model cost, of lists and whole numbers.

    Runs are lists of `[first, last, number]`: the groups from the first to before the last have that number. `terms` has for each product
    of axes `[number, [[length, runs], ...]]`: so many times what is left of these lengths, of which each group has so many entries.
    `rest` is what costs whatever leaves. `members` are of how many parts each group consists, `families` the layers that it is of.
    """
    names = ("rest", "terms", "members", "families")
    if not isinstance(costs, Mapping) or set(costs) != set(names):
        raise TypeError(f"Argument `costs` must be None or what `attach` has made. {received(costs, 'costs')}")

    def of_length(value, length):
        if len(found := items(value, "costs")) != length:
            raise ValueError(f"Argument `costs` must be None or what `attach` has made. {received(value, 'costs')}")
        return found

    def runs(given):
        found = [[whole_number(number, "costs", at_least=0) for number in of_length(run, 3)] for run in items(given, "costs")]
        if not all(first < last <= _MOST for first, last, _ in found):
            raise ValueError(f"Argument `costs` must have runs of at most {_MOST:,} groups. {received(given, 'costs')}")
        return found

    def axis(given):
        length, own = of_length(given, 2)
        return [whole_number(length, "costs", at_least=0), runs(own)]

    def term(given):
        number, axes = of_length(given, 2)
        return [whole_number(number, "costs", at_least=0), [axis(one) for one in items(axes, "costs")]]

    return {
        "rest": whole_number(costs["rest"], "costs", at_least=0),
        "terms": [term(one) for one in items(costs["terms"], "costs")],
        "members": runs(costs["members"]),
        "families": runs(costs["families"]),
    }


def smallest_share(parts: Sequence[Part], tensors: Sequence[Any]) -> float:
    """What is left of the costs where all groups leave but the largest of each layer."""
    table = Table.of(tuple(parts), tuple(tuple(w.shape) for w in tensors))
    scores = table.scores(table.importance(parts, [ops.square(magnitudes(w, 1.0)) for w in tensors]), relative=True)
    return float(table.left(ops.argsort(scores))[int(ops.sum(ops.cast(ops.isfinite(scores), "int32")))])


class Table:
    """What the groups of a model cost, as arrays that do not change.

    Args:
        parts: The parts that are projected together, with the shapes of their weights. Groups of which a part is not among them stay.
    """

    def __init__(self, parts: Sequence[Part], shapes: Sequence[tuple[int, ...]]):
        own = [np.unique(numbers[numbers >= 0]) for numbers in (part.numbers(shape) for part, shape in zip(parts, shapes, strict=True))]
        costs = parts[0].costs
        last = [last for runs in (costs["members"], costs["families"]) for _, last, _ in runs] if costs else []
        self.number = max([int(numbers.max()) + 1 for numbers in own if numbers.size] + last, default=0)
        if costs is None:  # each group one
            costs = {"rest": 0, "terms": [[1, [[self.number, [[0, self.number, 1]]]]]], "members": [], "families": []}
        present = np.zeros(self.number)
        for numbers in own:
            present[numbers] += 1
        self.held = present < self._spread(costs["members"])
        self.family = self._spread(costs["families"]).astype("int32")
        axes = {str(axis): axis for _, term in costs["terms"] for axis in term}
        places = {name: place for place, name in enumerate(axes, start=1)}
        width = max((len(term) for _, term in costs["terms"]), default=0)
        # The first axis is of length 1, for terms with fewer axes than others, and for the rest.
        factors = [[places[str(axis)] for axis in term] for _, term in costs["terms"]] + [[]]
        self.factors = np.array([own + [0] * (width - len(own)) for own in factors], "int32").reshape(len(factors), width)
        self.numbers = np.array([number for number, _ in costs["terms"]] + [costs["rest"]], "float64")
        self.lengths = np.array([1, *(length for length, _ in axes.values())], "float64")
        self.entries = np.stack([np.zeros(self.number), *(self._spread(runs) for _, runs in axes.values())])
        full = self.lengths[self.factors].prod(1)
        self.total = float(self.numbers @ full)
        left = (self.lengths[:, None] - self.entries)[self.factors].prod(1)
        self.each = self.numbers @ (full[:, None] - left)
        self.full = np.unique(self.entries[self.entries.sum(1) == self.lengths] > 0, axis=0)

    def _spread(self, runs: Sequence[Any]) -> np.ndarray:
        spread = np.zeros(self.number)
        for first, last, number in runs:
            spread[first:last] = number
        return spread

    def importance(self, parts: Sequence[Part], squares: Sequence[Any]) -> Any:
        """The sum over each group."""
        collected = [ops.cast(part.collect(one, self.number), "float32") for part, one in zip(parts, squares, strict=True)]
        return functools.reduce(operator.add, collected)

    @classmethod
    def of(cls, parts: tuple, shapes: tuple) -> "Table":
        # Of the same parts it is the same, as long as they are on their weights.
        holder = parts[0].__dict__
        key = parts, shapes
        if holder.get("_table", (None,))[0] != key:
            holder["_table"] = key, cls(parts, shapes)
        return holder["_table"][1]

    def scores(self, importance: Any, relative: bool) -> Any:
        """What groups are worth for what they cost; infinite for those that stay: the first of the largest in each layer."""
        if relative:
            families = int(self.family.max()) + 1
            sizes = np.bincount(self.family, minlength=families)
            means = ops.segment_sum(importance, ops.convert_to_tensor(self.family), num_segments=families) / like(importance, sizes)
            importance = importance / (ops.take(means, ops.convert_to_tensor(self.family)) + _TINY)
        inside = ops.convert_to_tensor(self.full)
        best = ops.argmax(ops.where(inside, importance, like(importance, -1.0)), axis=1)
        kept = ops.any(ops.equal(ops.arange(self.number, dtype="int32")[None], ops.cast(best, "int32")[:, None]), axis=0)
        kept = ops.logical_or(kept, ops.convert_to_tensor(self.held))
        worth = importance / like(importance, self.each / max(self.each.mean(), _TINY) + _TINY)
        return ops.where(ops.logical_or(kept, ops.isnan(worth)), like(worth, float("inf")), worth)

    def left(self, order: Any) -> Any:
        """The share of the costs that is left once none, the first, the first two… of the groups in this order have left."""
        gone = ops.cumsum(ops.take(ops.convert_to_tensor(self.entries, "float32"), order, axis=1), axis=1)
        left = like(gone, self.lengths[:, None]) - ops.pad(gone, ((0, 0), (1, 0)))
        costs = ops.prod(ops.take(left, ops.convert_to_tensor(self.factors), axis=0), axis=1)
        return ops.sum(like(costs, self.numbers[:, None] / max(self.total, 1.0)) * costs, axis=0)

    def dropped(self, importance: Any, budget: Any, relative: bool = False) -> Any:
        """Which groups leave: as few of the least worth as meet the budget."""
        scores = self.scores(importance, relative)
        # Of equals the later ones go first.
        order = self.number - 1 - ops.argsort(ops.flip(scores))
        met = self.left(order) <= ops.cast(budget, "float32") * _ROUNDING
        candidates = ops.sum(ops.cast(ops.isfinite(scores), "int32"))
        needed = ops.where(ops.any(met), ops.cast(ops.argmax(ops.cast(met, "int32")), "int32"), candidates)
        place = ops.argsort(order)  # of each group in the order
        return ops.cast(place, "int32") < at_most(needed, candidates)
