"""Preparation from end to end: nothing lost, nothing leaked, built once."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cola.data import PreparedData, open_prepared, prepare, source_fingerprint, vocab_size_of
from cola.data.tokenizer import train_bpe
from cola.errors import SpecError, StorageError
from cola.spec import DataSpec
from tests.paths import ROOT


def document(index: int, lines: int = 12) -> str:
    return "".join(f"line {line} of text {index}: é {index * line}\n" for line in range(lines))


def write_rows(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def spec_of(*paths: Path, **settings: Any) -> DataSpec:
    values: dict[str, Any] = {
        "corpus": {"source": "files", "paths": [str(path) for path in paths]},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "sequence_length": 16,
        "validation_fraction": 0.2,
    }
    return DataSpec.parse(values | settings)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "corpus.jsonl", [document(i) for i in range(60)])


def error_of(spec: DataSpec, cache: Path) -> str:
    with pytest.raises(SpecError) as caught:
        prepare(spec, cache)
    message = str(caught.value)
    assert "\n" not in message
    assert not list(cache.glob(".building*"))
    assert not [path for path in cache.iterdir() if path.is_dir()]
    return message


def stream_of(data: PreparedData, split: str) -> np.ndarray:
    packed = getattr(data, split)
    return packed.rows(np.arange(len(packed))).reshape(-1)


def texts_of(data: PreparedData, split: str) -> list[str]:
    """Texts between EOS tokens; the last one may be cut short."""
    stream = stream_of(data, split)
    cuts = np.flatnonzero(stream == data.tokenizer.eos_token_id)
    parts = np.split(stream, cuts)
    return [data.tokenizer.decode(part.tolist()) for part in parts]


def whole_rows(data: PreparedData, split: str) -> list[str]:
    """Texts of the sequences that hold no end of text, but for characters that are cut in two."""
    rows = [row.tolist() for row in getattr(data, split)]
    texts = [data.tokenizer.decode(row) for row in rows if data.tokenizer.eos_token_id not in row]
    return [text.strip("\ufffd") for text in texts]


def test_text_comes_back_and_is_on_one_side_only(corpus: Path, tmp_path: Path) -> None:
    data = prepare(spec_of(corpus), tmp_path / "cache")
    train, documents = texts_of(data, "train"), [document(i) for i in range(60)]
    assert set(train[:-1]) <= set(documents)
    # It keeps the order of the corpus, and at most one text is cut off.
    positions = [documents.index(text) for text in train[:-1]]
    assert positions == sorted(positions)
    held_out = [text for text in documents if text not in train and not text.startswith(train[-1])]
    # Sequences of held-out text have an order of their own: they are those of half of its texts.
    both = 0
    for split in ("validation", "test"):
        packed = getattr(data, split)
        shown = [data.tokenizer.decode(row.tolist()) for row in packed]
        named = {
            text: text.splitlines()[0].split("line 0 of ")[1].split(" é")[0] for text in held_out
        }
        mine = [text for text in held_out if any(f" {named[text]}" in row for row in shown)]
        eos, encode = data.tokenizer.eos_token_id, data.tokenizer.encode
        tokens = [token for text in mine for token in [*encode(text), eos]]
        rows = np.array(tokens[: len(tokens) // 16 * 16]).reshape(-1, 16)
        found = packed.rows(np.arange(len(packed)))
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, rows.tolist()))
        both += len(mine)
    assert both == len(held_out)


def test_tokenizer_is_trained_on_training_text_only(corpus: Path, tmp_path: Path) -> None:
    data = prepare(spec_of(corpus), tmp_path / "cache")
    documents = [document(i) for i in range(60)]
    hashes = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        for text in documents
    ]
    training = [t for t, value in zip(documents, hashes, strict=True) if value >= 0.2 * 2**64]
    assert len(training) == data.meta["train"]["documents"] < 60
    found = data.tokenizer.description
    assert found == train_bpe(training, 300).description
    assert found != train_bpe(documents, 300).description


def test_meta_counts(corpus: Path, tmp_path: Path) -> None:
    spec = spec_of(corpus)
    data = prepare(spec, tmp_path / "cache")
    meta = data.meta
    assert meta["fingerprint"] == source_fingerprint(spec)
    assert sum(meta[split]["documents"] for split in ("train", "validation", "test")) == 60
    assert meta["corpus_documents"] == 60
    assert meta["vocab_size"] == vocab_size_of(spec) == data.tokenizer.vocab_size == 300
    for split in ("train", "validation", "test"):
        packed, counts = getattr(data, split), meta[split]
        sizes = packed.bytes_of(np.arange(len(packed)))
        assert counts["sequences"] == len(packed) > 0
        assert counts["tokens"] == 16 * len(packed)
        assert 0 <= counts["dropped_tokens"] < 16
        assert counts["bytes"] == sizes.sum()
        assert counts["bytes_per_token"] == counts["bytes"] / counts["tokens"]
        if split == "train":  # the others' sequences do not follow on each other
            decoded = data.tokenizer.decode(stream_of(data, split).tolist())
            # The last character may be cut in two.
            assert abs(len(decoded.rstrip("\ufffd").encode()) - counts["bytes"]) <= 1
        whole = 0
        for row, size in zip(packed, sizes, strict=True):
            text = data.tokenizer.decode(row.tolist())
            if "\ufffd" not in text:
                assert len(text.encode()) == size
                whole += 1
        assert whole > len(packed) / 2


def test_second_call_does_not_build(corpus: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    spec = spec_of(corpus)
    first = prepare(spec, tmp_path / "cache", lambda message, done: calls.append((message, done)))
    fractions = [done for _, done in calls]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {message for message, _ in calls} == {
        "training the tokenizer",
        "encoding",
        "data ready",
    }
    calls.clear()
    reordered = spec.model_copy(update={"seed": 1})
    again = prepare(reordered, tmp_path / "cache", lambda m, done: calls.append((m, done)))
    assert not calls
    assert again.folder == first.folder
    assert np.array_equal(stream_of(again, "train"), stream_of(first, "train"))
    shutil.move(corpus, tmp_path / "moved.jsonl")
    opened = open_prepared(first.folder)
    assert opened.meta == first.meta
    assert np.array_equal(stream_of(opened, "validation"), stream_of(first, "validation"))


def test_builds_are_equal_and_can_be_sent_to_workers(corpus: Path, tmp_path: Path) -> None:
    spec = spec_of(corpus)
    one, two = prepare(spec, tmp_path / "one"), prepare(spec, tmp_path / "two")
    for file in one.folder.iterdir():
        if file.name != "meta.json":
            assert file.read_bytes() == (two.folder / file.name).read_bytes()
    sent = pickle.loads(pickle.dumps(one))
    assert np.array_equal(sent.train[3], one.train[3])
    assert sent.tokenizer.encode("line é") == one.tokenizer.encode("line é")


def test_fingerprint_is_of_content(corpus: Path, tmp_path: Path) -> None:
    base = source_fingerprint(spec_of(corpus))
    assert source_fingerprint(spec_of(corpus, seed=1)) == base
    (tmp_path / "other").mkdir()
    moved = Path(shutil.copy(corpus, tmp_path / "other"))
    assert source_fingerprint(spec_of(moved)) == base
    changed = [
        spec_of(corpus, sequence_length=32),
        spec_of(corpus, validation_fraction=0.3),
        spec_of(corpus, tokenizer={"kind": "bpe", "vocab_size": 301}),
        spec_of(corpus, tokenizer={"kind": "hub", "name": "gpt2", "vocab_size": 50257}),
        spec_of(corpus, corpus={"source": "huggingface", "name": "some/name"}),
        spec_of(corpus, corpus={"source": "huggingface", "name": "some/name", "config": "c"}),
        spec_of(corpus, corpus={"source": "python-stdlib"}),
    ]
    moved.write_text(moved.read_text().replace("line 3 of text 30", "line 3 of text 31"))
    prints = [base, source_fingerprint(spec_of(moved)), *map(source_fingerprint, changed)]
    assert len(set(prints)) == len(prints)
    assert all(len(value) == 64 for value in prints)


def test_fingerprint_of_a_tokenizer_file_and_local_data_set(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(spec_of(corpus), tmp_path / "cache").folder
    path = Path(shutil.copy(folder / "tokenizer.json", tmp_path))
    spec = spec_of(corpus, tokenizer={"kind": "file", "path": str(path)})
    before = source_fingerprint(spec)
    path.write_text(path.read_text() + " ")
    assert source_fingerprint(spec) != before
    data_set = spec_of(corpus, corpus={"source": "huggingface", "name": str(corpus.parent)})
    before = source_fingerprint(data_set)
    corpus.write_text(corpus.read_text() + "\n")
    assert source_fingerprint(data_set) != before


def test_more_than_two_gigabytes_are_identified_by_size_and_time(tmp_path: Path) -> None:
    huge = tmp_path / "huge.txt"
    huge.touch()
    os.truncate(huge, 2 * 10**9 + 1)  # sparse: occupies nothing
    before = source_fingerprint(spec_of(huge))
    assert source_fingerprint(spec_of(huge)) == before
    os.utime(huge, ns=(0, 10**18))
    assert source_fingerprint(spec_of(huge)) != before


def test_duplicates_stay_together(tmp_path: Path) -> None:
    texts = [document(i % 20) for i in range(80)]
    data = prepare(spec_of(write_rows(tmp_path / "c.jsonl", texts)), tmp_path / "cache")
    train, validation = texts_of(data, "train")[:-1], texts_of(data, "validation")[:-1]
    assert validation
    assert set(train).isdisjoint(validation)
    assert {texts_of(data, "train").count(text) for text in train[:5]} <= {3, 4}


def test_small_corpus_always_has_validation(tmp_path: Path) -> None:
    for count in (2, 3, 5):
        path = write_rows(tmp_path / f"{count}.jsonl", [document(i, 40) for i in range(count)])
        tiny = prepare(spec_of(path, validation_fraction=1e-9), tmp_path / "cache")
        assert tiny.meta["validation"]["documents"] == 1
        most = prepare(spec_of(path, validation_fraction=0.499), tmp_path / "cache")
        assert min(most.meta[split]["documents"] for split in ("train", "validation")) >= 1


def test_one_long_document_is_cut_and_joined(tmp_path: Path) -> None:
    text = "".join(document(i, 30) for i in range(400))
    path = tmp_path / "book.txt"
    path.write_text(text)
    data = prepare(spec_of(path), tmp_path / "cache")
    parts = texts_of(data, "train")
    assert len(text) > 10 * 16_384
    assert all(part in text for part in parts)
    for split in ("validation", "test"):
        assert all(row in text for row in whole_rows(data, split))
    # Neighbouring pieces of one split are joined again: EOS stands only where text is missing.
    assert len(parts) < data.meta["train"]["documents"]
    assert max(map(len, parts)) > 16_384
    assert data.meta["corpus_documents"] == 1


def test_impossible_corpora_say_so(tmp_path: Path, corpus: Path) -> None:
    cache = tmp_path / "cache"
    blank = write_rows(tmp_path / "blank.jsonl", ["", "  \n"])
    assert "holds no text" in error_of(spec_of(blank), cache)
    single = write_rows(tmp_path / "single.jsonl", [document(1)] * 3)
    assert "holds one text only" in error_of(spec_of(single), cache)
    message = error_of(spec_of(corpus, sequence_length=4096, validation_fraction=0.02), cache)
    assert "data.sequence_length=4096: the validation split has" in message
    assert "data.validation_fraction above 0.02 or a shorter sequence_length" in message
    message = error_of(spec_of(corpus, sequence_length=100_000), cache)
    assert "the train split has" in message
    message = error_of(spec_of(corpus, tokenizer={"kind": "bpe", "vocab_size": 50_000}), cache)
    assert "corpus too small to train that many entries; try at most" in message
    with pytest.raises(SpecError, match="no such file or folder"):
        prepare(spec_of(tmp_path / "missing"), cache)


def test_word_level_tokenizer_file(tmp_path: Path, corpus: Path) -> None:
    words = ["[UNK]", "</s>", "line", "of", "text", ":", "é", *map(str, range(700))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    path = tmp_path / "words.json"
    tokenizer.save(str(path))
    file = {"kind": "file", "path": str(path), "eos_token": "</s>"}
    spec = spec_of(corpus, tokenizer=file)
    data = prepare(spec, tmp_path / "cache")
    assert vocab_size_of(spec) == data.meta["vocab_size"] == len(words)
    rows = data.train.rows(np.arange(len(data.train)))
    assert data.tokenizer.decode(rows[0].tolist()).startswith("line 0 of text")
    # Whole documents: their bytes are those of the text, white space included.
    eos = np.flatnonzero(rows.reshape(-1) == data.tokenizer.eos_token_id)
    assert len(eos) == data.meta["train"]["documents"] - (data.meta["train"]["dropped_tokens"] > 0)
    splits = ("train", "validation", "test")
    packed = sum(data.meta[split]["bytes"] for split in splits)
    total = sum(len(document(i).encode()) for i in range(60))
    dropped = sum(data.meta[s]["dropped_tokens"] for s in splits)
    assert total - 8 * dropped <= packed <= total
    assert data.meta["dtype"] == "uint16"
    other = write_rows(tmp_path / "other.jsonl", [f"nothing known here {i}é" for i in range(200)])
    message = error_of(spec_of(other, tokenizer=file), tmp_path / "other-cache")
    assert "tokenizer and corpus do not fit" in message
    message = error_of(spec_of(corpus, tokenizer=file | {"eos_token": "<e>"}), tmp_path / "third")
    assert "data.tokenizer.eos_token=<e>" in message


def test_large_vocabulary_is_stored_in_four_bytes(tmp_path: Path, corpus: Path) -> None:
    words = {word: 70_000 + i for i, word in enumerate(["[UNK]", "line", "of", "text", ":", "é"])}
    words |= {str(i): 60_000 + i for i in range(700)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "words.json"))
    file = {"kind": "file", "path": str(tmp_path / "words.json"), "eos_token": "</s>"}
    data = prepare(spec_of(corpus, tokenizer=file), tmp_path / "cache")
    assert data.meta["dtype"] == "uint32"
    assert data.train.rows(np.arange(3)).max() > 1 << 16
    assert data.tokenizer.decode(data.train[0].tolist()).startswith("line 0 of text")


def test_hub_tokenizer_and_data_set_from_local_folders(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trained = prepare(spec_of(corpus), tmp_path / "cache")
    folder = tmp_path / "dataset"
    folder.mkdir()
    shutil.copy(corpus, folder / "train.jsonl")
    hub = {"kind": "hub", "name": str(trained.folder), "vocab_size": 300}
    data_set = {"source": "huggingface", "name": str(folder)}
    data = prepare(spec_of(corpus, corpus=data_set, tokenizer=hub), tmp_path / "cache")
    assert data.folder != trained.folder
    for split in ("train", "validation"):
        assert np.array_equal(stream_of(data, split), stream_of(trained, split))


def test_damaged_cache_is_built_again(corpus: Path, tmp_path: Path) -> None:
    data = prepare(spec_of(corpus), tmp_path / "cache")
    tokens = next(data.folder.glob("train-*.tokens"))
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-2])
    with pytest.raises(StorageError, match=r"is not a folder of prepared data .*delete it"):
        open_prepared(data.folder)
    again = prepare(spec_of(corpus), tmp_path / "cache")
    assert tokens.read_bytes() == content
    assert again.folder == data.folder
    (data.folder / "meta.json").write_text("{")
    with pytest.raises(StorageError, match="is not a folder of prepared data"):
        open_prepared(data.folder)
    with pytest.raises(StorageError, match="is not a folder of prepared data"):
        open_prepared(tmp_path / "nothing")


def test_cache_that_cannot_be_written_says_so(corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StorageError, match="cannot keep prepared data"):
        prepare(spec_of(corpus), file / "cache")


def english_rows(data: PreparedData) -> list[str]:
    """Texts of some rows, without the characters that a border cuts in two."""
    rows = (data.train[0], data.train[-1], data.validation[0])
    return [data.tokenizer.decode(row.tolist()).strip("\ufffd") for row in rows]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_english_text(suffix: str, tmp_path: Path) -> None:
    """The project's own documents, as one text and as a text each."""
    texts = [path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]]
    path = tmp_path / f"documents{suffix}"
    if suffix == ".txt":
        texts = ["\n".join(texts)]
        path.write_text(texts[0])
    else:
        write_rows(path, texts)
    settings = {"tokenizer": {"kind": "bpe", "vocab_size": 1024}, "sequence_length": 128}
    data = prepare(spec_of(path, **settings), tmp_path / "cache")
    assert 2.5 < data.meta["train"]["bytes_per_token"] < 4.5
    assert data.meta["skipped_files"] == 0
    for text in english_rows(data):
        assert len(text) > 128
        assert any(text in whole for whole in texts)
