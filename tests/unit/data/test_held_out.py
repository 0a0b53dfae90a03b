"""Held-out text: whole documents on one side, and sequences that come from as many as possible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.data import PreparedData, open_prepared, prepare
from cola.data.held_out import balanced_sides, divide, owners_of, spread_order
from cola.data.summary import summary_in
from cola.errors import StorageError
from tests.unit.data.test_prepare import document, spec_of, stream_of, write_rows


def documents_in(data: PreparedData, split: str, sequences: int) -> set[int]:
    """Numbers of the documents (their texts name them) that the first sequences show."""
    packed = getattr(data, split)
    texts = [data.tokenizer.decode(packed[i].tolist()) for i in range(min(sequences, len(packed)))]
    return {int(word.split(":")[0]) for text in texts for word in text.split("of text ")[1:]
            if word.split(":")[0].isdigit() and ":" in word}  # fmt: skip


def held_out_corpus(folder: Path, documents: int, lines: int) -> PreparedData:
    folder.mkdir(exist_ok=True)
    rows = write_rows(folder / "rows.jsonl", [document(i, lines) for i in range(documents)])
    spec = spec_of(rows, validation_fraction=0.4, sequence_length=64)
    return prepare(spec, folder / "cache")


def test_training_tokens_do_not_depend_on_how_the_rest_is_divided(tmp_path: Path) -> None:
    """The packed training split is the concatenation of its documents, as it always was."""
    data = held_out_corpus(tmp_path, 80, 12)
    eos, encode = data.tokenizer.eos_token_id, data.tokenizer.encode
    texts = [document(i, 12) for i in range(80)]
    shown = [text for text in texts if text[:60] in data.tokenizer.decode(
        stream_of(data, "train").tolist())]  # fmt: skip
    expected = [token for text in shown for token in [*encode(text), eos]]
    found = stream_of(data, "train").tolist()
    assert found == expected[: len(found)]


def test_no_document_is_in_two_splits_and_none_is_lost(tmp_path: Path) -> None:
    data = held_out_corpus(tmp_path, 120, 30)
    seen = {split: documents_in(data, split, 10**6) for split in ("train", "validation", "test")}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    assert len(set.union(*seen.values())) == 120
    meta = data.meta
    assert meta["held_out"]["rule"] == "documents"
    assert meta["held_out"]["documents"] == len(seen["validation"]) + len(seen["test"])
    assert abs(meta["validation"]["tokens"] - meta["test"]["tokens"]) < meta["test"]["tokens"] / 4


@pytest.mark.parametrize("split", ["validation", "test"])
def test_32_sequences_are_of_as_many_documents_as_there_can_be(split: str, tmp_path: Path) -> None:
    data = held_out_corpus(tmp_path, 200, 30)
    packed = getattr(data, split)
    clusters = data.meta[split]["clusters"]
    assert clusters > 32
    documents = packed.documents_of(np.arange(32))
    assert len(set(documents.tolist())) == 32
    everything = packed.documents_of(np.arange(len(packed)))
    assert len(set(everything[:clusters].tolist())) == clusters


def test_the_order_is_the_same_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    one, two = (held_out_corpus(tmp_path / name, 60, 20) for name in ("a", "b"))
    for split in ("train", "validation", "test"):
        assert np.array_equal(stream_of(one, split), stream_of(two, split))
    ids = np.arange(len(one.test))
    assert np.array_equal(one.test.documents_of(ids), two.test.documents_of(ids))


BYTES = {"kind": "bpe", "vocab_size": 258}


@pytest.mark.parametrize(
    ("texts", "rule"), [(600, "pieces"), (150, "sequences")], ids=["many pieces", "few pieces"]
)
def test_one_document_is_divided_by_less_and_it_is_said(
    texts: int, rule: str, tmp_path: Path
) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(document(i, 30) for i in range(texts)))
    spec = spec_of(path, validation_fraction=0.3, tokenizer=BYTES, sequence_length=64)
    data = prepare(spec, tmp_path / "cache")
    assert data.meta["held_out"] == {"rule": rule, "documents": 1}
    held_out = [data.split(name) for name in ("validation", "test")]
    assert min(map(len, held_out)) > max(map(len, held_out)) / 3
    rows = [set(map(tuple, p.rows(np.arange(len(p))).tolist())) for p in held_out]
    assert not rows[0] & rows[1]
    assert min(data.meta[name]["clusters"] for name in ("validation", "test")) > 1
    (caution,) = (text for text in summary_in(data.meta).cautions() if "validation and" in text)
    assert "standard errors are by" in caution


def test_one_sequence_validates_and_there_is_no_test(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [document(i, 3) for i in range(20)])
    spec = spec_of(rows, sequence_length=64, validation_fraction=0.01, tokenizer=BYTES)
    data = prepare(spec, tmp_path / "cache")
    assert (len(data.validation), len(data.test), data.final) == (1, 0, "validation")
    assert any("there is no test split" in text for text in summary_in(data.meta).cautions())
    assert open_prepared(data.folder).meta == data.meta


def test_data_of_earlier_releases_have_no_test_split(tmp_path: Path) -> None:
    data = held_out_corpus(tmp_path, 60, 20)
    meta = json.loads((data.folder / "meta.json").read_text())
    del meta["test"], meta["held_out"]
    (data.folder / "meta.json").write_text(json.dumps(meta))
    (data.folder / "validation.documents").unlink()
    earlier = open_prepared(data.folder)
    assert (len(earlier.test), earlier.final) == (0, "validation")
    assert earlier.validation.documents_of(np.arange(3)).tolist() == [0, 1, 2]


def test_a_missing_or_cut_file_of_documents_is_damage(tmp_path: Path) -> None:
    data = held_out_corpus(tmp_path, 60, 20)
    path = data.folder / "test.documents"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(StorageError, match="is not a folder of prepared data"):
        open_prepared(data.folder)
    path.unlink()
    with pytest.raises(StorageError, match="documents of its held-out sequences are missing"):
        open_prepared(data.folder)


sizes = st.lists(st.integers(1, 200), min_size=1, max_size=40)


@settings(max_examples=80)
@given(sizes=sizes, length=st.integers(1, 60))
def test_every_sequence_has_its_largest_document_and_every_document_its_turn(
    sizes: list[int], length: int
) -> None:
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    units = np.arange(len(sizes))
    rows = int(bounds[-1]) // length
    owners, order = spread_order(bounds, units, rows, length=length)
    assert sorted(order.tolist()) == list(range(rows))
    unit_of_token = np.repeat(units, sizes)
    for row in range(rows):
        counts = np.bincount(unit_of_token[row * length : (row + 1) * length])
        assert counts[owners[row]] == counts.max()
    # The first as many sequences as there are documents show each of those that have a sequence.
    shown = {u for row in order[: len(sizes)].tolist()
             for u in unit_of_token[row * length : (row + 1) * length].tolist()}  # fmt: skip
    starts_in_a_row = {u for u in units.tolist() if bounds[u] // length < rows}
    assert starts_in_a_row <= shown


@given(sizes=sizes)
def test_sides_differ_by_at_most_the_largest_unit(sizes: list[int]) -> None:
    sides = balanced_sides(np.array(sizes))
    totals = np.bincount(sides, weights=sizes, minlength=2)
    assert abs(totals[0] - totals[1]) <= max(sizes)


def test_a_document_with_most_of_the_text_is_divided_by_pieces() -> None:
    pieces = np.array([100, 100, 100, 100, 20, 20])
    documents = np.array([0, 0, 0, 0, 1, 2])
    assert divide(pieces, documents, 10)[0] == "pieces"
    assert divide(pieces, np.arange(6), 10)[0] == "documents"
    assert divide(pieces, documents, 300)[0] == "none"
    assert divide(pieces[:1], documents[:1], 30)[0] == "sequences"


def test_owners_of_sequences_that_a_document_spans() -> None:
    found = owners_of(np.array([0, 5, 30]), np.array([5, 30, 32]), np.arange(3), rows=3, length=10)
    assert found.tolist() == [0, 1, 1]
