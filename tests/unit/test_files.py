"""Files that are whole or absent; JSON files and errors of files, in one line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from cola.errors import StorageError
from cola.files import (
    file_lock,
    is_temporary,
    read_json,
    read_record,
    storage_errors,
    write_atomically,
)


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")

    step: int


def read(path: Path) -> Point | None:
    return read_record(path, Point, what="a point", remedy="remove it")


def test_a_record_comes_back_and_an_absent_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "point.json").write_text('{"step": 3}')
    assert read(tmp_path / "point.json") == Point(step=3)
    assert read(tmp_path / "absent.json") is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "EOF"),
        (b'{"step": "x"}', "step: "),
        (b'{"step": 1, "later": 2}', "later: "),
        (b"[1]", "Input should be an object"),
        (b"\xff\xfe", "codec"),
        (b"[" * 100_000, "recursion limit"),
    ],
)
def test_a_damaged_record_is_named_with_the_remedy(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "point.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is not a point that this version reads") as refusal:
        read(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert problem in text
    assert text.endswith("; remove it")
    assert "\n" not in text


def test_a_folder_in_place_of_a_record_is_to_be_removed(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Is a directory.*; remove it$"):
        read(tmp_path)


def test_a_record_that_the_system_keeps_back_is_not_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be read \(Not a directory\); check its perm"):
        read(tmp_path / "file" / "point.json")


def test_an_error_of_a_file_is_one_line_with_the_remedy() -> None:
    with (
        pytest.raises(StorageError, match=r"^--to x: cannot be written \(No space left on device"),
        storage_errors("--to x", remedy="make room"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "/a/file")
    with (
        pytest.raises(StorageError, match=r"^--to x: cannot be used \(several lines\); make room$"),
        storage_errors("--to x", remedy="make room", done="used"),
    ):
        raise OSError("several\nlines")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(KeyError), storage_errors("--to x", remedy="make room"):
        raise KeyError("x")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_atomically(path, '{"a": 1}')
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_is_held_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with file_lock(path), pytest.raises(BlockingIOError), file_lock(path, wait=False):
        pass
    with file_lock(path, wait=False):
        pass


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "7", "\x00"])
def test_a_damaged_document_is_named_with_its_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    assert read_json(path) == {}
    path.write_text(text)
    with pytest.raises(StorageError, match="ask for help") as caught:
        read_json(path, remedy="ask for help")
    assert str(caught.value).startswith(f"{path}: is no JSON object (")
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        read_json(path)


def test_temporary_files_are_known_by_their_names(tmp_path: Path) -> None:
    assert is_temporary(tmp_path / ".ledger.json.4711.0a1b2c")
    for name in ("ledger.json", ".writable", ".ledger.json", "ledger.json.1.abcdef", ".cola.claim"):
        assert not is_temporary(tmp_path / name)
