"""What `attach` and `detach` did, as a table."""

import html
from dataclasses import dataclass
from typing import Any

from keras_reg.models.attachment.mistakes import describe
from keras_reg.models.table import html_table, text_table


@dataclass(frozen=True)
class Change:
    """What became of one weight."""

    weight: str
    shape: tuple[int, ...]
    penalty: Any
    kept: str | None
    note: str


@dataclass(frozen=True)
class Changes:
    """What `attach` or `detach` did, weight by weight: `print` it, or read `rows`. `note` says what else there is to know."""

    rows: tuple[Change, ...]
    note: str = ""

    def _columns(self) -> dict[str, list[str]]:
        return {
            "weight": [row.weight for row in self.rows],
            "shape": ["×".join(map(str, row.shape)) for row in self.rows],
            "penalty": ["–" if row.penalty is None else describe(row.penalty) for row in self.rows],
            "kept in": [row.kept or "–" for row in self.rows],
            **({"note": [row.note for row in self.rows]} if any(row.note for row in self.rows) else {}),
        }

    def __str__(self) -> str:
        table = text_table(self._columns(), left=("shape", "penalty", "kept in", "note"))
        return f"{table}\n{self.note}" if self.note else table

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._columns()) + (f"<p>{html.escape(self.note)}</p>" if self.note else "")
