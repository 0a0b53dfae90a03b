"""Numbers as people read them: counts and durations."""

from __future__ import annotations

DAY = 86_400.0


def count(value: float) -> str:
    """In full up to a million, with three digits and an SI prefix from there."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:.1f} days"
