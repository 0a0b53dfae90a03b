"""What judges say of texts behind prompts, and that they are not asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cola.data import TextTokenizer
from cola.errors import SpecError
from cola.evaluation.frontier.judged import MauveJudge, ReferenceJudge, external_features
from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.mauve import COMPARABLE
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.models.judge import Reference
from cola.evaluation.tasks.predictive import PromptTexts
from cola.objectives.next_token import token_nll


def prompts_of(rows: np.ndarray, count: int) -> Prompts:
    return Prompts.of(PromptTexts(rows), 8, 4, asked=count)


def test_prompts_are_spread_over_sequences_first(held_out: np.ndarray) -> None:
    prompts = prompts_of(held_out, 1000)
    assert prompts.count == 3 * len(held_out)  # they end at 8, 16 and 24 of 32
    assert sorted(set(prompts.lengths())) == [8, 16, 24]
    assert len(set(prompts.clusters()[: len(held_out)].tolist())) == len(held_out)
    assert prompts.prompt(1) + prompts.truth(1) == held_out[1, :20].tolist()
    with pytest.raises(SpecError, match="a sequence has 32 tokens"):
        Prompts.of(PromptTexts(held_out), 30, 4, asked=9)


def test_a_reference_counts_the_text_and_not_its_prompt(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray, tmp_path: Path
) -> None:
    ar, prompts = evaluated_models["ar"], prompts_of(held_out, 5)
    judge = ReferenceJudge(lambda: Reference("itself", ar), "digest", prompts)
    records = {item: {"tokens": held_out[item % 5, -4:].tolist()} for item in range(10)}
    found = judge.of_records(records, tmp_path / "judged.jsonl")
    tokens = torch.tensor([prompts.prompt(3) + records[8]["tokens"]])
    with torch.no_grad():
        exact = float(token_nll(ar.model, tokens)[0, -4:].double().sum())
    assert found[8] == pytest.approx(exact, rel=1e-4)

    def nobody() -> Reference:
        raise AssertionError("all of it was judged before")

    again = ReferenceJudge(nobody, "digest", prompts)
    assert again.of_records(records, tmp_path / "judged.jsonl") == found


def test_mauve_takes_a_thousand_prompts_and_is_kept(
    tokenizer: TextTokenizer, held_out: np.ndarray, tmp_path: Path
) -> None:
    rows = np.tile(held_out, (17, 1))
    prompts = prompts_of(rows, COMPARABLE)
    asked: list[int] = []

    def features(texts: Sequence[Sequence[int]]) -> np.ndarray:
        asked.append(len(texts))
        draw = np.random.default_rng(len(asked))
        return (
            draw.normal(0, 1, (len(texts), 3)) + np.array([sum(t[-4:]) % 7 for t in texts])[:, None]
        )

    judge = MauveJudge(features, "digest", "made up", prompts)
    assert judge.has_enough
    assert not MauveJudge(features, "digest", "made up", prompts_of(rows, 999)).has_enough
    records = {number: {"tokens": prompts.truth(number)} for number in range(COMPARABLE)}
    found = judge.of_records(records, tmp_path / "mauve.jsonl")
    assert found.value > 0.9
    assert asked == [COMPARABLE] * 2
    kept = MauveJudge(lambda rows: np.zeros(0), "digest", "made up", prompts)
    assert kept.of_records(records, tmp_path / "mauve.jsonl") == found


def test_an_external_model_reads_the_text(tokenizer: TextTokenizer) -> None:
    class Model:
        def features(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([[len(text)] for text in texts])

    of_rows = external_features(Model, tokenizer)  # type: ignore[arg-type]
    assert of_rows([tokenizer.encode("The lamp"), tokenizer.encode("A")]).tolist() == [[8], [1]]
