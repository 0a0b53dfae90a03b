"""Documents of one file, by its format: text as it is, rows of JSON, CSV and Parquet by a field."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from cola.byte_marks import HEAD_BYTES, compression_of
from cola.data.corpus_files import BLOCK_CHARACTERS, CorpusFile, SkippedFile
from cola.data.formats import check_is_fetched, nul_problem, open_bytes, open_text, text_blocks
from cola.errors import SpecError, one_line

_ROWS = 1024  # of a Parquet file, read at once
_LARGEST_CELL = 2**31 - 1
_TOKEN = 64  # characters: a JSON token other than a string is shorter

Row = tuple[str, Mapping[str, object]]  # with its place in the file


@dataclass
class ReadCounts:
    """What one pass over a corpus has met so far (bytes: UTF-8 bytes of text).

    `skipped_documents` are rows whose text is null, `blank_documents` those without a visible
    character; `files_without_text` are files of rows that gave no document.
    """

    documents: int = 0
    bytes: int = 0
    skipped_documents: int = 0
    blank_documents: int = 0
    skipped: tuple[SkippedFile, ...] = ()
    files_without_text: list[str] = field(default_factory=list)

    @property
    def skipped_files(self) -> int:
        """Files that were left out."""
        return len(self.skipped)


def file_documents(
    file: CorpusFile, text_field: str, counts: ReadCounts, *, key: str
) -> Iterator[Iterable[str]]:
    """Every document of a file, each in blocks of text.

    Raises:
        SpecError: beginning with `key`=path, with the line of what is wrong and the remedy.
    """
    where = f"{key}={file.path}"
    if file.format == "text":
        yield text_blocks(file.path, where, BLOCK_CHARACTERS)
        return
    for place, row in file_rows(file, text_field, where):
        yield from row_text(row, text_field, f"{where}: {place}", counts=counts)


def file_rows(file: CorpusFile, text_field: str, where: str) -> Iterator[Row]:
    """Every row of a file of rows; of a Parquet file the text's column alone.

    Raises:
        SpecError: beginning with `where`.
    """
    if file.format == "parquet":
        yield from _parquet_rows(file.path, text_field, where)
        return
    with open_text(file.path, where) as handle:
        if file.format == "json-lines":
            yield from _json_lines(handle, where)
        elif file.format == "json":
            yield from _json_values(_Scanner(handle, where))
        elif file.format in ("csv", "tsv"):
            delimiter = "\t" if file.format == "tsv" else ","
            yield from _table_rows(_without_nul(handle, file.path, where), where, delimiter)
        else:  # text, a row a line
            for number, line in enumerate(_without_nul(handle, file.path, where), start=1):
                yield f"line {number}", {"text": line.rstrip("\r\n")}


def row_text(
    row: Mapping[str, object], text_field: str, where: str, *, counts: ReadCounts
) -> Iterator[Iterable[str]]:
    """The row's text as one document in blocks; nothing (but a count) when it is null.

    Raises:
        SpecError: the row has no such field, or no text in it.
    """
    if text_field not in row:
        names = one_line(", ".join(map(str, row)))
        raise SpecError(f"{_field(text_field, where)}: no such field ({where}); one of: {names}")
    text = row[text_field]
    if text is None:
        counts.skipped_documents += 1
    elif isinstance(text, str):
        yield (
            text[start : start + BLOCK_CHARACTERS]
            for start in range(0, len(text), BLOCK_CHARACTERS)
        )
    else:
        raise SpecError(
            f"{_field(text_field, where)}: holds {type(text).__name__}, not text ({where}); "
            "name a field of strings"
        )


def _field(name: str, where: str) -> str:
    """What names the field of the text: the study's key, or nothing for files of an option."""
    return f"data.corpus.text_field={name}" if where.startswith("data.") else f"field {name!r}"


def _json_lines(handle: TextIO, where: str) -> Iterator[Row]:
    first = True
    for number, line in enumerate(handle, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if first and line.strip() in ("[", "{"):
                raise _of_several_lines(f"{where}: line {number}", line) from error
            raise _not_json(f"{where}: line {number}", error, line) from error
        if isinstance(row, list) and first:
            raise _of_several_lines(f"{where}: line {number}", "[")
        first = False
        yield f"line {number}", _object(row, f"{where}: line {number}")


def _of_several_lines(where: str, line: str) -> SpecError:
    found = "an array" if line.startswith("[") else "the beginning of one"
    return SpecError(f"{where} is not a JSON object but {found}; name the file .json")


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SpecError(
            f"{where} is not a JSON object ({one_line(json.dumps(value), 40)}); "
            'write {"text": ...}'
        )
    return value


def _not_json(where: str, error: Exception, text: str) -> SpecError:
    cause = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
    if text.lstrip().startswith("\0") or "\0" in text[:_TOKEN]:
        cause = "it holds NUL characters, as UTF-16 without a mark does"
    return SpecError(f"{where} is not JSON ({cause}); mend or remove it")


class _Scanner:
    """JSON values of a text of any length, one after the other, with their lines."""

    def __init__(self, handle: TextIO, where: str) -> None:
        self._handle, self.where = handle, where
        self._decoder = json.JSONDecoder()
        self._buffer, self._at, self._counted, self._line = "", 0, 0, 1
        self._ended = False

    @property
    def place(self) -> str:
        """The line of what comes next."""
        self._line += self._buffer.count("\n", self._counted, self._at)
        self._counted = self._at
        return f"line {self._line}"

    def next_character(self) -> str:
        """The next character that is not white space, which is left there; empty at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in " \t\r\n":
                    return self._buffer[self._at]
                self._at += 1
            if not self._read():
                return ""

    def skip(self) -> None:
        """Go past one character."""
        self._at += 1

    def value(self) -> object:
        """The value that comes next.

        Raises:
            SpecError: there is none, or it is cut short.
        """
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._buffer, self._at)
                return value
            except (ValueError, RecursionError) as error:
                # What is wrong at the end of the buffer may only be cut off there.
                at = getattr(error, "pos", 0)
                cut = str(error).startswith("Unterminated") or len(self._buffer) - at < _TOKEN
                if isinstance(error, json.JSONDecodeError) and cut and self._read():
                    continue
                raise _not_json(f"{self.where}: {self._place_of(error)}", error, "") from error

    def _place_of(self, error: Exception) -> str:
        place = self.place
        if isinstance(error, json.JSONDecodeError):
            place = f"line {self._line + self._buffer.count(chr(10), self._at, error.pos)}"
            error.args = (f"{error.msg} at character {error.pos - self._at} of the value",)
        return place

    def _read(self) -> bool:
        """Add a block to the buffer; False at the end of the file."""
        if self._ended:
            return False
        kept = self._buffer[self._at :]
        _ = self.place  # counts the lines that are dropped
        block = self._handle.read(max(BLOCK_CHARACTERS, len(kept)))
        self._buffer, self._at, self._counted = kept + block, 0, 0
        self._ended = not block
        return bool(block)


def _json_values(scanner: _Scanner) -> Iterator[Row]:
    """The objects of one array, or objects one after the other (lines of JSON among them)."""
    where, inside = scanner.where, scanner.next_character() == "["
    if inside:
        scanner.skip()
        if scanner.next_character() == "]":
            scanner.skip()
            inside = False
    while inside or scanner.next_character():
        scanner.next_character()
        place = scanner.place
        yield place, _object(scanner.value(), f"{where}: {place}")
        if not inside:
            continue
        mark = scanner.next_character()
        if mark not in (",", "]"):
            found = f"found {mark!r}" if mark else "the file ends here, it is cut short"
            raise SpecError(
                f"{where}: {scanner.place} is not JSON (a comma or ] is missing, {found}); mend it"
            )
        scanner.skip()
        if mark == "]":
            inside = False
            if scanner.next_character():
                raise SpecError(
                    f"{where}: {scanner.place} is not JSON (text behind the array's end); mend it"
                )


def _without_nul(handle: TextIO, path: Path, where: str) -> Iterator[str]:
    for number, line in enumerate(handle, start=1):
        if "\0" in line:
            raise SpecError(f"{where}: {nul_problem(number, path)}")
        yield line


def _table_rows(lines: Iterator[str], where: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header: list[str] | None = None
        before = 0
        while (cells := _next_record(reader)) is not None:
            place, before = f"line {before + 1}", reader.line_num
            if not cells:
                continue
            if header is None:
                header = _header(cells, where, delimiter)
                continue
            if len(cells) != len(header):
                raise SpecError(
                    f"{where}: {place} has {len(cells)} fields, the header {len(header)}; mend it "
                    "(text with separators or line ends stands in double quotes)"
                )
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise SpecError(
            f"{where}: line {before + 1} is not {'CSV' if delimiter == ',' else 'TSV'} "
            f"({one_line(error)}); text with quotes stands in double quotes, its own ones doubled"
        ) from error


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    """The next record, None after the last one.

    The limit of a cell belongs to the process and its default refuses long documents: it is raised
    for one record at a time, so that readers of other files keep theirs.
    """
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _header(cells: list[str], where: str, delimiter: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SpecError(f"{where}: the header names {twice!r} twice; rename one of the columns")
    other = next((mark for mark in ";\t|," if mark in cells[0]), "")
    if len(names) == 1 and other not in ("", delimiter):
        raise SpecError(
            f"{where}: its columns seem to be separated by {other!r}; use commas in .csv files and "
            "tabs in .tsv files"
        )
    return names


def _parquet_rows(path: Path, text_field: str, where: str) -> Iterator[Row]:
    import pyarrow as pa  # heavy: only for this format
    import pyarrow.parquet as parquet

    try:
        with ExitStack() as stack:
            file = stack.enter_context(
                parquet.ParquetFile(_parquet_source(path, where), page_checksum_verification=True)
            )
            names = file.schema_arrow.names
            if text_field not in names:
                yield "its columns", dict.fromkeys(names)
                return
            number = 0
            for batch in file.iter_batches(_ROWS, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f"row {number}", {text_field: text}
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise SpecError(
            f"{where}: cannot be read as Parquet ({one_line(error, 120)}); copy it again, or "
            "rename it if it is something else"
        ) from error


def _parquet_source(path: Path, where: str) -> Any:
    """The file, or its content in memory where it is compressed as a whole."""
    import pyarrow as pa

    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    check_is_fetched(head, where)
    if compression_of(head) is None:
        return str(path)
    with open_bytes(path, where) as stream:
        return pa.BufferReader(stream.read())
