"""Products of tensors with each other, as in attention by hand: `Matmul`, `Einsum`, `Dot`, and Keras's `Attention`."""

import string

import numpy as np
from keras import layers

from keras_reg.models.compaction.rule import Rule, signals_in
from keras_reg.models.compaction.rules.merging import finite_array, of_zeros
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import Slot
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import FIXED, Read


class Contraction(Rule):
    """What two tensors are summed over stays but where either is zero; what only one of them has goes on to the output.

    An array is a tensor of which nothing is followed: what it is multiplied along stays.
    """

    grids = True

    def operands(self, args: tuple) -> list[Signal] | None:
        """The two, if that is what they are."""
        found = [arg if isinstance(arg, Signal) else Signal(arg.shape) if finite_array(arg) else None for arg in args]
        return None if len(found) != 2 or None in found else found

    def contract(self, signals: list[Signal], labels: list[str], output: str, shape: tuple) -> Signal:
        """The output; a letter for each axis."""
        signals = self._followed_alike(signals, labels, output)
        by_letter = [
            {letters[axis]: units for axis, units in signal.followed.items()} for signal, letters in zip(signals, labels, strict=True)
        ]
        one, other = by_letter
        for letter in one.keys() & other.keys():
            self.graph.unite(one[letter], other[letter])
        followed = one | other
        given = [letter for letter in output if letter in followed]
        summed = [letter for letter in followed if letter not in output]
        # Where either is zero, by all letters.
        zero = np.zeros([len(followed[letter]) for letter in given + summed], bool)
        for own, signal in zip(by_letter, signals, strict=True):
            if own:
                order = [list(own).index(letter) for letter in given + summed if letter in own]
                lengths = [len(followed[letter]) if letter in own else 1 for letter in given + summed]
                zero |= (signal.joint.transpose(order) == 0).reshape(lengths)
        for place, letter in enumerate(summed, len(given)):
            self._sum_over(followed[letter], np.moveaxis(~zero, place, 0), [followed[own] for own in given])
        if not given:
            return Signal(shape)
        zero = zero.all(tuple(range(len(given), zero.ndim)))
        return Signal.of(shape, {output.index(letter): followed[letter] for letter in given}, np.where(zero, 0.0, np.nan))

    def _followed_alike(self, signals: list[Signal], labels: list[str], output: str) -> list[Signal]:
        """Along an axis that both have both are followed; one of one alone must get to the output."""

        def stays(axis, signal, letters, other, others):
            place = others.find(letters[axis])
            if place < 0:
                return letters[axis] in output
            return len(other.followed.get(place, ())) == len(signal.followed[axis])

        reason = "multiplies along an axis that only one of its tensors is followed along"
        return [
            signal.only([axis for axis in signal.followed if stays(axis, signal, *rest)], self.graph, self.name, reason)
            for signal, *rest in zip(signals, labels, reversed(signals), reversed(labels), strict=True)
        ]

    def _sum_over(self, units: np.ndarray, alive: np.ndarray, outputs: list[np.ndarray]) -> None:
        """A sum over products, that those units do not change which are zero, for each of the units of the output."""
        self.graph.summed.append(units)
        # For whose sake: of several axes of the output the one of which most depends.
        readers, uses = np.array([FIXED]), alive.reshape(len(units), -1).any(1)[:, None]
        if outputs:
            place = max(range(len(outputs)), key=lambda number: len(outputs[number]))
            readers, uses = outputs[place], np.moveaxis(alive, place + 1, 1).reshape(len(units), len(outputs[place]), -1).any(2)
        self.graph.reads.append(Read(units, readers, lambda: uses, lambda: np.zeros(len(units), bool)))


@rule_for("Einsum")
class EinsumRule(Contraction):
    arrays = True

    def call(self, args, kwargs, shapes):
        left, _, output = self.layer.subscripts.replace(" ", "").partition("->")
        labels, signals = left.split(","), self.operands(args)
        repeated = any(len(set(letters)) < len(letters) for letters in (*labels, output))
        if signals is None or len(labels) != 2 or not output or "." in left or repeated:
            return self.barrier(args, kwargs, shapes, f"has the equation {self.layer.subscripts}")
        return [self.contract(signals, labels, output, shapes[0])]


@rule_for("Matmul")
class MatmulRule(Contraction):
    arrays = True

    def call(self, args, kwargs, shapes):
        rank, signals = len(shapes[0]), self.operands(args)
        of_a_model = [arg for arg in args if isinstance(arg, Signal)]
        if signals is None or rank < 3 or any(len(signal.shape) != rank for signal in of_a_model) or min(len(s.shape) for s in signals) < 2:
            return self.barrier(args, kwargs, shapes, "multiplies tensors of different ranks")
        letters = string.ascii_lowercase[3:][: rank - 2]

        def many(arg):
            # Of length one it goes with any length; an array may have fewer axes.
            fewer = rank - len(arg.shape)
            lengths = zip(letters[fewer:], arg.shape, shapes[0][fewer:], strict=False)
            return "".join(letter.upper() if own == 1 != length else letter for letter, own, length in lengths)

        one, other = signals
        return [self.contract([one, other], [many(one) + "ab", many(other) + "bc"], letters + "ac", shapes[0])]


@rule_for(layers.Dot)
class DotRule(Contraction):
    several = True

    def call(self, args, kwargs, shapes):
        one, other = args[0]
        axes = self.layer.axes
        axes = [axes, axes] if isinstance(axes, int) else list(axes)
        first, second = (axis % len(signal.shape) for axis, signal in zip(axes, (one, other), strict=True))
        if self.layer.normalize or 0 in (first, second):
            return self.barrier(args, kwargs, shapes, "normalizes what it multiplies")
        letters = string.ascii_letters
        ours = letters[: len(one.shape)]
        theirs = list(letters[0] + letters[26:][: len(other.shape) - 1])
        theirs[second] = ours[first]
        output = ours.replace(ours[first], "") + "".join(letter for number, letter in enumerate(theirs) if number not in (0, second))
        return [self.contract([one, other], [ours, "".join(theirs)], output, shapes[0])]


@rule_for(layers.Attention)
class PlainAttentionRule(Contraction):
    """Queries with keys, and what is left of the values."""

    several = True

    def call(self, args, kwargs, shapes):
        signals = list(args[0])
        query, value = signals[:2]
        key = signals[2] if len(signals) > 2 else value
        if any(set(signal.followed) - {len(signal.shape) - 1} for signal in signals):
            return self.barrier(args, kwargs, shapes, "attends along the axis of the units")
        if reason := self.refusal():
            return self.barrier(args, kwargs, shapes, reason)
        self.score(query, key)
        return [of_zeros(value, shapes[0]), *(Signal(shape) for shape in shapes[1:])]

    def refusal(self) -> str | None:
        return None if self.layer.score_mode == "dot" else "has scores of another kind than products"

    def score(self, query: Signal, key: Signal) -> None:
        self.contract([query, key], ["abd", "acd"], "abc", (*query.shape[:2], key.shape[1]))


@rule_for(layers.AdditiveAttention)
class AdditiveAttentionRule(PlainAttentionRule):
    """Scores `sum(scale * tanh(query + key))`: those units stay that are not zero in the sum, and have a scale."""

    units: np.ndarray | None = None

    def refusal(self):
        return None

    def score(self, query, key):
        units, ours = query.along(-1, self.graph, self.name)
        others, theirs = key.along(-1, self.graph, self.name)
        self.graph.unite(units, others)
        scale = self.values("scale")
        zero = (ours + theirs == 0) | (np.zeros(len(units), bool) if scale is None else scale == 0)
        if self.units is None:
            self.units, self.zero = units, zero
            self.graph.summed.append(units)
            everything = np.ones((len(units), 1), bool)
            self.graph.reads.append(Read(units, np.array([FIXED]), lambda: everything, lambda: self.zero))
        else:
            self.graph.unite(units, self.units)
            self.zero = self.zero & zero

    def slots(self):
        return [] if self.units is None or self.layer.scale is None else [Slot("scale", {0: self.units})]


@rule_for("DotProductAttention")
class DotProductAttentionRule(Contraction):
    """By heads, each with its keys and values; dimensions of heads stay, since the scale comes from them."""

    def call(self, args, kwargs, shapes):
        query, key, value, *others = args
        signals = [query, key, value]
        beside = signals_in(others)
        if any(len(other.shape) != 4 or other.shape[1] != 1 for other in beside) or query.shape[2] != key.shape[2]:
            return self.barrier(args, kwargs, shapes, "has a mask for each head, or fewer heads of keys than of queries")
        for other in beside:
            other.pin(self.graph, self.name, "takes it as a mask or bias")
        query, key, value = (s.only([2], self.graph, self.name, "has a scale that comes from the dimensions of heads") for s in signals)
        if all(s.followed for s in (query, key, value)):
            scores = self.contract([query, key], ["bthd", "bshd"], "bths", (*query.shape[:3], key.shape[1]))
            return [self.contract([scores, value], ["bths", "bshd"], "bthd", shapes[0])]
        for signal in (query, key, value):
            signal.pin(self.graph, self.name, "has heads that cannot be followed")
        return [Signal(shapes[0])]
