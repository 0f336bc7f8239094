"""Units, the smallest things that stay or go as a whole, and what makes them need each other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The unit of every position that no rule follows: it always stays.
FIXED = 0


@dataclass(frozen=True)
class Pin:
    """Units that stay because a layer cannot do without any of them, and why; `constants` as in a signal."""

    units: np.ndarray
    layer: str
    reason: str
    constants: np.ndarray | None = None


@dataclass(frozen=True)
class Read:
    """`outputs[j]`, if it stays, needs `inputs[i]` where `uses[i, j]`, unless `replaceable()[i]`: a constant that a bias can take over."""

    inputs: np.ndarray
    outputs: np.ndarray
    uses: Callable[[], np.ndarray]
    replaceable: Callable[[], np.ndarray]


class Units:
    """A union-find of units with the relations between them; `mark` finds those that must stay.

    Args:
        trial: Whether weights count as zero for what they produce, and as anything for what they read.
    """

    def __init__(self, trial: bool = False):
        self.trial = trial
        self._parent = [FIXED]
        self.reads: list[Read] = []
        self.pins: list[Pin] = []
        self.never_empty: list[np.ndarray] = []
        self.constraints: list[Callable[[Callable], np.ndarray]] = []
        # Units that constraints let go only with others, such as those of one attention head.
        self.bundles: list[np.ndarray] = []
        self._needed = None

    def new(self, number: int) -> np.ndarray:
        """As many units that nothing ties together yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + number))
        return np.arange(first, first + number)

    def unite(self, ones: np.ndarray, others: np.ndarray) -> None:
        """From now on `ones[i]` and `others[i]` stay or go together."""
        for one, other in zip(np.ravel(ones).tolist(), np.ravel(others).tolist(), strict=True):
            a, b = self._root(one), self._root(other)
            if a != b:
                # The smaller becomes the root, so that FIXED stays one.
                self._parent[max(a, b)] = min(a, b)

    def pin(self, units: np.ndarray, layer: str, reason: str, constants: np.ndarray | None = None) -> None:
        """These units stay."""
        self.pins.append(Pin(units, layer, reason, constants))

    def avoid(self, units: np.ndarray, bad: Callable[[int], bool]) -> None:
        """Never so many of these units are left."""

        def one_more(kept):
            stay = kept(units)
            return units[~stay][:1] if bad(int(stay.sum())) else units[:0]

        self.constraints.append(one_more)

    def _root(self, unit: int) -> int:
        parent = self._parent
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    def roots(self, bundled: bool = False) -> np.ndarray:
        """For each unit the one that stands for all of those united with it, or bundled with them."""
        graph = self
        if bundled:
            graph = Units()
            graph._parent = self._parent.copy()
            for units in self.bundles:
                graph.unite(units[1:], units[:-1])
        return np.array([graph._root(unit) for unit in range(len(graph._parent))])

    def read_by_others(self, roots: np.ndarray) -> set[int]:
        """Those of the roots that something needs, if all else stays."""
        found = set()
        for read in self.reads:
            own, others = roots[read.inputs], roots[read.outputs]
            used = (read.uses() & (own[:, None] != others)).any(1) & ~read.replaceable()
            found |= set(own[used].tolist())
        return found

    def needed(self, pins: list[Pin]) -> np.ndarray:
        """Which units must stay if these pins hold: whatever they need, directly or through others, and no more."""
        roots = self.roots()
        needed = np.zeros(len(roots), bool)
        needed[FIXED] = True
        for pin in pins:
            needed[roots[pin.units]] = True
        seen = {}

        def kept(units):
            return needed[roots[units]]

        while True:
            before = needed.sum()
            for number, read in reversed(list(enumerate(self.reads))):
                outputs = kept(read.outputs)
                if outputs.any() and seen.get(number) != outputs.sum():
                    seen[number] = outputs.sum()
                    inputs = read.uses()[:, outputs].any(1) & ~read.replaceable()
                    needed[roots[read.inputs[inputs]]] = True
            if needed.sum() == before:
                for units in self.never_empty:
                    if not kept(units).any():
                        needed[roots[units.ravel()[0]]] = True
                for constraint in self.constraints:
                    needed[roots[constraint(kept)]] = True
                if needed.sum() == before:
                    return needed[roots]

    def mark(self, needed: np.ndarray) -> None:
        """Decides: these stay, all others go."""
        self._needed = needed

    def kept(self, units: np.ndarray) -> np.ndarray:
        """After `mark`: for each of these units whether it stays."""
        return self._needed[units]
