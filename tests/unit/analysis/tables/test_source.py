"""What a file is, by its bytes: text of a table, or a line that names its format and a remedy."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pytest

from analysis.tables.source import read_text
from cola.errors import SpecError

TEXT = "params,tokens,loss\n1e7,2e8,4.5\n2e7,4e8,4.2\n"


def read(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return read_text(path)


def refused(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_or_without_a_byte_order_mark_is_the_same(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path / "a.csv", TEXT.encode(encoding)) == TEXT


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_text_is_unpacked_and_a_cut_archive_is_refused(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    packed = pack(TEXT.encode())
    assert read(tmp_path / "a.csv", packed) == TEXT
    (tmp_path / "cut.csv").write_bytes(packed[:-20])
    assert "cannot be unpacked" in refused(tmp_path / "cut.csv")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"params,loss\n1,2\n\xfc,3\n", "line 3 is not text in UTF-8 (byte 0xfc)"),
        (b"\xef\xbb\xbfa,b\r\n\xe9,3\n", "line 2 is not text in UTF-8 (byte 0xe9)"),
        (TEXT.encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b"a,b\n1,2\n1,\x002\n", "line 3 holds a NUL byte"),
        (b"PK\x03\x04....", "a zip archive or a workbook"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "a web page"),
        (b'{"params": 1e7, "loss": 4.5}\n{"params": 2e7, "loss": 4.2}\n', "is JSON lines"),
        (json.dumps([{"a": 1}, {"a": 2}], indent=1).encode(), "is JSON,"),
    ],
)
def test_what_is_no_table_is_named_with_its_remedy(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    message = refused(path)
    assert message.startswith(f"{path}: ")
    assert reason in message


def test_a_parquet_file_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "a.csv")
    assert "is a Parquet file" in refused(tmp_path / "a.csv")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)
    assert "there is no such file" in refused(tmp_path / "absent.csv")
