"""The columns of a table that a fit reads: numbers, labels, and which rows count.

Labels are text as written. A row that lacks a number that is needed is left out, with a note; a
number that cannot be right, and a blank label, are errors that name their lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.numbers import NUMBER, parse_number, shown
from analysis.tables.records import (
    DELIMITERS,
    Record,
    Records,
    line_with,
    lines_text,
    read_records,
)
from cola.errors import SpecError

OPTIONS = {
    "loss": "--loss",
    "parameters": "--n",
    "tokens": "--d",
    "compute": "--flops",
    "group": "--group",
    "budget": "--budget",
    "run": "--run",
    "accuracy": "--accuracy",
    "unique": "--unique",
    "setting": "--y",
    "throughput": "--throughput",
    "step": "--step",
    "rate": "--lr",
    "measured": "--loss",
}
# Numbers without which a row is no point.
NEEDED = (
    "loss", "parameters", "tokens", "compute", "unique", "setting", "throughput", "step", "rate",
)  # fmt: skip
OPTIONAL = ("accuracy", "measured")  # numbers that single rows may lack
LABELS = ("group", "budget", "run")
MOST_NAMES = 20  # of columns in a message
MOST_STEPS = 20_000_000  # of a run whose rate is followed step by step


@dataclass(frozen=True)
class Columns:
    """Names of the CSV's columns; None: the file has none. Compute defaults to 6 N D, tokens to
    C / (6 N)."""

    loss: str | None = "loss"
    n: str | None = None
    d: str | None = None
    compute: str | None = None
    group: str | None = None
    budget: str | None = None
    run: str | None = None
    accuracy: str | None = None
    unique: str | None = None
    setting: str | None = None
    throughput: str | None = None
    step: str | None = None
    rate: str | None = None
    measured: str | None = None  # a loss that rows of a curve may lack

    def given(self) -> dict[str, str]:
        """What is read from the file, by our name."""
        names = {
            "loss": self.loss,
            "parameters": self.n,
            "tokens": self.d,
            "compute": self.compute,
            "group": self.group,
            "budget": self.budget,
            "run": self.run,
            "accuracy": self.accuracy,
            "unique": self.unique,
            "setting": self.setting,
            "throughput": self.throughput,
            "step": self.step,
            "rate": self.rate,
            "measured": self.measured,
        }
        return {ours: theirs.strip() for ours, theirs in names.items() if theirs is not None}


@dataclass(frozen=True)
class LeftOut:
    """Rows that no fit sees, by their lines in the file."""

    reason: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class RowCounts:
    """What became of a file's rows."""

    in_file: int
    left_out: tuple[LeftOut, ...] = ()

    @property
    def used(self) -> int:
        """Rows that count."""
        return self.in_file - sum(len(each.lines) for each in self.left_out)

    def without(self, reason: str, lines: Sequence[int]) -> RowCounts:
        """The same with further rows left out."""
        if not lines:
            return self
        return RowCounts(self.in_file, (*self.left_out, LeftOut(reason, tuple(lines))))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        left_out = [asdict(each) for each in self.left_out]
        return {"in_file": self.in_file, "used": self.used, "left_out": left_out}


@dataclass(frozen=True)
class ColumnTable:
    """`rows`: `line` of the file, numbers as float (accuracy NaN where it is empty), labels as text
    (the budget's too)."""

    rows: pd.DataFrame
    counts: RowCounts
    notes: tuple[str, ...]


def read_columns(path: Path, columns: Columns) -> ColumnTable:
    """Read the columns that are given, check every cell, leave out what is no point.

    Raises:
        SpecError: a file that is no such table, a column that it lacks or has twice, a cell that is
            not what its column needs, no row that is left.
    """
    given = columns.given()
    _check_different(given)
    records = read_records(path, tuple(given.values()))
    place = _places(path, records, given)
    notes = [f"fields are separated by {_separator(records)}"] if records.delimiter != "," else []
    if records.comments:
        notes.append(f"{lines_text(records.comments)}: skipped as comments (#)")
    counts = RowCounts(len(records.rows)).without(
        "all cells are empty", [row.line for row in records.rows if row.is_empty]
    )
    filled = [row for row in records.rows if not row.is_empty]
    frame = pd.DataFrame({"line": [row.line for row in filled]})
    for ours, theirs in given.items():
        cells = [row.fields[place[ours]] for row in filled]
        if ours in LABELS:
            frame[ours] = pd.Series(cells, dtype=object)
        else:
            where = f"{path}: ", f"column {theirs!r}"
            frame[ours] = _numbers(cells, frame["line"].tolist(), ours, where=where)
    frame, counts, more = _complete_rows(path, frame, counts, given=given)
    _check_labels(path, frame, given)
    labels = {place[name] for name in LABELS if name in given}
    twice = _repeated(filled, set(frame["line"]), set(place.values()) - labels)
    if twice:
        counts = counts.without("equal in all columns to another row", twice)
        frame = frame[~frame["line"].isin(twice)]
        many = len(twice) > 1
        which = "rows are exact duplicates" if many else "row is an exact duplicate"
        more.append(
            f"{len(twice)} {which} of others and count{'' if many else 's'} once "
            f"({lines_text(twice)}); a column that tells runs apart (a seed) makes them "
            "measurements"
        )
    more += _accuracy_gaps(path, frame, given)
    return ColumnTable(frame.reset_index(drop=True), counts, (*notes, *more))


def _separator(records: Records) -> str:
    return DELIMITERS.get(records.delimiter, repr(records.delimiter))


def _check_different(given: dict[str, str]) -> None:
    """Raises: SpecError, where one column is to be two quantities."""
    seen: dict[str, str] = {}
    for ours in (*NEEDED, *OPTIONAL):
        name = given.get(ours)
        if name is None:
            continue
        if name in seen:
            raise SpecError(
                f"column {name!r} is given for both {OPTIONS[seen[name]]} and {OPTIONS[ours]}; "
                "give each its own"
            )
        seen[name] = ours


def _places(path: Path, records: Records, given: dict[str, str]) -> dict[str, int]:
    """Number of each column in the file."""
    names, line = records.header.fields, records.header.line
    for ours, theirs in given.items():
        if theirs not in names or not theirs:
            raise SpecError(_missing(path, records, theirs, option=OPTIONS[ours], given=given))
        if names.count(theirs) > 1:
            raise SpecError(
                f"{path}: line {line} names {names.count(theirs)} columns {theirs!r} (for "
                f"{OPTIONS[ours]}); rename or remove all but one"
            )
    return {ours: names.index(theirs) for ours, theirs in given.items()}


def _missing(path: Path, records: Records, name: str, *, option: str, given: dict[str, str]) -> str:
    names, line = [each for each in records.header.fields if each], records.header.line
    problem = f"{path}: line {line} (the header) has no column {name!r} (for {option})"
    other = line_with(path, tuple(given.values()))
    if other is not None:
        return f"{problem}; line {other} has it: remove the lines above it"
    if len(records.rows) and all(_is_number(each) for each in names):
        return f"{problem} but numbers; add a line with the columns' names"
    folded = {each.casefold(): each for each in names}
    near = [folded[each] for each in difflib.get_close_matches(name.casefold(), list(folded), n=3)]
    if near:
        problem += f"; did you mean {' or '.join(map(repr, near))}"
    if len(names) == 1 and set(given.values()) <= set(names[0].split()):
        return f"{problem}: its columns are separated by spaces; separate them by commas"
    more = f", ... ({len(names)} columns)" if len(names) > MOST_NAMES else ""
    return f"{problem}; it has {', '.join(map(shown, names[:MOST_NAMES]))}{more}"


def _is_number(cell: str) -> bool:
    try:
        return parse_number(cell) is not None
    except ValueError:
        return False


def _numbers(
    cells: list[str], lines: list[int], ours: str, *, where: tuple[str, str]
) -> list[float]:
    """Numbers of a column, NaN where a cell is empty.

    Raises:
        SpecError: for the first cell that is none, with the lines of the others.
    """
    check, values = CHECKS[ours], []
    wrong: list[tuple[int, str, str]] = []
    for line, cell in zip(lines, cells, strict=True):
        try:
            values.append(parse_number(cell))
            check(values[-1])
        except ValueError as error:
            wrong.append((line, cell, str(error)))
    if wrong:
        path, column = where
        line, cell, reason = wrong[0]
        others = [each[0] for each in wrong[1:]]
        more = f" (also {lines_text(others)})" if others else ""
        raise SpecError(f"{path}line {line}, {column}: {shown(cell)} {reason}{more}")
    return values


def _check_positive(value: float) -> None:
    if value <= 0:
        raise ValueError("is not positive; remove the row or mend it")


def _check_loss(value: float) -> None:
    if value <= 0:
        raise ValueError(
            "is not positive: the loss is a mean negative log-likelihood in nats a token; remove "
            "the row or mend it"
        )


def _check_step(value: float) -> None:
    if value < 0 or value % 1 > 0:
        raise ValueError("is no step; give whole numbers of optimiser steps, counted from 1")
    if value > MOST_STEPS:
        raise ValueError(f"is beyond {MOST_STEPS:g} steps; give optimiser steps, not tokens")


def _check_rate(value: float) -> None:
    if value < 0:
        raise ValueError("is no learning rate; give positive numbers")


def _check_accuracy(value: float) -> None:
    if 1 < value <= 100:
        raise ValueError(
            f"is above 1: accuracies are fractions; write {value / 100:.10g} for a percentage"
        )
    if value < 0 or value > 100:
        raise ValueError("is no accuracy; give fractions from 0 to 1")


CHECKS: dict[str, Callable[[float], None]] = {
    "loss": _check_loss,
    "parameters": _check_positive,
    "tokens": _check_positive,
    "compute": _check_positive,
    "unique": _check_positive,
    "setting": _check_positive,
    "throughput": _check_positive,
    "accuracy": _check_accuracy,
    "step": _check_step,
    "rate": _check_rate,
    "measured": _check_loss,
}


def _complete_rows(
    path: Path, frame: pd.DataFrame, counts: RowCounts, *, given: dict[str, str]
) -> tuple[pd.DataFrame, RowCounts, list[str]]:
    """Rows with all numbers that are needed, and notes on the others."""
    needed, notes = [name for name in NEEDED if name in given], []
    for name in [*needed, *(each for each in OPTIONAL if each in given)]:
        if frame[name].isna().all():
            raise SpecError(
                f"{path}: column {given[name]!r} (for {OPTIONS[name]}) is empty in all "
                f"rows ({lines_text(frame['line'].tolist())}); give a column that holds numbers"
            )
    empty = [each.lines for each in counts.left_out]
    if empty:
        notes.append(f"rows without any value are left out ({lines_text(empty[0])})")
    for name in needed:
        lines = frame.loc[frame[name].isna(), "line"].tolist()
        if not lines:
            continue
        reason = f"column {given[name]!r} holds no number"
        counts = counts.without(reason, lines)
        frame = frame[frame[name].notna()]
        rows = "row is" if len(lines) == 1 else "rows are"
        notes.append(f"{len(lines)} {rows} left out: {reason} ({lines_text(lines)})")
    if frame.empty:
        names = ", ".join(repr(given[name]) for name in needed)
        raise SpecError(f"{path}: no row has a number in all of {names}; complete the rows")
    return frame, counts, notes


def _check_labels(path: Path, frame: pd.DataFrame, given: dict[str, str]) -> None:
    """Raises: SpecError, for blank labels."""
    for name in (each for each in LABELS if each in given):
        blank = frame.loc[frame[name] == "", "line"].tolist()
        if blank:
            raise SpecError(
                f"{path}: {lines_text(blank)}: column {given[name]!r} (for {OPTIONS[name]}) is "
                "blank; write a label, as None, or remove the rows"
            )


def _repeated(rows: Sequence[Record], kept: set[int], numbers: set[int]) -> list[int]:
    """Lines of rows that are equal in all columns of the file to a row above them.

    In the columns `numbers` cells are equal however they are written (2.5, 2.50).
    """
    seen: set[tuple[str | float, ...]] = set()
    found = []
    for row in rows:
        if row.line not in kept:
            continue
        key = tuple(
            float(field) if at in numbers and NUMBER.fullmatch(field) else field
            for at, field in enumerate(row.fields)
        )
        if key in seen:
            found.append(row.line)
        seen.add(key)
    return found


def _accuracy_gaps(path: Path, frame: pd.DataFrame, given: dict[str, str]) -> list[str]:
    if "accuracy" not in given:
        return []
    gaps = frame.loc[frame["accuracy"].isna(), "line"].tolist()
    if len(gaps) == len(frame):
        raise SpecError(
            f"{path}: no row that counts has an accuracy in column {given['accuracy']!r}; complete "
            "the rows"
        )
    if not gaps:
        return []
    return [
        f"accuracy: {len(frame) - len(gaps)} rows are used, as column {given['accuracy']!r} is "
        f"empty in {len(gaps)} others ({lines_text(gaps)}); the loss is fitted to all {len(frame)}"
    ]
