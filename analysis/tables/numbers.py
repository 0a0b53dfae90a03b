"""A cell -> a number, or the reason why it is none and how to write it."""

from __future__ import annotations

import math
import re

# Spellings that tools give a number that is not there, without regard to case.
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INFINITE = re.compile(r"[+-]?(inf|infinity|∞)", re.IGNORECASE)
# `1.2B`, `3 GFLOPs`: a number, the prefix of a multiple, and letters after it.
SCALED = re.compile(r"([+-]?\d*\.?\d+)\s*([kmbgtpz])[a-z/]*", re.IGNORECASE)
POWERS = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "p": 15, "z": 21}
PERCENTAGE = re.compile(r"([+-]?\d*\.?\d+)\s*%")
SEPARATED = re.compile(r"[+-]?\d+([,.'_\s]\d+)+([eE][+-]?\d+)?")
LONGEST = 40  # characters of a cell in a message


def parse_number(cell: str) -> float:
    """The finite number that a stripped cell holds; NaN where it holds none.

    Raises:
        ValueError: for anything else; the text says what the cell is and how to write it.
    """
    if NUMBER.fullmatch(cell):
        value = float(cell)
        if math.isfinite(value):
            return value
    elif cell.casefold() in MISSING:
        return math.nan
    raise ValueError(_reason(cell))


def shown(cell: str) -> str:
    """A cell as a message quotes it."""
    return repr(cell if len(cell) <= LONGEST else f"{cell[:LONGEST]}...")


def _reason(cell: str) -> str:
    if INFINITE.fullmatch(cell) or NUMBER.fullmatch(cell):
        return "is not finite; remove the row or mend it"
    if match := PERCENTAGE.fullmatch(cell):
        return f"is a percentage; write the fraction {float(match[1]) / 100:.10g}"
    if match := SCALED.fullmatch(cell):
        return f"has a unit; write {match[1]}e{POWERS[match[2].lower()]}, without a unit"
    if SEPARATED.fullmatch(cell):
        return "is not a number; write decimals with a point and thousands without a separator"
    if re.search(r"\d", cell):
        return "is not a number; write digits alone, without signs, units or notes (as 1.5e9)"
    return "is not a number; give a number or leave the cell empty"
