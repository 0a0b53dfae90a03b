"""Tables of a page: columns that say what they hold, without those that hold nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = ("", "–")


@dataclass(frozen=True)
class Column:
    """A column by its key in the rows. `words`: it holds text, which may break into lines."""

    key: str
    title: str
    words: bool = False


@dataclass(frozen=True)
class Table:
    """`rows`: a cell for each column, as text. `marks`: of each row the curve whose mark stands
    before it and the kind of its likelihood; None where it has none."""

    columns: list[Column]
    rows: list[list[str]]
    marks: list[tuple[str, str] | None]


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """The columns in which any row says something; None without rows. Rows with a `variant` and a
    `kind` bear the curve's mark."""
    if not rows:
        return None
    cells = {c.key: [str(row.get(c.key, "")) for row in rows] for c in columns}
    kept = [c for c in columns if any(cell not in NOTHING for cell in cells[c.key])]
    marks = [
        (str(row["variant"]), str(row["kind"])) if {"variant", "kind"} <= set(row) else None
        for row in rows
    ]
    return Table(kept, [[cells[c.key][i] for c in kept] for i in range(len(rows))], marks)
