"""Counts, durations and places of a ladder as text."""

from __future__ import annotations

import re
from collections.abc import Collection

from cola.errors import SpecError

DAY = 86_400.0
RUNGS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def count(value: float) -> str:
    """All digits below a million, else four digits and an SI prefix (M, G, T)."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as s, min, h or days, whichever reads best."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:.1f} days"


def rungs_in(text: str, where: str = "--rungs") -> frozenset[int]:
    """The places of a ladder that a text such as 0-2,5 names, counted from 0.

    Raises:
        SpecError: it has another form; `where` names its origin.
    """
    found: set[int] = set()
    for part in text.split(","):
        ends = RUNGS.fullmatch(part.strip())
        if ends is None or int(ends[1]) > int(ends[2] or ends[1]):
            raise SpecError(
                f"{where} {text}: is no list of rungs; write their places in the ladder, counted "
                "from 0, as 0-2,5"
            )
        found |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return frozenset(found)


def rungs_as_text(rungs: Collection[int]) -> str:
    """Places of a ladder as the shortest text that `rungs_in` reads: 0-2,5."""
    parts: list[list[int]] = []
    for rung in sorted(rungs):
        if parts and rung == parts[-1][-1] + 1:
            parts[-1].append(rung)
        else:
            parts.append([rung])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)
