"""What a corpus holds is counted, and what is left out of it is in text and in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cola.data import prepare, source_fingerprint
from cola.data.hub import pinned, with_absolute_folders
from cola.data.summary import summarise, summary_in
from cola.errors import SpecError
from cola.spec import DataSpec
from tests.unit.data.corpora import write_corpus

TEXTS = [f"document {i}: é " + "word " * 30 for i in range(60)]
TEXT_BYTES = sum(len(text.encode()) for text in TEXTS)


def spec_of(corpus: dict[str, Any], **settings: Any) -> DataSpec:
    values = {"tokenizer": {"kind": "bpe", "vocab_size": 300}, "sequence_length": 16}
    return DataSpec.parse(values | {"validation_fraction": 0.2, "corpus": corpus} | settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty documents in two files, a null row, a side file and a file that is not text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_corpus(folder, ".jsonl", ".zst", TEXTS[:30])
    write_corpus(folder, ".ndjson", "", TEXTS[30:])
    (folder / "null.jsonl").write_text('{"text": null}\n')
    (folder / "LICENSE").write_text("free")
    (folder / "old.txt").write_bytes("café".encode("latin-1"))
    return folder


def test_plan_and_preparation_say_the_same(folder: Path, tmp_path: Path) -> None:
    spec = spec_of({"source": "files", "paths": [str(folder)]})
    planned = summarise(spec)
    meta = prepare(spec, tmp_path / "cache").meta
    assert summary_in(json.loads(json.dumps(meta))) == planned
    assert (planned.documents, planned.text_bytes) == (60, TEXT_BYTES)
    assert meta["skipped_files"] == 2
    assert json.loads(json.dumps(planned.as_json()))["skipped"][1]["names"] == ["old.txt"]
    first, second, *warnings = planned.sentences()
    assert first.startswith(f"Corpus: 60 documents of {TEXT_BYTES:,} bytes in 3 files (")
    assert second == "Not read: 1 side file (LICENSE)."
    assert [warning.partition(",")[0] for warning in warnings] == [
        "Warning: left out of the corpus: 1 file that is not text",
        "Warning: left out of the corpus: 1 row whose text is null",
        "Warning: no text in 1 file of the corpus: null.jsonl",
    ]
    assert "byte 0xE9 in line 1" in warnings[0]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_data_set_in_a_folder_follows_the_same_rules(folder: Path, streaming: bool) -> None:
    spec = spec_of({"source": "huggingface", "name": str(folder), "streaming": streaming})
    summary = summarise(spec)
    assert (summary.documents, summary.text_bytes) == (60, TEXT_BYTES)
    left_out = {name: group.rule for group in summary.skipped for name in group.names}
    assert left_out == {"LICENSE": "side file", "old.txt": "unknown format"}


def test_an_unpacked_file_beside_its_archive_is_noted(tmp_path: Path) -> None:
    write_corpus(tmp_path, ".jsonl", "", TEXTS)
    write_corpus(tmp_path, ".jsonl", ".gz", TEXTS)
    notes = summarise(spec_of({"source": "files", "paths": [str(tmp_path)]})).notes
    assert "part-0.jsonl and part-0.jsonl.gz look like the same text twice" in notes[0]


def test_files_of_equal_content_are_noted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(tmp_path, ".jsonl", "", TEXTS).rename(tmp_path / f"{name}.jsonl")
    notes = summarise(spec_of({"source": "files", "paths": [str(tmp_path)]})).notes
    assert "a.jsonl and b.jsonl look like the same text twice" in notes[0]


def test_a_corpus_without_documents_is_refused_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": " "}\n\n')
    (tmp_path / ".b.txt").write_text("hidden")
    with pytest.raises(SpecError) as caught:
        summarise(spec_of({"source": "files", "paths": [str(tmp_path)]}))
    assert str(caught.value) == (
        "data.corpus.source=files: holds no text (1 row whose text is null; 1 document without a "
        "visible character; no text in a.jsonl; files left out: .b.txt (hidden)); give another "
        "corpus"
    )


def test_hub_names_without_a_commit_are_noted() -> None:
    hub = {"kind": "hub", "name": "some/tokenizer", "vocab_size": 300}
    spec = spec_of({"source": "huggingface", "name": "some/data"}, tokenizer=hub)
    notes = summarise(spec).notes
    assert [
        notes[0].partition(":")[0],
        notes[1].partition(" has")[0],
    ] == ["data.corpus.name=some/data has no revision", "data.tokenizer.name=some/tokenizer"]
    commit = "0123456789abcdef0123456789abcdef01234567"
    fixed = spec_of(
        {"source": "huggingface", "name": "some/data", "revision": commit},
        tokenizer=hub | {"revision": commit},
    )
    assert summarise(fixed).notes == ()
    assert pinned(fixed) == (fixed, {"corpus": commit, "tokenizer": commit})


def test_where_files_lie_is_no_part_of_the_identity(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "mounted"
    specs = []
    for place in (folder, moved):
        if not place.exists():
            folder.rename(place)
        for corpus in (
            {"source": "files", "paths": [str(place)]},
            {"source": "huggingface", "name": str(place)},
        ):
            spec = with_absolute_folders(spec_of(corpus))
            specs.append((source_fingerprint(spec), spec.identity()))
    assert specs[:2] == specs[2:]
    assert specs[0] != specs[1]


def test_the_order_of_files_is_a_part_of_the_identity(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name * 100)
    paths = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    there = source_fingerprint(spec_of({"source": "files", "paths": paths}))
    back = source_fingerprint(spec_of({"source": "files", "paths": paths[::-1]}))
    assert there != back
    (tmp_path / "a.txt").rename(tmp_path / "aa.txt")
    assert source_fingerprint(spec_of({"source": "files", "paths": [str(tmp_path)]})) == there
