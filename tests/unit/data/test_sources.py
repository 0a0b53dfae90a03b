"""Corpora as pieces: nothing is lost, and what cannot be read is named in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.data.corpus_files import list_files
from cola.data.sources import (
    PIECE_CHARACTERS,
    Piece,
    ReadCounts,
    read_pieces,
    split_text,
)
from cola.errors import SpecError
from cola.spec import DataSpec
from cola.spec.data import LocalFiles, PythonStdlib


def read(**corpus: Any) -> tuple[list[Piece], ReadCounts]:
    counts = ReadCounts()
    return list(read_pieces(DataSpec.parse({"corpus": corpus}), counts)), counts


def read_files(*paths: Path, **settings: Any) -> tuple[list[Piece], ReadCounts]:
    return read(source="files", paths=[str(path) for path in paths], **settings)


def error_of(*paths: Path, **settings: Any) -> str:
    with pytest.raises(SpecError) as caught:
        read_files(*paths, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


words = st.text(alphabet="ab é\n\t😀", min_size=0, max_size=40)


@given(parts=st.lists(words, max_size=20), repeat=st.integers(1, 400), block=st.integers(1, 9000))
def test_pieces_are_the_document(parts: list[str], repeat: int, block: int) -> None:
    text = "".join(parts) * repeat
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    pieces = list(split_text(blocks))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= PIECE_CHARACTERS for piece in pieces)
    assert pieces == list(split_text([text]))


@pytest.mark.parametrize(
    ("unit", "begins", "ends"),
    [("word\nline\n\n", "word", "\n\n"), ("line\n", "line", "\n"), ("word ", " word", "word")],
)
def test_cuts_prefer_paragraphs_then_lines_then_words(unit: str, begins: str, ends: str) -> None:
    pieces = list(split_text([unit * 10_000]))
    assert len(pieces) > 2
    assert all(piece.endswith(ends) for piece in pieces[:-1])
    assert all(piece.startswith(begins) for piece in pieces[1:])


def test_files_of_a_folder_in_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "one.txt").write_text("of b")
    (tmp_path / "a.txt").write_bytes("\ufefffirst\r\nline".encode())
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / ".hidden").write_text("hidden")
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "c.md.gz").write_bytes(gzip.compress("zipped é".encode()))
    pieces, counts = read_files(tmp_path)
    assert [piece.text for piece in pieces] == ["first\r\nline", "of b", "zipped é"]
    assert all(piece.first for piece in pieces)
    assert (counts.documents, counts.bytes, counts.blank_documents) == (3, 11 + 4 + 9, 1)
    assert {file.name: file.rule for file in counts.skipped} == {
        ".git/": "hidden",
        ".hidden": "hidden",
    }
    assert list_files(LocalFiles(paths=[str(tmp_path / "b")])).bytes == 4


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    pieces, _ = read_files(tmp_path / "b.txt", tmp_path)
    assert [piece.text for piece in pieces] == ["two", "one"]


def test_a_long_file_is_one_document(tmp_path: Path) -> None:
    text = "".join(f"line {i} of a long document é\n" for i in range(20_000))
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "short.txt").write_text("next")
    pieces, counts = read_files(tmp_path)
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 2) + [True]
    assert "".join(piece.text for piece in pieces[:-1]) == text
    assert (counts.documents, counts.bytes) == (2, len(text.encode()) + 4)


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"body": "one"}, {"body": None}, {"body": "  "}, {"body": "sur\ud800rogate"}]
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pieces, counts = read_files(tmp_path, text_field="body")
    assert [piece.text for piece in pieces] == ["one", "sur\ufffdrogate"] * 2
    assert (counts.documents, counts.skipped_documents) == (4, 2)


def test_not_utf8_is_skipped_in_a_folder_and_refused_by_name(tmp_path: Path) -> None:
    good = "".join(f"good {i}\n" for i in range(600_000))
    (tmp_path / "good.txt").write_text(good)
    bad = tmp_path / "latin.txt"
    bad.write_bytes(b"x" * 600_000 + b"\xe9")
    pieces, counts = read_files(tmp_path)
    assert "".join(piece.text for piece in pieces) == good
    assert [(file.name, file.rule) for file in counts.skipped] == [("latin.txt", "not text")]
    assert "byte 0xE9 in line 1" in counts.skipped[0].detail
    assert (
        f"data.corpus.paths={bad}: is not UTF-8 text (byte 0xE9 in line 1); convert it"
        in error_of(bad)
    )


def test_errors_name_the_key_and_the_remedy(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    expected = f"data.corpus.paths={missing}: no such file or folder; give"
    assert expected in error_of(missing)
    (tmp_path / "empty").mkdir()
    assert "the folder holds no files" in error_of(tmp_path / "empty")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "x"}\n{"title": "y", "body": 3}\n')
    message = error_of(rows)
    assert "data.corpus.text_field=text: no such field" in message
    assert "line 2" in message
    assert "one of: title, body" in message
    rows.write_text('{"body": 3}\n')
    assert "holds int, not text" in error_of(rows, text_field="body")
    rows.write_text("{oops\n")
    assert f"{rows}: line 1 is not JSON" in error_of(rows)
    rows.write_text("[1]\n")
    assert "line 1 is not a JSON object" in error_of(rows)
    broken = tmp_path / "broken.txt.gz"
    broken.write_bytes(gzip.compress(b"text" * 1000)[:-9])
    assert f"data.corpus.paths={broken}: cannot be read" in error_of(broken)


def test_standard_library() -> None:
    names = {file.name for file in list_files(PythonStdlib()).files}
    assert {"argparse.py", "json/decoder.py"} < names
    assert all(name.endswith(".py") for name in names)
    parts = {part for name in names for part in name.split("/")}
    assert parts.isdisjoint({"site-packages", "test", "tests", "idle_test", "__pycache__"})
    with_tests = {file.name for file in list_files(PythonStdlib(include_tests=True)).files}
    assert names < with_tests
    assert "test/test_json/__init__.py" in with_tests or "test/support/__init__.py" in with_tests


@pytest.fixture
def dataset_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = [{"text": f"row {i}" if i != 3 else None} for i in range(6)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "validation.jsonl").write_text(json.dumps({"text": "held out"}))
    return folder


def test_hugging_face_data_set(dataset_folder: Path, tmp_path: Path) -> None:
    pieces, counts = read(source="huggingface", name=str(dataset_folder), max_documents=5)
    assert [piece.text for piece in pieces] == ["row 0", "row 1", "row 2", "row 4"]
    assert (counts.documents, counts.skipped_documents) == (4, 1)
    pieces, _ = read(source="huggingface", name=str(dataset_folder), split="validation")
    assert [piece.text for piece in pieces] == ["held out"]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_data_set_of_local_files_is_read_where_it_lies(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    pieces, counts = read(source="huggingface", name=str(dataset_folder), streaming=streaming)
    assert [piece.text for piece in pieces] == ["row 0", "row 1", "row 2", "row 4", "row 5"]
    assert [(file.name, file.rule) for file in counts.skipped] == [
        ("validation.jsonl", "other split")
    ]
    assert not list(cache.rglob("*.arrow"))


@pytest.mark.parametrize("streaming", [True, False])
def test_what_only_the_library_reads_is_read_by_it(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """A part of a split, and files whose README configures how they are read."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    name = str(dataset_folder)
    if streaming:
        header = "---\nconfigs:\n- config_name: default\n  data_files: t.csv\n  sep: ';'\n---\n"
        (dataset_folder / "README.md").write_text(header)
        (dataset_folder / "t.csv").write_text("id;text\n1;" + "row " * 999)
        pieces, _ = read(source="huggingface", name=name, streaming=True)
        assert [piece.text.strip() for piece in pieces] == [("row " * 999).strip()]
    else:
        pieces, _ = read(source="huggingface", name=name, split="train[:2]", streaming=False)
        assert [piece.text for piece in pieces] == ["row 0", "row 1"]
        assert list(cache.rglob("*.arrow"))


def test_hugging_face_parquet_gives_what_json_lines_give(
    dataset_folder: Path, tmp_path: Path
) -> None:
    import datasets

    parquet = tmp_path / "parquet"
    parquet.mkdir()
    texts = [f"text {i}" for i in range(300)]
    datasets.Dataset.from_dict({"body": texts}).to_parquet(str(parquet / "train-0.parquet"))
    pieces, _ = read(source="huggingface", name=str(parquet), text_field="body")
    assert [piece.text for piece in pieces] == texts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "nowhere"}, "cannot be read"),
        ({"text_field": "body"}, "data.corpus.text_field=body: no such field"),
    ],
)
def test_hugging_face_errors(dataset_folder: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read(source="huggingface", name=str(dataset_folder), **settings)
    assert "\n" not in str(caught.value)


def test_unknown_data_set_without_network(dataset_folder: Path) -> None:
    missing = str(dataset_folder / "missing")
    with pytest.raises(SpecError, match=f"data.corpus.name={missing}: cannot be read"):
        read(source="huggingface", name=missing)
