"""What `shrink` has done to a model: a table."""

import dataclasses
import html
import pathlib
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_reg.models.compaction.compact import compaction_plan
from keras_reg.models.compaction.graphs import graph_of
from keras_reg.models.compaction.plan import Blocker, LayerPlan
from keras_reg.models.table import html_table, text_table

BATCH, ROUNDS = 32, 20


@dataclass(frozen=True)
class Tried:
    """A budget: the share asked for, the share left, the metric, and whether it is held."""

    budget: float
    left: float
    metric: float
    held: bool


@dataclass(frozen=True)
class ShrinkReport:
    """What `keras_reg.models.shrink` has done: `print` it, or read its attributes, pairs of before and after, or `to_dict()`."""

    metrics: dict[str, tuple[float, float]]
    metrics_of: str
    """Which data these are of."""
    parameters: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    """Of the `.keras` file, without the optimizer's memory."""
    milliseconds: tuple[float, float]
    """To predict a batch of 32."""
    layers: tuple[LayerPlan, ...]
    blockers: tuple[Blocker, ...]
    """What keeps its width, and why."""
    monitor: str
    budgets: tuple[Tried, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""

        def plain(value):
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

        return plain(dataclasses.asdict(self))

    def _totals(self) -> dict[str, list[str]]:
        rows = {name: [f"{value:.4g}" for value in pair] + [""] for name, pair in self.metrics.items()}
        sizes = {"parameters": self.parameters, "MACs": self.macs, "bytes of the file": self.bytes}
        sizes[f"ms for {BATCH} examples"] = self.milliseconds
        for name, (before, after) in sizes.items():
            share = f"{after / before:.0%}" if before else ""
            rows[name] = [*(f"{value:.2f}" if isinstance(value, float) else f"{value:,}" for value in (before, after)), share]
        return {"": list(rows), **{title: [row[place] for row in rows.values()] for place, title in enumerate(("before", "after", "left"))}}

    def _layers(self) -> dict[str, list[str]]:
        def change(pair):
            return "–" if pair is None else f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} → {pair[1]:,}"

        columns = {"layer": [row.name for row in self.layers], "kind": [row.kind for row in self.layers]}
        return columns | {name: [change(getattr(row, name)) for row in self.layers] for name in ("width", "parameters")}

    def _tried(self) -> dict[str, list[str]]:
        return {
            "budget": [f"{row.budget:.1%}" for row in self.budgets],
            self.monitor: [f"{row.metric:.4g}" for row in self.budgets],
            "": ["held" if row.held else "not held" for row in self.budgets],
        }

    def _tables(self) -> list[tuple[dict, tuple[str, ...]]]:
        return [(self._totals(), ()), (self._layers(), ("kind",)), *([(self._tried(), ("",))] if len(self.budgets) > 1 else [])]

    def _notes(self) -> list[str]:
        notes = [f"{b.layer} keeps {b.width:,} units: {b.reason}." for b in self.blockers]
        return [*notes, f"Metrics on {self.metrics_of}. {self.seconds:.0f} s in all."]

    def __str__(self) -> str:
        return "\n\n".join([*(text_table(columns, left=left) for columns, left in self._tables()), "\n".join(self._notes())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = "".join(html_table(columns) for columns, _ in self._tables())
        return tables + "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())


def report(model: Any, copies: list[Any], metrics: tuple[dict, dict], **others: Any) -> ShrinkReport:
    """The report on a model that has become smaller.

    Args:
        model: The model of before.
        copies: A copy of it and one of the smaller model, of which the optimizers have done nothing yet.
        metrics: Those of before and after.
        others: The other attributes of the report.
    """
    plan, after = compaction_plan(model), compaction_plan(copies[1])
    left = {row.name: row for row in after.layers}
    layers = []
    for row in plan.layers:
        other = left.get(row.name, row)
        pairs = {name: (getattr(row, name)[0], getattr(other, name)[0]) for name in ("parameters", "macs", "bytes")}
        width = row.width and other.width and (row.width[0], other.width[0])
        layers.append(dataclasses.replace(row, width=width, **pairs))
    before, now = metrics
    return ShrinkReport(
        metrics={name: (before[name], now[name]) for name in before},
        parameters=(plan.total.parameters[0], after.total.parameters[0]),
        macs=(plan.total.macs[0], after.total.macs[0]),
        bytes=tuple(_size_of_file(one) for one in copies),
        milliseconds=tuple(_times(copies)),
        layers=tuple(layers),
        blockers=plan.blockers,
        **others,
    )


def _size_of_file(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        return path.stat().st_size


def _times(models: list[Any]) -> list[float]:
    """Milliseconds to predict a batch, the least of several rounds by turns."""

    def zeros(tensor):
        return np.zeros((tensor.shape[0] or BATCH, *(size or 1 for size in tensor.shape[1:])), tensor.dtype)

    batches = [keras.tree.map_structure(zeros, graph_of(model).input) for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS + 1):
        for model, batch, own in zip(models, batches, times, strict=True):
            start = time.perf_counter()
            model.predict_on_batch(batch)
            own.append(1000 * (time.perf_counter() - start))
    return [min(own[1:]) for own in times]  # the first one compiles
