"""Which files a corpus has: every one that is left out is named with its rule."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cola.data.checksum_files import check_checksums
from cola.data.corpus_files import Listing, list_files, readable_files
from cola.data.formats import format_of
from cola.errors import SpecError
from cola.spec.data import LocalFiles


def listing(*paths: Path) -> Listing:
    return readable_files(LocalFiles(paths=[str(path) for path in paths]))


def names(*paths: Path) -> list[str]:
    return [file.name for file in listing(*paths).files]


def skipped(*paths: Path) -> dict[str, str]:
    return {file.name: file.rule for file in listing(*paths).skipped}


def error_of(*paths: Path) -> str:
    with pytest.raises(SpecError) as caught:
        listing(*paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", "json-lines"),
        ("a.b.NDJSON.ZSTD", "json-lines"),
        ("a.json.gz", "json"),
        ("a.csv.bz2", "csv"),
        ("a.parquet", "parquet"),
        ("a.md.xz", "text"),
        ("a.gz", None),
        ("a.gz.gz", None),
        ("a.tar.gz", None),
        ("a.arrow", None),
        ("txt", None),
        (".txt", None),
        ("jsonl.gz", None),
    ],
)
def test_names_give_formats(name: str, expected: str | None) -> None:
    assert format_of(name) == expected


def test_compiled_python_beside_its_source_is_aside(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "module.py").write_text("text")
    (tmp_path / "old.pyc").write_bytes(bytes(100))
    for number in range(9):
        (tmp_path / "__pycache__" / f"m{number}.cpython-311.pyc").write_bytes(bytes(1000))
    assert names(tmp_path) == ["module.py"]
    assert skipped(tmp_path) == {"__pycache__/": "side file", "old.pyc": "side file"}


def test_a_folder_names_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)
    for name in ("README.md", "LICENSE", "a.txt.sha256", "_SUCCESS", "SHA256SUMS", ".DS_Store"):
        (tmp_path / name).write_text("side")
    (tmp_path / "b.txt").touch()
    (tmp_path / "c.arrow").write_bytes(b"ARROW1")
    assert names(tmp_path) == ["a.txt"]
    assert skipped(tmp_path) == {
        ".DS_Store": "hidden",
        "LICENSE": "side file",
        "README.md": "side file",
        "SHA256SUMS": "side file",
        "_SUCCESS": "side file",
        "a.txt.sha256": "side file",
        "b.txt": "empty",
        "c.arrow": "unknown format",
    }
    assert names(tmp_path / "README.md") == ["README.md"], "what is named is read"


@pytest.mark.parametrize(
    ("name", "content"),
    [("b.arrow", b"x" * 200), ("b.txt", b"caf\xe9" * 50), ("b", b"x" * 200), ("b.gz", b"x" * 200)],
)
def test_over_a_tenth_left_out_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)
    (tmp_path / name).write_bytes(content)
    message = error_of(tmp_path)
    assert f"1 of 2 files (17% of the bytes) would be left out: {name} (" in message
    assert "give the files to read by their names" in message
    (tmp_path / "a.txt").write_text("x" * 1801)
    assert names(tmp_path) == ["a.txt"]


def test_what_is_named_itself_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("text")
    assert "its name gives no known format; known: .jsonl" in error_of(tmp_path / "words")
    (tmp_path / "a.arrow").write_text("text")
    assert ".arrow is no known format" in error_of(tmp_path / "a.arrow")
    (tmp_path / "a.jsonl").touch()
    assert "is empty" in error_of(tmp_path / "a.jsonl")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "README.md").write_text("text")
    assert "holds no files that can be read: README.md (side file)" in error_of(tmp_path / "folder")
    assert "without wildcards" in error_of(tmp_path / "*.jsonl")


def test_files_reached_twice_are_read_once_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").symlink_to(folder / "a.txt")
    (tmp_path / "linked").symlink_to(folder)
    assert names(folder, tmp_path / "linked", folder / "a.txt") == ["a.txt"]
    found = listing(folder, tmp_path / "linked", folder / "a.txt").skipped
    assert [file.name for file in found] == ["b.txt", "a.txt", "b.txt", "a.txt"]
    assert {file.rule for file in found} == {"found twice"}


def test_links_to_folders_are_followed_once_and_dead_links_refused(tmp_path: Path) -> None:
    shards, corpus = tmp_path / "shards", tmp_path / "corpus"
    shards.mkdir()
    corpus.mkdir()
    (shards / "a.txt").write_text("one")
    (shards / "back").symlink_to(corpus)
    (corpus / "linked").symlink_to(shards)
    assert names(corpus) == ["linked/a.txt"]
    (corpus / "dead.txt").symlink_to(tmp_path / "gone.txt")
    assert "is a link to a file that is not there" in error_of(corpus)


@pytest.mark.parametrize("written", ["a.txt.sha256", "SHA256SUMS"])
def test_a_checksum_beside_a_file_is_checked(written: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    digest = hashlib.sha256(b"one").hexdigest()
    (tmp_path / written).write_text(f"{digest}  ./a.txt\n")
    files = list_files(LocalFiles(paths=[str(tmp_path)])).files
    assert check_checksums(files) == 1
    (tmp_path / "a.txt").write_text("two")
    with pytest.raises(SpecError, match=rf"a.txt: is not the file that {written} describes"):
        check_checksums(files)
