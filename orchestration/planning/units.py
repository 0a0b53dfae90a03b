"""Counts and durations as text."""

from __future__ import annotations

DAY = 86_400.0


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
