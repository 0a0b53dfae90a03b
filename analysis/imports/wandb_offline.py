"""Runs that W&B's client wrote without a network: transaction logs (`run-ID.wandb`).

A file has seven bytes at its head (`:W&B`, a magic number, a version) and blocks of 32 KiB with
LevelDB's records: a CRC-32 of kind and content, a length, a kind (whole, first, middle, last part).
Each is a message of `wandb_internal.proto`, of which few fields are needed here; they are parsed by
their numbers, as the client itself is no dependency and promises no interface for reading.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.imports.rows import Row, Source, cell, flattened
from cola.errors import SpecError

PATTERN = "*.wandb"
HEAD, MAGIC, VERSIONS = b":W&B", 0xBEE1, (0, 1)  # 1: histories do not repeat their step
BLOCK, CHUNK_HEAD = 32768, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of chunks
# Fields of Record, RunRecord and of what they hold, by their numbers in wandb_internal.proto.
HISTORY, SUMMARY, CONFIG, RUN, EXIT = 2, 3, 5, 17, 18
RUN_ID, RUN_CONFIG, RUN_SUMMARY, GROUP, JOB_TYPE, DISPLAY_NAME, TAGS = 1, 4, 5, 6, 7, 8, 10
UPDATE, REMOVE, KEY, NESTED_KEY, VALUE_JSON = 1, 2, 1, 2, 16
HISTORY_STEP, HISTORY_ITEM = 2, 1
STATE, FINISHED, FAILED, UNFINISHED = "state", "finished", "failed", "unfinished"

Fields = dict[int, list[Any]]  # of a message: integers and bytes by field number


@dataclass
class _Run:
    """What a file has of its run. whole: no record of it is cut off."""

    about: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    typed: int = 0  # logged values that are not in JSON
    whole: bool = True

    @property
    def state(self) -> str:
        """How it ended."""
        if self.exit_code is None:
            return UNFINISHED
        return FINISHED if self.exit_code == 0 else FAILED


def offline_files(place: Path) -> list[Path]:
    """The transaction logs of a folder, or the one that is given."""
    if place.is_file():
        return [place] if place.match(PATTERN) else []
    # `latest-run` links to one of the folders beside it.
    return sorted({path.resolve() for path in place.rglob(PATTERN) if path.is_file()})


def read_offline(place: Path, wanted: Sequence[str]) -> Source:
    """A row for every run: `config.KEY`, and of what it logged the last values, which its summary
    replaces. Runs that did not finish are left out, unless a column `state` is `wanted`.

    Raises:
        SpecError: a file is damaged, or none of W&B's.
    """
    rows, notes = [], []
    left_out: dict[str, tuple[str, ...]] = {}
    names: dict[str, str] = {}
    for file in offline_files(place):
        run = _run_of(file)
        name = run.about.get("name") or run.about.get("id") or file.stem.removeprefix("run-")
        if not run.whole:
            notes.append(f"{file}: its last record is cut off; what is before it counts")
        if run.typed:
            notes.append(f"{file}: {run.typed} logged values are not in JSON and are not read")
        identity = run.about.get("id", file.stem)
        if identity in names:
            notes.append(
                f"run {identity} is in two files, {names[identity]} and {file}: a run that was "
                "resumed is two rows; keep the later one (--where)"
            )
        names[identity] = str(file)
        if STATE not in wanted and run.state != FINISHED:
            reason = (
                f"its {STATE} is {run.state}, not {FINISHED}"
                if run.state == FAILED
                else "it has no record of its end: it was killed or still runs (--where "
                f"{STATE}={UNFINISHED} counts such runs)"
            )
            left_out[reason] = (*left_out.get(reason, ()), f"run {name}")
            continue
        rows.append(Row(f"run {name}", name, _cells(run)))
    notes.append("of every logged metric its last value counts, and the summary's where it has one")
    return Source("W&B's offline runs", str(place), tuple(rows), left_out, tuple(notes))


def _cells(run: _Run) -> dict[str, str]:
    cells: dict[str, str] = {}
    for values in (run.history, run.summary):
        cells |= {name: text for name, text in flattened(values) if not name.startswith("_")}
    step = run.history.get("_step", run.summary.get("_step"))
    if step is not None:
        cells["_step"] = cell(step)
    config = {name: value for name, value in run.config.items() if not name.startswith("_")}
    cells |= dict(flattened(config, "config."))
    return cells | run.about | {STATE: run.state}


def _run_of(file: Path) -> _Run:
    run = _Run()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SpecError(
            f"{file}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    for at, message in _records(file, data):
        if message is None:
            run.whole = False
            return run
        try:
            _take(run, _fields(message))
        except (ValueError, IndexError, KeyError, AttributeError, TypeError):
            raise SpecError(
                f"{file}: byte {at}: a record is none of W&B's; copy the file again"
            ) from None
    return run


def _take(run: _Run, record: Fields) -> None:
    """Add what a record says.

    Raises:
        ValueError, TypeError, AttributeError: it is no such record.
    """
    for message in record.get(RUN, ()):
        found = _fields(message)
        names = {RUN_ID: "id", DISPLAY_NAME: "name", GROUP: "group", JOB_TYPE: "job_type"}
        for number, name in names.items():
            if text := _text(found, number):
                run.about[name] = text
        if TAGS in found:
            run.about["tags"] = ",".join(tag.decode() for tag in found[TAGS])
        for part in found.get(RUN_CONFIG, ()):
            _update(run, run.config, _fields(part))
        for part in found.get(RUN_SUMMARY, ()):
            _update(run, run.summary, _fields(part))
    for message in record.get(CONFIG, ()):
        _update(run, run.config, _fields(message))
    for message in record.get(SUMMARY, ()):
        _update(run, run.summary, _fields(message))
    for message in record.get(HISTORY, ()):
        found = _fields(message)
        for item in found.get(HISTORY_ITEM, ()):
            _set(run, run.history, _fields(item))
        for step in found.get(HISTORY_STEP, ()):
            run.history["_step"] = next(iter(_fields(step).get(1, [0])))
    for message in record.get(EXIT, ()):
        code = _fields(message).get(1, [0])[0]
        run.exit_code = int(code)


def _update(run: _Run, values: dict[str, Any], message: Fields) -> None:
    for item in message.get(UPDATE, ()):
        _set(run, values, _fields(item))
    for item in message.get(REMOVE, ()):
        *parents, last = _path(_fields(item))
        for name in parents:
            values = values.get(name, {})
        values.pop(last, None)


def _set(run: _Run, values: dict[str, Any], item: Fields) -> None:
    if VALUE_JSON not in item:
        run.typed += 1
        return
    *parents, last = _path(item)
    for name in parents:
        inner = values.get(name)
        values[name] = inner if isinstance(inner, dict) else {}
        values = values[name]
    values[last] = json.loads(_text(item, VALUE_JSON))


def _path(item: Fields) -> list[str]:
    nested = [part.decode() for part in item.get(NESTED_KEY, ())]
    return nested or [_text(item, KEY)]


def _text(message: Fields, number: int) -> str:
    parts = message.get(number, [b""])
    return str(parts[-1].decode())


def _records(file: Path, data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Where each record begins, and its message; None where the last one is cut off.

    Raises:
        SpecError: the file is none of W&B's, or damaged.
    """
    if len(data) < CHUNK_HEAD or data[:4] != HEAD:
        raise SpecError(f"{file}: is no transaction log of W&B: it does not begin with :W&B")
    magic, version = struct.unpack("<HB", data[4:7])
    if magic != MAGIC or version not in VERSIONS:
        raise SpecError(
            f"{file}: is of version {version} of W&B's format (magic {magic:#x}); versions 0 and 1 "
            "are read: sync it (`wandb sync`) and export the table of runs as CSV"
        )
    at, began, parts = CHUNK_HEAD, 0, None
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < CHUNK_HEAD:  # nothing begins so near a block's end
            at += left
            continue
        if len(data) - at < CHUNK_HEAD:
            yield at, None
            return
        checksum, length, kind = struct.unpack("<IHB", data[at : at + CHUNK_HEAD])
        content = data[at + CHUNK_HEAD : at + CHUNK_HEAD + length]
        if len(content) < length and length <= left - CHUNK_HEAD:
            yield at, None
            return
        if zlib.crc32(data[at + 6 : at + 7] + content) != checksum or not WHOLE <= kind <= LAST:
            if not any(data[at:]):  # room that was made and never written
                yield at, None
                return
            raise SpecError(
                f"{file}: byte {at}: a record's checksum is wrong: the file is damaged; copy it "
                "again"
            )
        if (kind in (WHOLE, FIRST)) != (parts is None):
            raise SpecError(f"{file}: byte {at}: a part of a record is missing; copy it again")
        began = at if parts is None else began
        parts = content if parts is None else parts + content
        at += CHUNK_HEAD + length
        if kind in (WHOLE, LAST):
            yield began, parts
            parts = None
    if parts is not None:
        yield began, None


def _fields(message: bytes) -> Fields:
    """The fields of a protobuf message: integers of varints, bytes of the rest.

    Raises:
        ValueError, IndexError: it is none.
    """
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            found.setdefault(number, []).append(value)
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no kind of field")
        if at + length > len(message):
            raise ValueError("cut off")
        found.setdefault(number, []).append(message[at : at + length])
        at += length
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no integer")
