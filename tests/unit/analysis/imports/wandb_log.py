"""Writes transaction logs as W&B's client does: protobuf messages in LevelDB's blocks."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 32768


def message(**fields: Any) -> bytes:
    """A protobuf message; fields are named `f2`, texts, bytes, integers, or lists of these."""
    parts = b""
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            number = int(name[1:])
            if isinstance(each, int):
                parts += varint(number << 3) + varint(each & (2**64 - 1))
                continue
            data = each.encode() if isinstance(each, str) else each
            parts += varint(number << 3 | 2) + varint(len(data)) + data
    return parts


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def items(values: Mapping[str, Any], *, nested: bool = False) -> list[bytes]:
    """Items of a history, summary or configuration, by key or by the path of nested keys."""
    return [
        message(f2=key.split("."), f16=json.dumps(value))
        if nested
        else message(f1=key, f16=json.dumps(value))
        for key, value in values.items()
    ]


def run_record(name: str, config: Mapping[str, Any]) -> bytes:
    about = message(f1=f"id-{name}", f3="project", f4=message(f1=items(config)), f8=name, f10="tag")
    return message(f1=1, f17=about)


def history(step: int, values: Mapping[str, Any], *, nested: bool = False) -> bytes:
    return message(f2=message(f1=items(values, nested=nested), f2=message(f1=step)))


def summary(values: Mapping[str, Any]) -> bytes:
    return message(f3=message(f1=items(values)))


def ended(code: int = 0) -> bytes:
    return message(f18=message(f1=code) if code else message(f2=60))


def log_of(records: list[bytes], version: int = 0) -> bytes:
    """The file: a head, then records in chunks that no block's end cuts."""
    data = b":W&B" + struct.pack("<HB", 0xBEE1, version)
    for record in records:
        data += bytes(left) if (left := BLOCK - len(data) % BLOCK) < 7 else b""
        first = True
        while True:
            room = BLOCK - len(data) % BLOCK - 7
            part, record = record[:room], record[room:]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            crc = zlib.crc32(bytes([kind]) + part)
            data += struct.pack("<IHB", crc, len(part), kind) + part
            first = False
            if not record:
                break
    return data


def write_log(folder: Path, name: str, records: list[bytes], version: int = 0) -> Path:
    """`offline-run-NAME/run-NAME.wandb` below the folder."""
    path = folder / f"offline-run-{name}" / f"run-{name}.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(log_of(records, version))
    return path
