"""What can leave a model and why the rest cannot: a table, before anything is touched."""

import dataclasses
import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.units import FIXED
from keras_reg.models.table import html_table, text_table


@dataclass(frozen=True)
class LayerPlan:
    """The statistics of one layer, or of the whole model: each before and after."""

    name: str
    kind: str | None
    width: tuple[int, int] | None
    parameters: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]


@dataclass(frozen=True)
class Blocker:
    """A layer that keeps the width of its inputs: how many units, how many of these are constant and could go otherwise, and why."""

    layer: str
    width: int
    constant: int
    reason: str


@dataclass(frozen=True)
class CompactionPlan:
    """What `keras_reg.models.compaction_plan` found: `print` it, or read `layers`, `total`, `blockers`, `unread_inputs` and `to_dict()`."""

    layers: tuple[LayerPlan, ...]
    total: LayerPlan
    blockers: tuple[Blocker, ...]
    unread_inputs: dict[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        rows = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(row).items()}
            for row in (*self.layers, self.total)
        ]
        return {
            "layers": rows[:-1],
            "total": rows[-1],
            "blockers": [dataclasses.asdict(blocker) for blocker in self.blockers],
            "unread_inputs": {name: list(indices) for name, indices in self.unread_inputs.items()},
        }

    def _columns(self) -> dict[str, list[str]]:
        def change(pair):
            return "–" if pair is None else f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} → {pair[1]:,}"

        rows = (*self.layers, self.total)
        columns = {"layer": [row.name for row in rows], "kind": [row.kind or "" for row in rows]}
        for field in ("width", "parameters", "macs", "bytes"):
            columns["MACs" if field == "macs" else field] = [change(getattr(row, field)) for row in rows]
        return columns

    def _notes(self) -> list[str]:
        notes = [f"{b.layer} keeps {b.width:,} units, {b.constant:,} of them constant: {b.reason}." for b in self.blockers]
        for name, indices in self.unread_inputs.items():
            notes.append(f"Input {name}: {len(indices):,} features are read by nothing; `compact(model, inputs=True)` leaves them out.")
        return [*notes, "MACs: multiplications for one example; a length that is not known counts as one."]

    def __str__(self) -> str:
        return "\n".join([text_table(self._columns(), total=True, left=("kind",)), "", *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._columns()) + "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())


def plan(compaction: Compaction) -> CompactionPlan:
    """The statistics of a compaction that has been decided."""
    counted: set[int] = set()
    rows = tuple(_row(rule, compaction, counted) for rule in compaction.rules if rule.owned())
    total = LayerPlan(
        "total",
        None,
        None,
        *(tuple(sum(getattr(row, field)[i] for row in rows) for i in (0, 1)) for field in ("parameters", "macs", "bytes")),
    )
    return CompactionPlan(rows, total, tuple(_blockers(compaction)), _unread(compaction))


def _row(rule: Rule, compaction: Compaction, counted: set[int]) -> LayerPlan:
    """A weight that several layers hold counts for the first."""
    graph = compaction.tracer.graph
    slots = {id(slot.variable(rule.layer)): slot for slot in rule.slots()}
    parameters, size = [0, 0], [0, 0]
    for variable in rule.owned():
        if id(variable) in counted:
            continue
        counted.add(id(variable))
        number = int(np.prod(variable.shape))
        left = slots[id(variable)].cut(np.empty(variable.shape, bool), graph).size if id(variable) in slots else number
        item = np.dtype("float16" if variable.dtype == "bfloat16" else variable.dtype).itemsize
        for place, count in enumerate((number, left)):
            parameters[place] += count
            size[place] += count * item
    if added := rule.added():
        parameters[1] += added
        size[1] += added * np.dtype("float16" if rule.layer.variable_dtype == "bfloat16" else rule.layer.variable_dtype).itemsize
    widths = [signal for owner, _, outputs in compaction.tracer.calls if owner is rule for signal in outputs[:1] if signal.axis is not None]
    width = (len(widths[0].units), int(graph.kept(widths[0].units).sum())) if widths else None
    return LayerPlan(rule.name, type(rule.layer).__name__, width, tuple(parameters), (rule.macs(False), rule.macs(True)), tuple(size))


def _blockers(compaction: Compaction) -> list[Blocker]:
    graph = compaction.tracer.graph
    roots = graph.roots()
    # The model's outputs have their width in any case, and so have its inputs.
    ends = {compaction.model.name}
    fixed = {FIXED} | {root for pin in graph.pins if pin.layer in ends for root in roots[pin.units].tolist() if root != roots[FIXED]}
    # Units that something fixed was added to are one with it, and yet each is somebody's.
    names = np.where(roots == roots[FIXED], np.arange(len(roots)), roots)
    found: dict[tuple[str, str], tuple[set, set]] = {}

    def note(layer, reason, units, constants):
        pinned = {*names[units].tolist()} - fixed
        if pinned:
            all_units, constant = found.setdefault((layer, reason), (set(), set()))
            all_units |= pinned
            if constants is not None:
                constant |= {*names[units[np.isfinite(constants)]].tolist()} & pinned

    for pin in graph.pins:
        if pin.layer not in ends:
            note(pin.layer, pin.reason, pin.units, pin.constants)
    for rule in compaction.rules:
        for matrix in rule.matrices():
            held = matrix.inputs[matrix.stuck() & matrix.uses()[:, graph.kept(matrix.outputs)].any(1)]
            note(rule.name, "no bias can stand for a constant at the border of its padding", held, np.zeros(len(held)))
    blockers = [Blocker(layer, len(width), len(constant), reason) for (layer, reason), (width, constant) in found.items()]
    blockers += [Blocker(rule.name, *stays) for rule in compaction.rules for stays in rule.stays()]
    return blockers + _opaque(compaction, ends | {blocker.layer for blocker in blockers})


def _opaque(compaction: Compaction, named: set[str]) -> list[Blocker]:
    """Layers with weights of which nothing is followed, neither what they read nor what they give: nobody else would name them."""
    widths = {rule.name: outputs[0].shape[-1] for rule, _, outputs in compaction.tracer.calls if outputs and outputs[0].shape}
    return [
        Blocker(rule.name, widths.get(rule.name) or 1, 0, rule.fenced)
        for rule in compaction.rules
        if rule.fenced and rule.name not in named and rule.owned()
    ]


def _unread(compaction: Compaction) -> dict[str, tuple[int, ...]]:
    unread = {}
    for tensor, signal in zip(compaction.graph.inputs, compaction.inputs, strict=True):
        if signal.axis is not None and not compaction.free[signal.units].all():
            unread[tensor.name] = tuple(np.flatnonzero(~compaction.free[signal.units]).tolist())
    return unread
