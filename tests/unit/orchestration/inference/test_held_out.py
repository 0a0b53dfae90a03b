"""Held-out text is measured whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.data import TextTokenizer
from cola.data.tokenizer import train_bpe
from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.catalog import HeldOut
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from cola.study import EvaluationSpec
from orchestration.inference.held_out import held_out_text, named_text
from tests.factories import tiny_model
from tests.sizes import FAMILIES, SMALL

LENGTH = 32
TEXT = "The lamp stands beside the river, and the garden behind the lamp is dark. Ünïcode too.\n"
SETTINGS = LikelihoodSpec(mask_samples=2, ode_steps=2)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_bpe([TEXT * 20], 300)


@pytest.fixture(scope="module")
def models(tokenizer: TextTokenizer) -> dict[str, EvaluatedModel]:
    found = {}
    for name in FAMILIES:
        family, model = tiny_model(name, 60_000, 300, 2.0, **SMALL.get(name, {}))
        found[name] = EvaluatedModel(family, model, tokenizer, LENGTH, torch.device("cpu"))
    return found


def read(tokenizer: TextTokenizer, *files: Path, every: bool = True) -> HeldOut:
    return held_out_text(files, tokenizer, LENGTH, every_sequence=every)


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=5))
def test_every_byte_is_in_a_sequence_once(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, texts: list[str]
) -> None:
    texts = [text.lstrip("\ufeff") for text in texts] + ["the end"]
    path = tmp_path_factory.mktemp("held") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    held = read(tokenizer, path)
    assert held.last_T is not None
    documents = [text for text in texts if text.strip()]
    ids = np.concatenate([held.rows_NL.ravel(), held.last_T]).tolist()
    expected = [i for text in documents for i in (*tokenizer.encode(text), tokenizer.eos_token_id)]
    assert ids == expected
    assert held.total.bytes == sum(len(text.encode()) for text in documents)
    assert held.total.tokens == len(expected)
    assert held.total.sequences == math.ceil(len(expected) / LENGTH)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("repeats", [1, 9])
def test_the_likelihood_is_of_all_of_it(
    name: str,
    repeats: int,
    models: dict[str, EvaluatedModel],
    tokenizer: TextTokenizer,
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text(TEXT * repeats)
    held, evaluated = read(tokenizer, tmp_path / "a.txt"), models[name]
    assert held.last_T is not None
    assert len(held.last_T) > 0
    task = held.likelihood_task(1, SETTINGS, seed=0)  # `every_sequence`: the number has no effect
    records = dict(task.answer(evaluated, task.ids(), 4))
    found = task.summary(records)
    size, tokens = len(TEXT.encode()) * repeats, held.total.tokens
    assert found.details["measured"] == found.details["text"]
    assert found.details["measured"] == {
        "sequences": len(task.ids()), "tokens": tokens, "bytes": size
    }  # fmt: skip
    nll = sum(record["nll"] for record in records.values())
    assert found.metrics["nll_nats_per_token"] == pytest.approx(nll / tokens)
    assert found.metrics["bits_per_byte"] == pytest.approx(nll / math.log(2) / size)
    # Alone, in any batch, each sequence is what it is in company.
    again = dict(task.answer(evaluated, task.ids()[-1:], 1))
    assert again[task.ids()[-1]]["nll"] == pytest.approx(records[task.ids()[-1]]["nll"], rel=1e-5)
    if name == "ar":  # the chain rule over the last sequence alone
        rows = torch.tensor(held.last_T)[None]
        exact = evaluated.family.likelihood(
            evaluated.model, rows, SETTINGS, stream=Stream(0, 0, [0])
        )
        assert records[len(held.rows_NL)]["nll"] == pytest.approx(float(exact.nll_B[0]), rel=1e-5)


def test_a_number_of_items_takes_the_first_ones_and_the_result_says_so(
    models: dict[str, EvaluatedModel], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 9)
    held = read(tokenizer, tmp_path / "a.txt", every=False)
    rows = len(held.rows_NL)
    task = held.likelihood_task(2, SETTINGS, seed=0)
    found = task.summary(dict(task.answer(models["ar"], task.ids(), 4)))
    assert found.details["measured"] == {
        "sequences": 2, "tokens": 64, "bytes": int(held.bytes_N[:2].sum())
    }  # fmt: skip
    assert found.details["text"]["bytes"] == len(TEXT.encode()) * 9
    assert len(held.likelihood_task(rows, SETTINGS, seed=0).ids()) == rows
    assert len(held.likelihood_task(rows + 1, SETTINGS, seed=0).ids()) == rows + 1
    assert len(held.likelihood_task(100_000, SETTINGS, seed=0).ids()) == rows + 1


def test_a_text_shorter_than_a_sequence_is_one(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The lamp.")
    held = read(tokenizer, tmp_path / "a.txt")
    assert held.rows_NL.shape == (0, LENGTH)
    assert held.first_rows(5).shape == (1, held.total.tokens)


def test_what_is_no_text_is_refused_by_its_option(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    for name, content in (("empty.txt", ""), ("blank.txt", " \n\t\n"), ("empty.jsonl", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(
            SpecError, match=r"^--held-out.*(is empty|holds no text); give"
        ) as refusal:
            read(tokenizer, tmp_path / name)
        assert len(str(refusal.value).splitlines()) == 1
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(SpecError, match=r"^--held-out.*latin\.txt.*UTF-8"):
        read(tokenizer, tmp_path / "latin.txt")
    with pytest.raises(SpecError, match=r"^--held-out=.*nothing\.txt: no such file or folder"):
        read(tokenizer, tmp_path / "nothing.txt")


def test_what_is_left_out_of_the_text_is_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text('{"text": null}\n')
    held = read(tokenizer, tmp_path)
    assert held.left_out == (
        "left out of the held-out text: 1 row whose text is null",
        "no text in 1 file of the held-out text: b.jsonl",
    )
    assert held.total.bytes == len(TEXT.encode())
    assert read(tokenizer, tmp_path / "a.txt").left_out == ()


def test_what_is_left_out_by_a_rule_is_named_too(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "README.md").write_text("read me")
    (not_read,) = read(tokenizer, tmp_path).left_out
    assert not_read == "not read of the held-out text: 1 side file (README.md)"
    twice = read(tokenizer, tmp_path / "a.txt", tmp_path / "a.txt")
    assert twice.left_out == ("not read of the held-out text: 1 found twice (a.txt)",)
    assert twice.total.bytes == len(TEXT.encode())


def test_a_field_of_held_out_rows_is_not_named_as_a_study_s(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(SpecError, match=r"^field 'text': no such field \(--held-out=.*: line 1\)"):
        read(tokenizer, tmp_path / "a.jsonl")


def test_a_text_of_the_study_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EvaluationSpec.parse({"held_out": {"typos": {"source": "perturbed"}}})
    monkeypatch.chdir(tmp_path)
    assert named_text([Path("typos")], settings) == "typos"
    assert named_text([Path("other.txt")], settings) is None
    with pytest.raises(SpecError, match=r"typos: is a text of the study .* give it alone"):
        named_text([Path("typos"), Path("other.txt")], settings)
    (tmp_path / "typos").write_text("A file.")
    with pytest.raises(SpecError, match=r"typos: is a text of the study .* and a path here"):
        named_text([Path("typos")], settings)
    assert named_text([tmp_path / "typos"], settings) is None
