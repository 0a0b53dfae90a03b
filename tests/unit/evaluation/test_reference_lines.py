"""Losses of guesses by counting, against counts by hand."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from cola.data import PreparedData, prepare
from cola.evaluation.reference_lines import (
    bigram_probabilities,
    counted_lines,
    reference_lines,
    smoothed,
)
from cola.spec import DataSpec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("corpus")
    words = itertools.cycle(["one two three", "two two one", "three one two one"])
    text = " ".join(itertools.islice(words, 4000))
    (folder / "text.txt").write_text(text)
    spec = DataSpec.parse(
        {
            "corpus": {"source": "files", "paths": [str(folder / "text.txt")]},
            "tokenizer": {"kind": "bpe", "vocab_size": 265},
            "sequence_length": 32,
            "validation_fraction": 0.2,
        }
    )
    return prepare(spec, folder / "cache")


def test_unigrams_against_counts_by_hand() -> None:
    found = smoothed(np.array([3, 1, 0, 0]), 4)
    assert found.tolist() == [(3 + 0.5) / 6, (1 + 0.5) / 6, 0.5 / 6, 0.5 / 6]
    assert found.sum() == pytest.approx(1)


def test_bigrams_against_counts_by_hand() -> None:
    train = np.array([[0, 1, 0, 1], [0, 2, 1, 0]])
    unigram = smoothed(np.bincount(train.ravel(), minlength=4), 4)
    tokens = np.array([[0, 1, 3, 0]])
    found = bigram_probabilities(train, tokens, unigram)[0]
    # After 0: 1 twice, 2 once. After 1: 0 twice. After 3: nothing is known.
    assert found[0] == unigram[0]
    assert found[1] == pytest.approx((2 + 2 * unigram[1]) / (3 + 2))
    assert found[2] == pytest.approx((0 + 1 * unigram[3]) / (2 + 1))
    assert found[3] == unigram[0]


@pytest.mark.parametrize("before", range(4))
def test_probabilities_after_any_token_add_up_to_one(before: int) -> None:
    train = np.array([[0, 1, 0, 1], [0, 2, 1, 0]])
    unigram = smoothed(np.bincount(train.ravel(), minlength=4), 4)
    tokens = np.array([[before, after] for after in range(4)])
    assert bigram_probabilities(train, tokens, unigram)[:, 1].sum() == pytest.approx(1)


def test_each_line_is_below_the_one_that_knows_less(data: PreparedData) -> None:
    lines = counted_lines(data, 16)
    assert lines.uniform == pytest.approx(math.log(data.meta["vocab_size"]))
    assert 0 < lines.bigram < lines.unigram < lines.uniform
    assert 0 < lines.xz_bits_per_byte < 8
    assert lines.counted_tokens == len(data.train) * 32


def test_lines_are_kept_and_a_damaged_file_is_made_again(data: PreparedData) -> None:
    lines = reference_lines(data, 8)
    file = Path(data.folder) / "reference-lines-8.json"
    assert json.loads(file.read_text())["unigram"] == lines.unigram
    file.write_text("{")
    assert reference_lines(data, 8) == lines
    assert json.loads(file.read_text())["unigram"] == lines.unigram
