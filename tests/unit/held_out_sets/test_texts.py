"""Further held-out texts: their sequences, what identifies them, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cola.data import PreparedData
from cola.data.prepare import open_prepared
from cola.errors import SpecError
from cola.held_out_sets.texts import (
    TextRows,
    check_apart,
    own_rows,
    prepare_texts,
    text_fingerprint,
    text_rows,
)
from cola.records import OWN_TEXT
from cola.spec import DataSpec
from cola.spec.data import LocalFiles, PerturbedText
from tests.conftest import data_of


@pytest.fixture
def cached(data: PreparedData, tmp_path: Path) -> PreparedData:
    """The corpus in a cache of its own."""
    folder = tmp_path / "cache" / data.folder.name
    shutil.copytree(data.folder, folder)
    return open_prepared(folder)


def two_documents(folder: Path) -> LocalFiles:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"The {name} opens the window. " * 40)
    return LocalFiles(paths=[str(folder)])


def cut(text: LocalFiles | PerturbedText, data: PreparedData, sequences: int = 4) -> TextRows:
    fingerprint = text_fingerprint("wiki", text)
    return text_rows("wiki", text, fingerprint, data=data, sequences=sequences)


def test_sequences_are_whole_of_many_documents_and_know_their_bytes(
    cached: PreparedData, tmp_path: Path
) -> None:
    rows = cut(two_documents(tmp_path / "wiki"), cached)
    assert rows.rows_NL.shape == (4, 32)
    assert rows.documents_N.tolist()[:2] in ([0, 1], [1, 0])
    assert rows.documents_of == "wiki"
    for ids_L, size in zip(rows.rows_NL, rows.bytes_N, strict=True):
        assert size == len(cached.tokenizer.decode(ids_L.tolist()).encode())


def test_what_was_cut_is_kept_wherever_its_files_lie(cached: PreparedData, tmp_path: Path) -> None:
    text = two_documents(tmp_path / "wiki")
    first = cut(text, cached)
    (tmp_path / "wiki").rename(tmp_path / "moved")
    moved = LocalFiles(paths=[str(tmp_path / "moved")])
    assert text_fingerprint("wiki", moved) == text_fingerprint("other", moved)
    (kept,) = cached.folder.parent.glob("held-out-*.npz")
    before = kept.stat().st_mtime_ns
    again = cut(moved, cached)
    assert np.array_equal(first.rows_NL, again.rows_NL)
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"damaged")
    assert np.array_equal(cut(moved, cached).rows_NL, first.rows_NL)


def test_errors_in_the_studys_own_text_keep_its_documents(cached: PreparedData) -> None:
    own, rows = own_rows(cached, 6), cut(PerturbedText(rate=0.05), cached, 6)
    assert rows.documents_of == own.documents_of == OWN_TEXT
    assert len(rows.rows_NL) > 3
    assert set(rows.documents_N) <= set(own.documents_N)
    assert not np.array_equal(rows.rows_NL[0], own.rows_NL[0])


def test_the_studys_own_text_stands_beside_others_alone(cached: PreparedData) -> None:
    assert prepare_texts({}, {}, data=cached, sequences=4) == {}
    typos = PerturbedText()
    marks = {"typos": text_fingerprint("typos", typos)}
    found = prepare_texts({"typos": typos}, marks, data=cached, sequences=4)
    assert list(found) == [OWN_TEXT, "typos"]


def test_unusable_texts_are_refused_by_their_name(cached: PreparedData, tmp_path: Path) -> None:
    absent = LocalFiles(paths=[str(tmp_path / "absent")])
    with pytest.raises(SpecError, match=r"^evaluation\.held_out\.wiki\.paths=.*absent: no such"):
        cut(absent, cached)
    (tmp_path / "short.txt").write_text("A word.")
    with pytest.raises(SpecError, match=r"held_out\.wiki: has \d+ tokens, not one whole sequence"):
        cut(LocalFiles(paths=[str(tmp_path / "short.txt")]), cached)
    text = two_documents(tmp_path / "wiki")
    fingerprint = text_fingerprint("wiki", text)
    (tmp_path / "wiki" / "a.txt").write_text("Other text. " * 50)
    with pytest.raises(SpecError, match="its content changed since the study was planned"):
        text_rows("wiki", text, fingerprint, data=cached, sequences=4)


def test_what_the_study_trains_on_is_not_held_out(corpus_file: Path) -> None:
    data = DataSpec.parse(data_of(corpus_file))
    same = LocalFiles(paths=[str(corpus_file.parent)])
    with pytest.raises(SpecError, match=r"wiki: its file .*corpus\.txt is in data\.corpus"):
        check_apart(data, {"wiki": same})
    check_apart(data, {"typos": PerturbedText()})
