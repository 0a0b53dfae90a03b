"""A generated corpus as prepared data: its tokens are its symbols, and its truth is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cola.data import PreparedData, find_prepared, prepare, source_fingerprint, vocab_size_of
from cola.data.summary import summarise
from cola.errors import SpecError
from cola.evaluation.reference_lines import reference_lines
from cola.hidden_topics.documents import documents
from cola.hidden_topics.source import END
from cola.hidden_topics.truth import entropy_rate, true_nll
from cola.spec import DataSpec
from cola.spec.data import GeneratedText

CORPUS = {"source": "generated", "documents": 400, "document_tokens": 64, "symbols": 12}
DATA = {"corpus": CORPUS, "tokenizer": {"kind": "symbols"}, "sequence_length": 32,
        "validation_fraction": 0.2}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(DataSpec.parse(DATA), tmp_path_factory.mktemp("cache"))


def test_a_token_is_a_symbol_and_documents_end(prepared: PreparedData) -> None:
    spec = DataSpec.parse(DATA)
    assert prepared.tokenizer.vocab_size == vocab_size_of(spec) == 13
    texts = {text for text in documents(spec.corpus) if len(text) < 30}
    decoded = prepared.tokenizer.decode(
        prepared.train.rows(np.arange(len(prepared.train))).ravel().tolist(),
        skip_special_tokens=False,
    )
    whole = [text for text in decoded.split(prepared.tokenizer.eos_token) if len(text) < 30]
    assert sum(text in texts for text in whole) > 0.9 * len(whole) > 50
    assert prepared.train.rows(np.arange(8)).max() <= 12


def test_the_source_and_its_entropy_are_kept(prepared: PreparedData) -> None:
    spec = DataSpec.parse(DATA).corpus
    assert isinstance(spec, GeneratedText)
    assert prepared.source == spec
    assert prepared.meta["entropy_rate"]["nats"] == entropy_rate(spec).nats
    assert prepared.meta["entropy_rate"]["standard_error"] > 0


def test_the_source_is_the_best_of_the_reference_lines(prepared: PreparedData) -> None:
    lines = reference_lines(prepared, 64, "test")
    assert lines.truth is not None
    assert lines.truth < lines.bigram < lines.unigram < lines.uniform
    rows = prepared.test.rows(np.arange(64))
    assert lines.truth == pytest.approx(true_nll(prepared.source, rows).mean())
    assert reference_lines(prepared, 64, "test") == lines


def test_a_plan_knows_the_documents_and_the_entropy_without_drawing_them() -> None:
    summary = summarise(DataSpec.parse(DATA | {"corpus": CORPUS | {"documents": 10**9}}))
    assert summary.documents == 10**9
    assert any(line.startswith("True entropy: ") for line in summary.facts())
    assert summary.cautions() == []


def test_other_documents_are_other_data(tmp_path: Path) -> None:
    more = DataSpec.parse(DATA | {"corpus": CORPUS | {"documents": 401}})
    other = DataSpec.parse(DATA | {"corpus": CORPUS | {"seed": 3}})
    assert len({source_fingerprint(s) for s in (DataSpec.parse(DATA), more, other)}) == 3
    assert find_prepared(more, tmp_path) is None


@pytest.mark.parametrize(
    "part", [{"tokenizer": {"kind": "bpe"}}, {"corpus": {"source": "python-stdlib"}}]
)
def test_symbols_and_other_text_do_not_fit(part: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"give both .* or neither"):
        DataSpec.parse(DATA | part)


def test_the_end_is_the_token_that_the_packing_writes(prepared: PreparedData) -> None:
    assert prepared.tokenizer.eos_token_id == END
