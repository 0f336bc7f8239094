"""Units, the smallest things that stay or go as a whole, and what makes them need each other."""

import functools
import math
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


@dataclass(frozen=True)
class Product:
    """Units spread over several axes: the one at a place stays where those of all its axes do, and only there."""

    cells: np.ndarray
    axes: tuple[np.ndarray, ...]

    def outer(self, along: list[np.ndarray]) -> np.ndarray:
        """Where it is true along all axes."""
        return functools.reduce(np.logical_and.outer, along)

    def along(self, axis: int, cells: np.ndarray) -> np.ndarray:
        """The cells with this axis first, and the others as one."""
        return np.moveaxis(cells, axis, 0).reshape(cells.shape[axis], -1)


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
        self.products: list[Product] = []
        # Units that tensors are summed over in products with each other.
        self.summed: list[np.ndarray] = []
        self._needed = None

    def new(self, number: int) -> np.ndarray:
        """As many units that nothing ties together yet."""
        first = len(self._parent)
        self._parent.extend(range(first, first + number))
        return np.arange(first, first + number)

    def spread(self, cells: np.ndarray) -> list[np.ndarray]:
        """New units for each axis of an array of units, which stay or go by whole rows from now on."""
        axes = [self.new(length) for length in cells.shape]
        self.products.append(Product(cells, tuple(axes)))
        return axes

    def gather(self, axes: list[np.ndarray]) -> np.ndarray:
        """New units for all places of several axes: they stay where those of all axes do."""
        lengths = [len(units) for units in axes]
        cells = self.new(math.prod(lengths)).reshape(lengths)
        self.products.append(Product(cells, tuple(axes)))
        return cells

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

    def avoid(self, axes: list[np.ndarray], bad: Callable[[list[int]], bool]) -> None:
        """Never so many units are left along these axes."""

        def one_more(kept):
            stay = [kept(units) for units in axes]
            if not bad([int(each.sum()) for each in stay]):
                return axes[0][:0]
            return next((units[~each][:1] for units, each in zip(axes, stay, strict=True) if not each.all()), axes[0][:0])

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
            if self.products:
                graph._bundle_products(self)
        return np.array([graph._root(unit) for unit in range(len(graph._parent))])

    def _bundle_products(self, graph: "Units") -> None:
        """Units of a product leave by rows along one of its axes.

        Not along one that is summed over, as the dimensions of queries and keys, if there is another; along one by which those of another
        product leave; or along that of which most may leave.
        """
        roots = np.array([self._root(unit) for unit in range(len(self._parent))])
        pinned = set(roots[graph.held(roots)].tolist())
        summed = {self._root(unit) for units in graph.summed for unit in units.tolist()}
        leading: set[int] = set()

        def score(product, axis):
            roots = {self._root(unit) for unit in product.axes[axis].tolist()}
            rows = np.concatenate([product.axes[axis][:, None], product.along(axis, product.cells)], 1)
            own = [{self._root(unit) for unit in row} for row in rows.tolist()]
            free = len({min(row) for row in own if not row & pinned})
            return (free > 0, not roots & summed, bool(roots & leading), free), -axis

        def sums(product):
            return any(self._root(unit) in summed for units in product.axes for unit in units.tolist())

        # First those that have no choice.
        for product in sorted(graph.products, key=sums, reverse=True):
            (free, *_), axis = max(score(product, axis) for axis in range(len(product.axes)))
            units = product.axes[-axis]
            if free:
                leading |= {self._root(unit) for unit in units.tolist()}
                for unit, row in zip(units.tolist(), product.along(-axis, product.cells), strict=True):
                    self.unite(row, np.full(len(row), unit))

    def torn(self, roots: np.ndarray) -> set[int]:
        """Those of the roots that cannot leave alone, since what is left of a product would be no product."""
        found = set()
        for product in self.products:
            cells, axes = roots[product.cells], [roots[units] for units in product.axes]
            for root in {*cells.ravel().tolist()}.union(*(units.tolist() for units in axes)):
                if not np.array_equal(cells != root, product.outer([units != root for units in axes])):
                    found.add(root)
        return found

    def read_by_others(self, roots: np.ndarray) -> set[int]:
        """Those of the roots that something needs, if all else stays."""
        found = self.torn(roots)
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
            self._close(needed, roots)
            if needed.sum() > before:
                continue
            # The last first, and one at a time: what it needs may fill those before it.
            empty = next((units for units in reversed(self.never_empty) if not kept(units).any()), None)
            if empty is not None:
                needed[roots[empty.ravel()[0]]] = True
            if needed.sum() > before:
                continue
            for constraint in self.constraints:
                needed[roots[constraint(kept)]] = True
            if needed.sum() == before:
                return needed[roots]

    def held(self, roots: np.ndarray) -> np.ndarray:
        """For each unit whether it stays whatever the weights are, given those that stand for several."""
        held = np.zeros(len(roots), bool)
        held[roots[FIXED]] = True
        for pin in self.pins:
            held[roots[pin.units]] = True
        for units in self.never_empty:
            if len(own := set(roots[units.ravel()].tolist())) == 1:  # the one unit that some tensor has
                held[list(own)] = True
        before = -1
        while held.sum() > before:
            before = held.sum()
            self._close(held, roots)
        return held[roots]

    def _close(self, needed: np.ndarray, roots: np.ndarray) -> None:
        """Marks what the products ask for: the rows of cells, and the cells of rows."""
        for product in self.products:
            for axis, units in enumerate(product.axes):
                needed[roots[units[product.along(axis, needed[roots[product.cells]]).any(1)]]] = True
            needed[roots[product.cells[product.outer([needed[roots[units]] for units in product.axes])]]] = True

    def mark(self, needed: np.ndarray) -> None:
        """Decides: these stay, all others go."""
        self._needed = needed

    def kept(self, units: np.ndarray) -> np.ndarray:
        """After `mark`: for each of these units whether it stays."""
        return self._needed[units]
