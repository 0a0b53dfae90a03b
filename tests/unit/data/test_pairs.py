"""Pairs as prepared data: a pair a sequence, whose tokens are those of its caption alone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from cola.data import PreparedData, prepare, source_fingerprint
from cola.data.summary import summarise
from cola.errors import SpecError
from cola.image_captions.drawing import pair_of
from cola.spec import DataSpec
from cola.study import StudySpec

# Of a generated text with all defaults, as it is without any image.
GENERATED = "1fb500d06280b246e0a374f2143ddd9c10cee1cc466725d6e2aed4e8d50df61d"
CORPUS = {"source": "generated-pairs", "documents": 200}
DATA = {"corpus": CORPUS, "tokenizer": {"kind": "bpe", "vocab_size": 280}, "sequence_length": 48,
        "validation_fraction": 0.2}  # fmt: skip
STUDY = {
    "name": "pairs", "families": {"ar": {}}, "data": DATA, "seeds": [1],
    "ladder": [{"budget": 1e9, "core_parameters": 60_000}],
    "evaluation": {"prompt_tokens": 8, "generation": {"max_new_tokens": 8}},
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(DataSpec.parse(DATA), tmp_path_factory.mktemp("cache"))


def test_each_sequence_is_a_caption_with_its_own_image(prepared: PreparedData) -> None:
    spec = DataSpec.parse(DATA)
    pairs = {}
    for number in range(200):
        text, image = pair_of(spec.corpus, number)
        pairs.setdefault(text, set()).add(image.tobytes())
    seen, eos = 0, prepared.tokenizer.eos_token_id
    for name in ("train", "validation", "test"):
        packed = prepared.split(name)
        ids = np.arange(len(packed))
        images = packed.images_of(ids)
        assert images.shape == (len(packed), 3, 16, 16)
        for row, image, size in zip(packed.rows(ids), images, packed.bytes_of(ids), strict=True):
            end = row.tolist().index(eos)
            assert (row[end:] == eos).all()
            text = prepared.tokenizer.decode(row[:end].tolist())
            assert image.tobytes() in pairs[text]
            assert size == len(text)
            seen += 1
    assert seen == 200
    assert prepared.meta["train"]["tokens"] == 48 * len(prepared.train)


def test_sequences_can_be_sent_to_another_process(prepared: PreparedData) -> None:
    again = pickle.loads(pickle.dumps(prepared.train))
    assert (again.images_of(np.array([3])) == prepared.train.images_of(np.array([3]))).all()


def test_captions_are_held_out_whole(prepared: PreparedData) -> None:
    """Equal captions are on one side: no held-out one was read with another image."""
    texts = {
        name: {
            tuple(row) for row in prepared.split(name).rows(np.arange(len(prepared.split(name))))
        }
        for name in ("train", "validation", "test")
    }
    assert not texts["train"] & (texts["validation"] | texts["test"])
    assert len(texts["validation"]) > 5


def test_other_pairs_are_other_data_and_a_plan_counts_them() -> None:
    specs = [DataSpec.parse(DATA | {"corpus": CORPUS | more})
             for more in ({}, {"seed": 3}, {"documents": 201}, {"image_size": 24})]  # fmt: skip
    assert len({source_fingerprint(spec) for spec in specs}) == 4
    many = DataSpec.parse(DATA | {"corpus": CORPUS | {"documents": 10**9}})
    assert summarise(many).documents == 10**9


def test_a_caption_that_does_not_fit_a_sequence_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"data.sequence_length=8: caption \d+ has \d+ tokens"):
        prepare(DataSpec.parse(DATA | {"sequence_length": 8}), tmp_path)


@pytest.mark.parametrize(
    ("corpus", "settings", "problem"),
    [
        ({"source": "python-stdlib"}, {}, "source=python-stdlib has none"),
        (CORPUS | {"image_size": 24}, {}, "has images of 3 x 24 x 24"),
        (CORPUS, {"image_size": 24, "image_patch": 6}, "reads a 3 x 24 x 24 image"),
        (CORPUS, {"image_size": 18}, "image_patch=4 must divide image_size=18"),
        (CORPUS, {"block_size": 6}, "possible are 4, 8, 16"),
    ],
)
def test_images_that_do_not_fit_the_family_are_one_line(
    corpus: dict[str, object], settings: dict[str, object], problem: str
) -> None:
    families = {"ar": {}, "mm": {"family": "multimodal", **settings}}
    with pytest.raises(SpecError, match=problem) as found:
        StudySpec.parse(STUDY | {"families": families, "data": DATA | {"corpus": corpus}})
    assert "\n" not in str(found.value)
    assert StudySpec.parse(STUDY | {"families": {"ar": {}, "mm": {"family": "multimodal"}}})


def test_data_without_images_are_identified_as_ever() -> None:
    """Run keys of studies of text do not know that there are images."""
    text = DataSpec.parse({"corpus": {"source": "generated"}, "tokenizer": {"kind": "symbols"}})
    assert "image" not in text.canonical_json()
    assert source_fingerprint(text) == GENERATED


def folder_of_pairs(folder: Path, count: int = 40) -> dict[str, object]:
    """Image files with a table of captions, and the corpus that names it."""
    image = pytest.importorskip("PIL.Image")
    spec = DataSpec.parse(DATA).corpus
    rows = []
    for number in range(count):
        text, pixels = pair_of(spec, number)
        image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "text": text}))
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    return {"source": "image-pairs", "paths": [str(folder / "pairs.jsonl")], "image_size": 16}


def test_files_are_the_same_pairs_wherever_they_lie(tmp_path: Path) -> None:
    corpora = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        corpora.append(DataSpec.parse(DATA | {"corpus": folder_of_pairs(tmp_path / name)}))
    assert source_fingerprint(corpora[0]) == source_fingerprint(corpora[1])
    data = prepare(corpora[0], tmp_path / "cache")
    ids = np.arange(len(data.train))
    texts = {pair_of(DataSpec.parse(DATA).corpus, n)[1].tobytes(): n for n in range(40)}
    for row, image in zip(data.train.rows(ids), data.train.images_of(ids), strict=True):
        text, _ = pair_of(DataSpec.parse(DATA).corpus, texts[image.tobytes()])
        assert data.tokenizer.decode(row[: row.tolist().index(0)].tolist()) == text
    assert data.pairs is None
    changed = tmp_path / "there" / "3.png"
    changed.write_bytes((tmp_path / "there" / "4.png").read_bytes())
    assert source_fingerprint(corpora[1]) != source_fingerprint(corpora[0])


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"image": "0.png", "text": " "}, "line 2: the image 0.png has no caption in field 'text'"),
        ({"text": "a red 7"}, "line 2: has no image in field 'image'"),
        ({"image": "none.png", "text": "a"}, "none.png: no such file"),
        ({"image": "wide.png", "text": "a"}, "has 20 x 16 pixels, not data.corpus.image_size=16"),
        ({"image": "grey.png", "text": "a"}, "has the channels L, not red, green and blue"),
        ({"image": "pairs.jsonl", "text": "a"}, "cannot be read as an image"),
    ],
)
def test_a_pair_that_is_none_is_named_in_one_line(
    row: dict[str, str], problem: str, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    corpus = folder_of_pairs(tmp_path, 6)
    image.new("RGB", (20, 16)).save(tmp_path / "wide.png")
    image.new("L", (16, 16)).save(tmp_path / "grey.png")
    table = tmp_path / "pairs.jsonl"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], json.dumps(row), *lines[1:]]))
    few = {"corpus": corpus, "tokenizer": {"kind": "bpe", "vocab_size": 258}}
    spec = DataSpec.parse(DATA | few | {"sequence_length": 128})
    with pytest.raises(SpecError, match=problem) as found:
        prepare(spec, tmp_path / "cache")
    assert "\n" not in str(found.value)
