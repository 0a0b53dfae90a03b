"""A file of forecasts: lines that are only appended, each with its time and digests.

`digest` is of what the forecast rests on, `record_digest` of the line itself: an edited line shows,
and so do other data. Sweeps and studies share this record; what a line says is their own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cola.errors import StorageError, one_line
from cola.files import storage_errors
from cola.jsonl import LineReader, LineWriter, read_lines
from cola.spec.base import canonical_json

RESTS_ON, DIGEST, RECORD_DIGEST, TIME = "rests_on", "digest", "record_digest", "time"
REMEDY = "make room, or check that this user may write there; the same command resumes"


def digest(values: Any) -> str:
    """SHA-256 (hex) of plain values."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def register(path: Path, record: Mapping[str, Any], about: tuple[str, ...]) -> bool:
    """Append a forecast with its time and digests; False where the same one is there already: equal
    in the keys `about`, and resting on the same data.

    Raises:
        StorageError: the file cannot be read or written.
    """
    line = dict(record) | {DIGEST: digest(record[RESTS_ON])}
    for known in lines_of(path):
        if all(known.get(key) == line.get(key) for key in (*about, DIGEST)):
            return False
    line[TIME] = time.time()
    line[RECORD_DIGEST] = digest(line)
    with storage_errors(path, remedy=REMEDY), LineWriter(path) as lines:
        lines.write(line, sync=True)
    return True


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All whole lines, in order; an absent file has none.

    Raises:
        StorageError: the file cannot be read.
    """
    with storage_errors(path, remedy="check its permissions", done="read"):
        return read_lines(path)


def damaged_lines(path: Path) -> int:
    """Lines of a file of forecasts that are no records, as a crash leaves them."""
    reader = LineReader(path)
    for _ in reader.new_lines():
        pass
    return reader.skipped


def was_edited(line: Mapping[str, Any]) -> bool:
    """Whether a line is not as it was written."""
    rest = {key: value for key, value in line.items() if key != RECORD_DIGEST}
    return digest(rest) != line[RECORD_DIGEST]


def rests_on_others(line: Mapping[str, Any], rests_on: Any) -> bool:
    """Whether what a forecast rests on is not what it was."""
    return bool(digest(rests_on) != line[DIGEST])


def no_forecast(path: Path, line: Mapping[str, Any], of: str) -> StorageError:
    """The error of a line that is no forecast of a sweep, or study."""
    return StorageError(
        f"{path}: holds a line that is no forecast of a {of} ({one_line(str(line), 60)}); remove "
        "the line"
    )
