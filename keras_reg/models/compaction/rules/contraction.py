"""Products of tensors with each other, as in attention by hand: `Matmul`, `Einsum`, `Dot`, and Keras's `Attention`."""

import string

import numpy as np
from keras import layers

from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.tracer import rule_for
from keras_reg.models.compaction.units import FIXED, Read


class Contraction(Rule):
    """What two tensors are summed over stays but where either is zero; what only one of them has goes on to the output."""

    def contract(self, signals: list[Signal], labels: list[str], output: str, shape: tuple) -> Signal:
        """The output; a letter for each axis."""
        followed = [None if signal.axis is None else letters[signal.axis] for signal, letters in zip(signals, labels, strict=True)]
        one, other = signals
        if followed[0] is not None and followed[0] == followed[1] and len(one.units) == len(other.units):
            zero = (one.constants == 0) | (other.constants == 0)
            self.graph.unite(one.units, other.units)
            if followed[0] in output:
                return Signal(shape, output.index(followed[0]), one.units, np.where(zero, 0.0, np.nan))
            self.sum_over(one.units, zero)
            return Signal(shape)
        result = Signal(shape)
        # The second is that of the values, in attention.
        for signal, letter, rest in ((other, followed[1], labels[0]), (one, followed[0], labels[1])):
            if letter is None:
                continue
            if result.axis is None and letter in output and letter not in rest and shape[output.index(letter)] == len(signal.units):
                result = Signal(shape, output.index(letter), signal.units, np.where(signal.constants == 0, 0.0, np.nan))
            else:
                signal.pin(self.graph, self.name, "multiplies along an axis that only one of its tensors is followed along")
        return result

    def sum_over(self, units: np.ndarray, zero: np.ndarray) -> None:
        """A sum over products, that those units do not change which are zero."""
        everything = np.ones((len(units), 1), bool)
        self.graph.reads.append(Read(units, np.array([FIXED]), lambda: everything, lambda: zero))


@rule_for("Einsum")
class EinsumRule(Contraction):
    def call(self, args, kwargs, shapes):
        left, _, output = self.layer.subscripts.replace(" ", "").partition("->")
        labels = left.split(",")
        signals = [arg for arg in args if isinstance(arg, Signal)]
        repeated = any(len(set(letters)) < len(letters) for letters in (*labels, output))
        if len(signals) != 2 or len(args) != 2 or len(labels) != 2 or not output or "." in left or repeated:
            return self.barrier(args, kwargs, shapes, f"has the equation {self.layer.subscripts}")
        return [self.contract(signals, labels, output, shapes[0])]


@rule_for("Matmul")
class MatmulRule(Contraction):
    def call(self, args, kwargs, shapes):
        rank = len(shapes[0])
        if not all(isinstance(arg, Signal) and len(arg.shape) == rank > 2 for arg in args):
            return self.barrier(args, kwargs, shapes, "multiplies tensors of different ranks")
        many = string.ascii_letters[3:][: rank - 2]
        return [self.contract(list(args), [many + "ab", many + "bc"], many + "ac", shapes[0])]


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
        if self.layer.score_mode != "dot" or any(signal.axis is not None and signal.axis != len(signal.shape) - 1 for signal in signals):
            return self.barrier(args, kwargs, shapes, "has scores of another kind than products")
        if query.axis is None or key.axis is None:
            for signal in (query, key):
                signal.pin(self.graph, self.name, "multiplies along an axis that only one of its tensors is followed along")
        else:
            self.graph.unite(query.units, key.units)
            self.sum_over(query.units, (query.constants == 0) | (key.constants == 0))
        constants = None if value.axis is None else np.where(value.constants == 0, 0.0, np.nan)
        return [value.like(shapes[0], constants=constants), *(Signal(shape) for shape in shapes[1:])]
