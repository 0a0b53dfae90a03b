"""A file's bytes -> its text, or the one line that says what the file is instead."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from cola.byte_marks import compression_of, encoding_of
from cola.errors import SpecError, one_line

UNPACKERS: dict[str | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
}
# First bytes of what is often given for a CSV (each from the format's specification) -> its name
# and what to do.
PANDAS = "convert it: pandas.read_{0}(path).to_csv('table.csv', index=False)"
OTHER_FORMATS = {
    b"PAR1": ("a Parquet file", PANDAS.format("parquet")),
    b"ARROW1": ("an Arrow (Feather) file", PANDAS.format("feather")),
    b"PK\x03\x04": ("a zip archive or a workbook", "unpack it, or export its sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "export its sheet as CSV"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it: zstd -d"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"\x89HDF": ("an HDF5 file", PANDAS.format("hdf")),
    b"\x93NUMPY": ("a NumPy file", "write it as CSV with a header"),
    b"%PDF": ("a PDF", "give the table as CSV"),
    b"version https://git-lfs": ("a Git LFS pointer and not the data", "run git lfs pull"),
}
LINE_BREAK = re.compile(r"\r\n|\r|\n")


def read_text(path: Path) -> str:
    """The text of a table in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

    gzip, bzip2 and xz are unpacked.

    Raises:
        SpecError: a file that cannot be read, is of another format, or is not text in UTF-8.
    """
    text = text_of(path)
    _check_not_other_text(path, text.lstrip())
    return text


def text_of(path: Path) -> str:
    """The same of a file that may be JSON, a web page or another kind of text.

    Raises:
        SpecError: see `read_text`.
    """
    data = _unpacked(path, _bytes(path))
    for start, (name, remedy) in OTHER_FORMATS.items():
        if data.startswith(start):
            raise SpecError(f"{path}: is {name}, not a CSV file; {remedy}")
    text = _decoded(path, data)
    if "\0" in text:
        line = line_at(text[: text.index("\0")])
        raise SpecError(
            f"{path}: line {line} holds a NUL byte: the file is damaged, or UTF-16 without a "
            "byte-order mark; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
        )
    return text


def line_at(before: str) -> int:
    """Number (from 1) of the line that follows this much text."""
    return len(LINE_BREAK.findall(before)) + 1


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise SpecError(f"{path}: is a directory; give a CSV file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file; give a CSV file") from None
    except OSError as error:
        raise SpecError(
            f"{path}: is not a CSV file that can be read ({one_line(error)}); give another"
        ) from None


def _unpacked(path: Path, data: bytes) -> bytes:
    unpack = UNPACKERS.get(compression_of(data))
    if unpack is None:
        return data
    try:
        return unpack(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise SpecError(
            f"{path}: cannot be unpacked ({one_line(error)}): is it cut off? give it again"
        ) from None


def _decoded(path: Path, data: bytes) -> str:
    encoding = encoding_of(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, errors="ignore")
        kind = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        byte = error.object[error.start]
        raise SpecError(
            f"{path}: line {line_at(before)} is not text in {kind} (byte "
            f"0x{byte:02x}); save the file as UTF-8 (from Latin-1: iconv -f LATIN1 "
            "-t UTF-8)"
        ) from None


def _check_not_other_text(path: Path, text: str) -> None:
    if text[:1] in ("{", "["):
        first = LINE_BREAK.split(text, maxsplit=1)[0]
        for part, name, lines in ((first, "JSON lines", "True"), (text, "JSON", "False")):
            if _is_json(part):
                raise SpecError(
                    f"{path}: is {name}, not a CSV file; convert it: pandas.read_json(path, "
                    f"lines={lines}).to_csv('table.csv', index=False)"
                )
    if re.match(r"<(!doctype|html|\?xml)", text, re.IGNORECASE):
        raise SpecError(f"{path}: is a web page (or XML), not a CSV file; give the file itself")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
