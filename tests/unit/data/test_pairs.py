"""Pairs as prepared data: a pair a sequence, whose tokens are those of its caption alone."""

from __future__ import annotations

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
