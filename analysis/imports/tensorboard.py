"""TensorBoard's event files: a run a folder, of every scalar its last value.

A record is its length (8 bytes), a checksum of that, a message, and a checksum of the message
(TensorFlow's TFRecord format); messages are parsed by tensorboardX, which Ray Tune brings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.imports.rows import Row, Source
from cola.errors import SpecError, one_line

MARK = "tfevents"  # in the name of every event file
STEP = "step"  # our column of the last step of any scalar


def event_files(place: Path) -> list[Path]:
    """The event files of a folder, or the one that is given."""
    if place.is_file():
        return [place] if MARK in place.name else []
    return sorted(path for path in place.rglob(f"*{MARK}*") if path.is_file())


def read_tensorboard(place: Path) -> Source:
    """A row for every folder with event files.

    Raises:
        SpecError: there is none, or a file is none of TensorBoard's.
    """
    files = event_files(place)
    if not files:
        raise SpecError(
            f"{place}: holds no event file of TensorBoard (*{MARK}*); give a folder of runs, or a "
            "table"
        )
    scalars: dict[Path, dict[str, tuple[int, float]]] = {}
    notes = []
    for file in files:
        mine = scalars.setdefault(file.parent, {})
        whole = False
        for tag, step, value in _scalars(file):
            if tag is None:
                whole = True
            elif tag not in mine or step >= mine[tag][0]:
                mine[tag] = step, value
        if not whole:
            notes.append(f"{file}: its last record is cut off; what is before it counts")
    root = place if place.is_dir() else place.parent
    rows = []
    for folder, values in scalars.items():
        name = folder.relative_to(root).as_posix()
        name = folder.name if name == "." else name
        cells = {tag: repr(value) for tag, (_, value) in values.items()}
        if values:
            cells[STEP] = repr(max(step for step, _ in values.values()))
        rows.append(Row(f"run {name}", name, cells))
    notes.append("of every scalar its last value counts")
    return Source("TensorBoard", str(place), tuple(rows), {}, tuple(notes))


def _scalars(file: Path) -> Iterator[tuple[str | None, int, float]]:
    """(tag, step, value) of a file in its order, at last (None, ...) where no record is cut off.

    Raises:
        SpecError: a record is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    try:
        data = file.read_bytes()
    except OSError as error:
        raise SpecError(
            f"{file}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    for message in _records(file, data):
        if message is None:
            return
        try:
            event = Event.FromString(message)
        except DecodeError as error:
            raise SpecError(
                f"{file}: is no event file of TensorBoard ({one_line(error, 80)})"
            ) from None
        for value in event.summary.value:
            number = _number(value)
            if number is not None:
                yield value.tag, int(event.step), number
    yield None, 0, 0.0


def _records(file: Path, data: bytes) -> Iterator[bytes | None]:
    """Messages of a file; None where the last one is cut off, as of a run that was killed."""
    from tensorboardX.record_writer import masked_crc32c

    at = 0
    while at < len(data):
        head = data[at : at + 12]
        if len(head) < 12:
            yield None
            return
        length, checksum = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != checksum:
            raise SpecError(
                f"{file}: byte {at}: a record's checksum is wrong: the file is damaged, or no "
                "event file of TensorBoard; copy it again"
            )
        message = data[at + 12 : at + 12 + length]
        end = data[at + 12 + length : at + 16 + length]
        if len(end) < 4:
            yield None
            return
        (checksum,) = struct.unpack("<I", end)
        if masked_crc32c(message) != checksum:
            raise SpecError(f"{file}: byte {at}: a record is damaged (checksum); copy it again")
        yield message
        at += 16 + length


def _number(value: Any) -> float | None:
    """The scalar of a summary's value, whichever way it is stored; None: it is none."""
    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    if value.WhichOneof("value") != "tensor" or value.tensor.tensor_shape.dim:
        return None
    for field in ("float_val", "double_val", "int_val", "int64_val"):
        numbers = list(getattr(value.tensor, field))
        if len(numbers) == 1:
            return float(numbers[0])
    content = value.tensor.tensor_content
    form = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}.get(value.tensor.dtype)  # TensorFlow's DataType
    if form is None or len(content) != struct.calcsize(form):
        return None
    (number,) = struct.unpack(form, content)
    return float(number)
