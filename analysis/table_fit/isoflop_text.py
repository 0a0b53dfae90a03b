"""An IsoFLOP analysis for people: its optima as a table, two families in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

DIGITS = ".4g"


def optima_table(title: str, optima: list[dict[str, Any]]) -> RichTable:
    """One row a budget: its optimum with intervals, and what it rests on."""
    table = RichTable(title=Text(title))
    for column in ("C", "N*", "D*", "loss", "fitted sizes", "note"):
        table.add_column(column, justify="left" if column == "note" else "right")
    for each in optima:
        cells = [f"{each['compute']:{DIGITS}}"]
        if each["trouble"] is None:
            names = ("parameters", "tokens", "loss")
            cells += [_with_ends(each[name], each.get(f"{name}_interval")) for name in names]
            cells.append(f"{each['sizes']}: {each['smallest']:.3g} to {each['largest']:.3g}")
        else:
            cells += ["–", "–", "–", str(each["sizes"])]
        table.add_row(*map(Text, cells), Text(each["trouble"] or ""))
    return table


def _with_ends(value: float, ends: list[float] | None) -> str:
    if not ends or any(end != end for end in ends):
        return f"{value:{DIGITS}}"
    return f"{value:{DIGITS}} ({ends[0]:{DIGITS}} to {ends[1]:{DIGITS}})"


def profile_comparison(found: Mapping[str, Any]) -> str:
    """Difference of the exponents of size, and the multiplier."""
    difference = _with_ends(found["difference"]["estimate"], found["difference"]["interval"])
    return f"{found['multiplier']['meaning']}; a differs by {difference}"
