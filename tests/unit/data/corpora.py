"""Writes the same documents in every format and compression that a corpus may have."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def as_lines(texts: list[str]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


def as_array(texts: list[str]) -> bytes:
    """One JSON array over several lines."""
    return json.dumps([{"text": text} for text in texts], indent=2, ensure_ascii=False).encode()


def as_objects(texts: list[str]) -> bytes:
    """Objects one after the other, each over several lines."""
    return "".join(json.dumps({"text": text}, indent=1) for text in texts).encode()


def as_table(texts: list[str], delimiter: str = ",") -> bytes:
    """A table with a header."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *enumerate(texts)])
    return file.getvalue().encode()


def as_parquet(texts: list[str]) -> bytes:
    """A Parquet file with checksums of its pages."""
    sink = io.BytesIO()
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})
    parquet.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


ROWS: dict[str, Callable[[list[str]], bytes]] = {
    ".jsonl": as_lines,
    ".ndjson": as_lines,
    ".jsonlines": as_lines,
    ".json": as_array,
    ".objects.json": as_objects,
    ".lines.json": as_lines,
    ".csv": as_table,
    ".tsv": lambda texts: as_table(texts, "\t"),
    ".parquet": as_parquet,
}


def write_corpus(folder: Path, ending: str, compression: str, texts: list[str]) -> Path:
    """One file with these documents; of text, the documents one after the other."""
    data = ROWS[ending](texts) if ending in ROWS else "".join(texts).encode()
    path = folder / f"part-0{ending}{compression}"
    path.write_bytes(COMPRESSIONS[compression.lower()](data))
    return path
