"""Tables that fit the terminal: columns without room are left out by rank, and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cola.terminal import say

PIPE_WIDTH = 200  # columns, at least, of what goes to a file or another program; a chosen value
FEW, FEW_BELOW = 7, 120  # at most so many columns on terminals narrower than this; chosen values
LEAST_CLAUSE = 24  # characters a line of a column that wraps, if it has as many; a chosen value
NONE = "–"  # the cell of no value
EDGE, BETWEEN = 1, 3  # characters of a table's frame: at its left, and with every column


@dataclass(frozen=True)
class Column:
    """A column of a table. `rank` 0 is always shown; of the others, those of the highest rank are
    left out first where there is no room. `wraps`: its cells are clauses that break at words."""

    name: str
    cells: Sequence[str]
    rank: int = 0
    left: bool = False
    wraps: bool = False

    @property
    def least(self) -> int:
        """Characters that it needs."""
        widest = max(map(len, (self.name, *self.cells)))
        return min(widest, LEAST_CLAUSE) if self.wraps else widest


@dataclass(frozen=True)
class FittedTable:
    """A table of the columns that have room, its width, the names of the others, and a sentence on
    all rows."""

    table: Table
    width: int
    left_out: Sequence[str]
    below: str | None = None

    def print(self, console: Console) -> None:
        """Print it, and what is left out; no cell is cut, whatever the console's width."""
        before = console.width
        console.width = max(before, self.width)
        console.print(self.table)
        console.width = before
        if self.below is not None:
            say(console, self.below)
        if self.left_out:
            say(
                console,
                f"Not shown at this width: {', '.join(self.left_out)};"
                f" --wide shows them, --json has everything.",
            )


def fitted(
    title: str | None, columns: Sequence[Column], console: Console, *, wide: bool
) -> FittedTable:
    """The columns that the console has room for, all of them with `wide`."""
    kept = list(columns)
    most = FEW if console.is_terminal and console.width < FEW_BELOW else len(kept)

    def needed() -> int:
        return EDGE + sum(column.least + BETWEEN for column in kept)

    while not wide and (needed() > console.width or len(kept) > most):
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            break
        kept.remove(last)
    # Texts as written: brackets are no markup.
    table = Table(title=None if title is None else Text(title))
    for column in kept:
        table.add_column(
            column.name,
            justify="left" if column.left or column.wraps else "right",
            no_wrap=not column.wraps,
            min_width=column.least,
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*map(Text, cells))
    left_out = [column.name for column in columns if column not in kept]
    return FittedTable(table, needed(), left_out)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 0) -> list[str]:
    """The rows as lines without a frame, for files too: the first `left` columns are aligned to the
    left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def wide_console() -> Console:
    """A console whose tables are not cut: pipes and files have no width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(PIPE_WIDTH, console.width))


def cell(value: object) -> str:
    """A cell's text: floats with six digits."""
    if value is None:
        return NONE
    return f"{value:.6g}" if isinstance(value, float) else str(value)
