"""Append-only JSON lines that survive crashes: one rule for every log of the product.

A line counts once its newline is written. What a crash cuts off is closed by the next writer and
skipped by every reader, so neither loses the lines around it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

REMEMBERED = 128  # bytes that tell whether a file is still the one that was read; a chosen value


class LineWriter(AbstractContextManager["LineWriter"]):
    """Appends objects to a file, one a line; several processes may append to the same file.

    Each line is one write to a file in append mode. What a full disk does not take is kept and
    written before the next line.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._pending = b"" if _is_whole(path) else b"\n"

    def write(self, record: Mapping[str, Any] | str, *, sync: bool = False) -> None:
        """Append one object (or its JSON text); `sync` puts it on the device before returning.

        Raises:
            OSError: where the disk does not take it; it is kept for the next call.
            ValueError: a number that is not finite, for which JSON has no name.
        """
        text = record if isinstance(record, str) else json.dumps(record, allow_nan=False)
        self._pending += text.encode() + b"\n"
        self._flush()
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Put everything on the device and close the file.

        Raises:
            OSError: where the disk does not take what is left.
        """
        self._flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _flush(self) -> None:
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]


class LineReader:
    """Follows a file while it grows; `skipped` counts its lines that hold no object.

    A file that lost its end is read again from its start: what was there before comes again, lines
    are counted anew, and `restarts` says how often that was.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._last = b""  # what is read of the file ends with this
        self.skipped = self.restarts = 0

    def new_lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Objects completed since the last call, each with its raw line; none of an absent file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._offset, self._last = 0, b""
                    self.skipped, self.restarts = 0, self.restarts + 1
                    file.seek(0)
                data = file.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        self._offset += end
        self._last = (self._last + data[:end])[-REMEMBERED:]
        # Not splitlines(): JSON texts may hold other line separators.
        for raw in data[:end].split(b"\n"):
            record = _parsed(raw)
            if record is not None:
                yield raw, record
            elif raw.strip():
                self.skipped += 1


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file, in order; an absent file has none."""
    return [record for _, record in LineReader(path).new_lines()]


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):  # cut off by a crash, or empty
        return None
    return record if isinstance(record, dict) else None


def _is_whole(path: Path) -> bool:
    """Whether a file is empty or ends with a newline."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
