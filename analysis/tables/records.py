"""A table's text -> its header and records, each with the line of the file that it begins on.

RFC 4180 with a header; also semicolons, tabs or bars between fields where the header then has the
columns asked for, blank lines, and comment lines (`#`). A record of another length than the header
is refused: nothing tells which of its fields belongs where.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.tables.source import read_text
from cola.errors import SpecError, one_line

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
NO_WIDTH = "\u200b\u200e\u200f\u2060\ufeff"  # spaces, direction and byte-order marks
SHOWN = 8  # ranges of lines in a message
EXCEL_DIRECTIVE = re.compile(r'"?sep=([,;\t|:])"?\s*', re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """Stripped fields, as many as the header has; `line`: of the file, from 1."""

    line: int
    fields: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """No field holds anything."""
        return not any(self.fields)


@dataclass(frozen=True)
class Records:
    """`comments`: lines that were skipped as comments."""

    header: Record
    rows: tuple[Record, ...]
    delimiter: str
    comments: tuple[int, ...]


def lines_text(lines: Sequence[int]) -> str:
    """`line 4`, `lines 4, 7-9`, `lines 4, 7, ... (20 lines)`."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], line]
        else:
            ranges.append([line])
    shown = ", ".join("-".join(map(str, each)) for each in ranges[:SHOWN])
    if len(ranges) > SHOWN:
        return f"lines {shown}, ... ({len(lines)} lines)"
    return f"line{'s' if len(lines) > 1 else ''} {shown}"


def read_records(path: Path, wanted: Sequence[str]) -> Records:
    """All records of a file whose header should have the columns `wanted`.

    Where it lacks one, records are returned as they are, for the caller to refuse.

    Raises:
        SpecError: a file without rows, records of another length than the header, open quotes, a
            line that may be a comment or a row.
    """
    lines = list(io.StringIO(read_text(path), newline=""))
    header, delimiter, following = _header(path, lines, wanted)
    rows, comments, marked = [], [], []
    ragged: list[tuple[int, int]] = []
    width, at = len(header.fields), following
    while at < len(lines):
        number, hash_sign = at + 1, lines[at].lstrip(" ").startswith("#")
        if not lines[at].strip() or (hash_sign and _width(lines[at], delimiter) != width):
            comments += [number] if hash_sign else []
            at += 1
            continue
        fields, at = _record(path, lines, at, delimiter=delimiter, width=width)
        if not any(fields):
            fields = ("",) * width
        elif len(fields) != width:
            ragged.append((number, len(fields)))
        marked += [number] if hash_sign else []
        rows.append(Record(number, fields))
    if all(row.is_empty for row in rows):
        raise SpecError(
            f"{path}: holds no rows below its header (line {header.line}); give a table with one "
            "row a run"
        )
    if not set(wanted) <= set(header.fields):
        return Records(header, tuple(rows), delimiter, tuple(comments))
    if ragged:
        _refuse_ragged(path, lines, ragged, width=width, delimiter=delimiter)
    again = [row.line for row in rows if row.fields == header.fields]
    if again:
        raise SpecError(
            f"{path}: {lines_text(again)} repeat{'' if len(again) > 1 else 's'} the header, as "
            "where files are joined; remove it there"
        )
    if marked and len(marked) < len(rows):
        raise SpecError(
            f"{path}: {lines_text(marked)} begins with # and has as many fields as a row: remove a "
            "comment, or put a label in quotation marks"
        )
    return Records(header, tuple(rows), delimiter, tuple(comments))


def line_with(path: Path, wanted: Sequence[str]) -> int | None:
    """The first line whose fields hold all of these names, whatever stands between fields."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=""), 1):
        if any(set(wanted) <= set(_split(line, delimiter)) for delimiter in DELIMITERS):
            return number
    return None


def _header(path: Path, lines: list[str], wanted: Sequence[str]) -> tuple[Record, str, int]:
    """The header, what stands between fields, and the index of the line after the header."""
    delimiters = list(DELIMITERS)
    for at, line in enumerate(lines):
        directive = EXCEL_DIRECTIVE.fullmatch(line)
        if directive and at == 0:
            delimiters = [directive[1]]
            continue
        if not line.strip().strip("".join(delimiters)):
            continue
        hash_sign = line.lstrip(" ").startswith("#")
        bare = [line.lstrip(" ").lstrip("#")]  # as NumPy and others mark a header
        sources = [(lines, at), (bare, 0)] if hash_sign else [(lines, at)]
        for source, start in sources:
            for delimiter in delimiters:
                fields, end = _record_or_none(path, source, start, delimiter=delimiter)
                if fields and set(wanted) <= set(fields):
                    return Record(at + 1, fields), delimiter, at + end - start
        if not hash_sign:
            delimiter = max(delimiters, key=lambda each: _width(line, each))
            fields, end = _record(path, lines, at, delimiter=delimiter)
            return Record(at + 1, fields), delimiter, end
    raise SpecError(f"{path}: is empty: it holds no rows; give a table with a header and rows")


def _record_or_none(
    path: Path, lines: list[str], at: int, *, delimiter: str
) -> tuple[tuple[str, ...] | None, int]:
    try:
        return _record(path, lines, at, delimiter=delimiter)
    except SpecError:
        return None, at


def _record(
    path: Path, lines: list[str], at: int, *, delimiter: str, width: int | None = None
) -> tuple[tuple[str, ...], int]:
    """The record that begins with the line of this index, and the index of the line after it."""
    end = at

    def feed() -> Iterator[str]:
        nonlocal end
        while end < len(lines):
            end += 1
            yield lines[end - 1]

    try:
        fields = next(csv.reader(feed(), delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        open_quote = "end of data" in str(error)
        problem = "a quotation mark is not closed" if open_quote else one_line(error)
        raise SpecError(
            f"{path}: line {at + 1} cannot be read: {problem}; close quotation marks, and write "
            'one inside a field twice ("")'
        ) from None
    # A stray quotation mark that meets another one swallows the delimiters of whole records.
    for field in fields:
        if width and ("\n" in field or "\r" in field) and field.count(delimiter) >= width - 1:
            raise SpecError(
                f"{path}: a quotation mark that opens in line {at + 1} closes in line {end} and "
                "takes whole rows into one field; close it where the field ends"
            )
    return tuple(map(_bare, fields)), end


def _bare(field: str) -> str:
    """A field without space and marks of no width around it: two labels look alike with these."""
    return field.strip().strip(NO_WIDTH).strip()


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    """Fields of a line by itself; open quotes do not matter."""
    try:
        fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a field beyond the reader's limit
        return (line,)
    return tuple(map(_bare, fields))


def _width(line: str, delimiter: str) -> int:
    return len(_split(line, delimiter))


def _refuse_ragged(
    path: Path, lines: list[str], ragged: list[tuple[int, int]], *, width: int, delimiter: str
) -> None:
    """Raises: SpecError, with the first of these (line, fields), their number and the remedy."""
    line, fields = ragged[0]
    text = lines[line - 1]
    other = next((d for d in DELIMITERS if d != delimiter and _width(text, d) == width), None)
    if other and width > 1:
        remedy = f"its fields are separated by {DELIMITERS[other]}: use one separator throughout"
    elif fields < width:
        remedy = "the line is cut off or lacks a field: complete or remove it"
    elif not any(_split(text, delimiter)[width:]):
        remedy = "a separator follows the last field: remove it, or name a further column"
    else:
        remedy = (
            "write decimals with a point, thousands without a separator, and text that holds a "
            "separator in quotation marks"
        )
    more = f"; {len(ragged)} lines differ from it" if len(ragged) > 1 else ""
    plural = "" if fields == 1 else "s"
    raise SpecError(
        f"{path}: line {line} has {fields} field{plural}, the header {width}{more}; {remedy}"
    )
