"""How sparse a model is: a table, its statistics, and what they do not mean."""

import dataclasses
import html
from dataclasses import dataclass
from typing import Any

from keras_reg._validation import non_negative
from keras_reg.models.gate_report import GateCounts, columns, count_gates
from keras_reg.models.statistics import by_class, count_weights, penalties, totals
from keras_reg.models.table import html_table, text_table
from keras_reg.ops.counts import Counts
from keras_reg.regularizers.sums import names_of
from keras_reg.weights import choose, group_axis, read

NOTE = (
    "Zeros alone make nothing faster or smaller: a dense layer multiplies its zeros, and a file stores them.\n"
    "Only whole zero groups can be cut out of a model; single zeros help a compressed file or a sparse format."
)


@dataclass(frozen=True)
class WeightSparsity:
    """The statistics of one weight, or of all of them together."""

    name: str
    shape: tuple[int, ...] | None
    dtype: str | None
    penalty_name: str | None
    parameters: int
    zeros: int
    near_zeros: int
    groups: int
    zero_groups: int
    group_axis: int | tuple[int, ...] | None
    non_finite: int
    l1_norm: float
    l2_norm: float
    penalty: float | None
    dense_bytes: int
    compressed_bytes: int


@dataclass(frozen=True)
class Sparsity:
    """What `keras_reg.models.sparsity` found: `print` it, or read `weights`, `total` and `to_dict()`."""

    weights: tuple[WeightSparsity, ...]
    total: WeightSparsity
    near_zero: float
    penalties: dict[str, float]
    """What the penalties of each class add to the loss, the parts of sums for themselves."""
    gates: tuple[GateCounts, ...] = ()
    """For each layer of gates how many there are, are open, and are expected to be."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        rows = [dataclasses.asdict(row) for row in (*self.weights, self.total)]
        for row in rows:
            row["shape"] = row["shape"] and list(row["shape"])
            row["group_axis"] = list(row["group_axis"]) if isinstance(row["group_axis"], tuple) else row["group_axis"]
        return {
            "weights": rows[:-1],
            "total": rows[-1],
            "near_zero": self.near_zero,
            "penalties": self.penalties,
            "gates": [dataclasses.asdict(one) for one in self.gates],
            "note": NOTE.replace("\n", " "),
        }

    def _columns(self) -> dict[str, list[str]]:
        def share(part, whole):
            return f"{part:,} {part / whole:4.0%}" if whole else "–"

        rows = (*self.weights, self.total)
        columns = {
            "weight": [row.name for row in rows],
            "parameters": [f"{row.parameters:,}" for row in rows],
            "zeros": [share(row.zeros, row.parameters) for row in rows],
            f"|w| ≤ {self.near_zero:g}": [share(row.near_zeros, row.parameters) for row in rows],
            "zero groups": [f"{row.zero_groups:,} of {row.groups:,}" if row.groups else "–" for row in rows],
            "L1 norm": [f"{row.l1_norm:.4g}" for row in rows],
            "L2 norm": [f"{row.l2_norm:.4g}" for row in rows],
            "penalty": ["–" if row.penalty is None else f"{row.penalty:.3g}" for row in rows],
            "bytes": [f"{row.dense_bytes:,}" for row in rows],
            "compressed": [f"{row.compressed_bytes:,}" for row in rows],
        }
        if self.total.non_finite:
            columns["not finite"] = [f"{row.non_finite:,}" for row in rows]
        return columns

    def __str__(self) -> str:
        by_class = [f"{name}: {value:.3g}" for name, value in self.penalties.items()] if len(self.penalties) > 1 else []
        gates = [text_table(columns(self.gates)), ""] if self.gates else []
        compressed = "compressed: one bit for each weight, and the non-zero ones."
        return "\n".join([text_table(self._columns(), total=True), "", *gates, *by_class, compressed, NOTE])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        gates = html_table(columns(self.gates)) if self.gates else ""
        return f"{html_table(self._columns())}{gates}<p>{html.escape(NOTE)}</p>"


def sparsity(model: Any, include: Any = "*", exclude: Any = None, near_zero: float = 1e-3) -> Sparsity:
    """A report on the zeros of a model: for each weight and in total, parameters, zeros, groups, norms, penalty and bytes.

    Groups are those of the weight's penalty, by its `axis`; elsewhere those of the last axis (units, filters), and none for vectors.
    `compressed_bytes` is the size in a format of one bit for each weight and the values of the non-zero ones, or `dense_bytes`
    where that is less. The penalty is what the weight adds to the loss, none for frozen weights.

    Args:
        model: A built Keras model or layer.
        include: Which weights, as in `keras_reg.callbacks.WeightHistogram`. Defaults to all.
        exclude: Which of these to leave out, in the same terms.
        near_zero: Up to which magnitude a weight counts as nearly zero, in units of the weights.

    Returns:
        A report: `print` shows a table, as does a notebook; `weights` (a row each), `total` and `to_dict()` have the figures. Of a model
        with gates (`keras_reg.layers`) a second table and `gates` say how many are open, and how many are expected to be in training.

    Example:

    >>> import keras
    >>> from keras_reg.models import sparsity
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> report = sparsity(model)
    >>> report.total.parameters, report.total.zeros, report.to_dict()["total"]["dense_bytes"]
    (16, 4, 64)
    """
    near_zero = non_negative(near_zero, "near_zero")
    chosen = choose(model, include, exclude)
    counts, penalty_of = count_weights(chosen, near_zero), penalties(model)
    rows = tuple(_row(name, variable, counts[name], penalty_of.get(id(variable))) for name, variable in chosen.items())
    shown = [row.penalty for row in rows if row.penalty is not None]
    together = totals(chosen, counts)
    total = WeightSparsity(
        name="total",
        shape=None,
        dtype=None,
        penalty_name=None,
        group_axis=None,
        parameters=together.size,
        zeros=together.zeros,
        near_zeros=together.near_zeros,
        groups=together.groups,
        zero_groups=together.zero_groups,
        non_finite=together.non_finite,
        l1_norm=together.l1,
        l2_norm=together.l2,
        penalty=sum(shown) if shown else None,
        dense_bytes=sum(row.dense_bytes for row in rows),
        compressed_bytes=sum(row.compressed_bytes for row in rows),
    )
    return Sparsity(rows, total, near_zero, by_class(model, penalty_of), count_gates(model))


def _row(name: str, variable: Any, own: Counts, penalty: float | None) -> WeightSparsity:
    values = read(variable)
    dense = values.nbytes
    return WeightSparsity(
        name=name,
        shape=tuple(variable.shape),
        dtype=str(variable.dtype),
        penalty_name=None if variable.regularizer is None else names_of(variable.regularizer),
        parameters=own.size,
        zeros=own.zeros,
        near_zeros=own.near_zeros,
        groups=own.groups,
        zero_groups=own.zero_groups,
        group_axis=group_axis(variable),
        non_finite=own.nan + own.infinite,
        l1_norm=own.l1,
        l2_norm=own.l2,
        penalty=penalty,
        dense_bytes=dense,
        compressed_bytes=min(dense, -(-own.size // 8) + (own.size - own.zeros) * values.dtype.itemsize),
    )
