"""Which column of a source is what of a run, and which runs count."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.imports.rows import Row, Source
from analysis.tables.numbers import parse_number, shown
from cola.errors import SpecError, one_line

# What a run has, by the names of --map. The last ones are text.
NUMBERS = ("n", "d", "c", "loss", "budget", "seed")
LABELS = ("family", "name")
FIELDS = (*NUMBERS, *LABELS)
PATTERN_FIELDS = tuple(field for field in (*NUMBERS, "family") if field != "loss")
FORM = "n=params,d=tokens,loss=val/loss,c=flops,family=..."
WHERE = re.compile(r"(.+?)\s*(!=|>=|<=|=|>|<)\s*(.*)", re.DOTALL)
MULTIPLES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
IN_NAMES = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([kmbgtKMBGT]?)")
MOST_PLACES = 8  # in a message


def parse_map(texts: Sequence[str]) -> dict[str, str]:
    """Columns by field. A column's name may hold commas: only `,FIELD=` ends it.

    Raises:
        SpecError: a part that names no field, or a field that is given twice.
    """
    found: dict[str, str] = {}
    fields = "|".join(FIELDS)
    for text in texts:
        for part in re.split(rf",\s*(?=(?:{fields})\s*=)", text):
            field, equals, column = (each.strip() for each in part.partition("="))
            if field not in FIELDS or not equals or not column:
                raise SpecError(
                    f"--map {shown(part)}: write it as {FORM}; fields are {', '.join(FIELDS)}"
                )
            if field in found:
                raise SpecError(f"--map {part}: {field} is given twice; give one column for it")
            found[field] = column
    return found


def parse_pattern(text: str | None) -> re.Pattern[str] | None:
    """A pattern of names whose groups are fields of a run.

    Raises:
        SpecError: it is no regular expression, or its groups are no fields.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise SpecError(
            f"--name-pattern {shown(text)}: is no regular expression ({one_line(error)})"
        ) from None
    groups = set(pattern.groupindex)
    if not groups or not groups <= set(PATTERN_FIELDS):
        raise SpecError(
            f"--name-pattern {shown(text)}: needs groups named after fields, as "
            f"(?P<budget>...): {', '.join(PATTERN_FIELDS)}"
        )
    return pattern


def wanted_columns(mapping: Mapping[str, str], conditions: Sequence[Condition]) -> list[str]:
    """The columns that a source should have."""
    return list(dict.fromkeys([*mapping.values(), *(each.column for each in conditions)]))


@dataclass(frozen=True)
class Condition:
    """`column operator value`, of numbers where both are numbers, else of text."""

    column: str
    operator: str
    value: str

    def holds(self, row: Row) -> bool:
        """Whether a run meets it. An empty cell meets only `!=`, and `=` with nothing."""
        text = row.cells.get(self.column, "")
        left, right = _number(text), _number(self.value)
        if left is not None and right is not None:
            return COMPARE[self.operator](left, right)
        if self.operator == "=":
            return text == self.value
        if self.operator == "!=":
            return text != self.value
        return False

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"


COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """What --where asks for.

    Raises:
        SpecError: a text without an operator, or an order of what is no number.
    """
    found = []
    for text in texts:
        match = WHERE.fullmatch(text.strip())
        if match is None:
            raise SpecError(
                f"--where {shown(text)}: write it as COLUMN=VALUE, or with !=, <, <=, > or >="
            )
        condition = Condition(match[1].strip(), match[2], match[3].strip())
        if condition.operator not in ("=", "!=") and _number(condition.value) is None:
            raise SpecError(f"--where {shown(text)}: compares with {condition.value!r}, no number")
        found.append(condition)
    return found


def _number(text: str) -> float | None:
    try:
        value = parse_number(text)
    except ValueError:
        return None
    return value if value == value else None


def check_columns(source: Source, wanted: Sequence[str], option: Mapping[str, str]) -> None:
    """Refuse columns that no run has.

    Raises:
        SpecError: with the nearest names.
    """
    known = source.columns
    for column in wanted:
        if column in known:
            continue
        near = difflib.get_close_matches(column, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        where = option.get(column, "--where")
        names = ", ".join(known[:30]) + (f", ... ({len(known)} columns)" if len(known) > 30 else "")
        raise SpecError(
            f"{source.place}: no run has a column {column!r} (for {where}); {hint}It has {names}"
        )


def in_name(field: str, text: str) -> float:
    """The number that a part of a name stands for: 1e18, 70M, 1.4B.

    Raises:
        ValueError: it stands for none.
    """
    match = IN_NAMES.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} of its name is no {field}: write it as 1e18 or 1.4B")
    return float(match[1]) * MULTIPLES.get(match[2].lower(), 1.0)


def places_text(places: Sequence[str]) -> str:
    """Places of a source, cut where there are many."""
    more = f", ... ({len(places)} in all)" if len(places) > MOST_PLACES else ""
    return ", ".join(places[:MOST_PLACES]) + more
