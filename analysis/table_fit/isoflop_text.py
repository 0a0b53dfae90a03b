"""An IsoFLOP analysis for people: its optima as a table, two families in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from analysis.table_fit.intervals import with_interval

DIGITS = ".4g"  # five columns of numbers and their intervals


def optima_table(title: str, optima: list[dict[str, Any]]) -> RichTable:
    """One row a budget: its optimum with intervals, and what it rests on."""
    table = RichTable(title=Text(title))
    for column in ("C", "N*", "D*", "loss", "fitted sizes", "note"):
        table.add_column(column, justify="left" if column == "note" else "right")
    for each in optima:
        cells = [f"{each['compute']:{DIGITS}}"]
        if each["trouble"] is None:
            names = ("parameters", "tokens", "loss")
            cells += [
                with_interval(each[name], each.get(f"{name}_interval"), DIGITS) for name in names
            ]
            cells.append(f"{each['sizes']}: {each['smallest']:.3g} to {each['largest']:.3g}")
        else:
            cells += ["–", "–", "–", str(each["sizes"])]
        table.add_row(*map(Text, cells), Text(each["trouble"] or ""))
    return table


def profile_comparison(found: Mapping[str, Any]) -> str:
    """Difference of the exponents of size, and the multiplier."""
    difference = found["difference"]
    by = with_interval(difference["estimate"], difference["interval"], DIGITS)
    return f"{found['multiplier']['meaning']}; a differs by {by}"
