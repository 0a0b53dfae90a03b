"""Numbers and their intervals in text."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite


def interval(ends: Sequence[float | None] | None, digits: str = ".5g") -> str:
    """low to high, or a dash; an end that is not known or infinite is left open."""
    if not ends or all(_is_unknown(end) for end in ends):
        return "–"
    low, high = ("..." if end is None or not isfinite(end) else f"{end:{digits}}" for end in ends)
    return f"{low} to {high}"


def with_interval(value: float, ends: Sequence[float | None] | None, digits: str = ".5g") -> str:
    """The number, with its interval in brackets where one is known."""
    number = f"{value:{digits}}"
    if not ends or all(_is_unknown(end) for end in ends):
        return number
    return f"{number} ({interval(ends, digits)})"


def _is_unknown(end: float | None) -> bool:
    return end is None or end != end
