"""Tasks that are made from held-out text."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cola.data import TextTokenizer
from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.models.judge import Reference
from cola.evaluation.statistics import distinct, repetition
from cola.evaluation.tasks.catalog import HeldOut, make_tasks
from cola.evaluation.tasks.cloze import (
    WORD,
    cloze_items,
    longest_document,
    questions,
)
from cola.evaluation.tasks.task import Task
from cola.evaluation.tasks.text_task import share_error
from cola.evaluation.tasks.token_tasks import ContinuationTask, InfillingTask
from cola.evaluation.tasks.unconditional import Judges, UnconditionalTask
from cola.objectives.next_token import token_nll
from cola.records import IN_DOMAIN_TASKS
from cola.spec import GenerationSpec
from cola.study import EvaluationSpec
from tests.sizes import BLOCK_PRICES, FAMILIES

SAMPLED = GenerationSpec(
    max_new_tokens=8, steps=4, temperature=1.0, guidance_scale=2.0, tokens_per_pass=2
)


def no_items(task: str) -> list[Any]:
    raise AssertionError(f"{task} is not made from items")


def all_tasks(held_out: np.ndarray, tokenizer: TextTokenizer, **values: Any) -> list[Task]:
    settings = EvaluationSpec.parse(
        {
            "tasks": list(IN_DOMAIN_TASKS),
            "prompt_tokens": 12,
            "gap_tokens": 8,
            "generation": SAMPLED.model_dump(),
            "likelihood": {"mask_samples": 2, "ode_steps": 2},
        }
        | values
    )
    held = HeldOut(held_out, np.full(len(held_out), 100), tokenizer)
    return make_tasks(settings, held, no_items, seed=3, context=32)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_do_not_depend_on_the_batch(
    name: str,
    evaluated_models: dict[str, EvaluatedModel],
    held_out: np.ndarray,
    tokenizer: TextTokenizer,
) -> None:
    for task in all_tasks(held_out[:5], tokenizer):
        if task.name == "speed":
            continue
        together = dict(task.answer(evaluated_models[name], task.ids(), 5))
        alone = dict(task.answer(evaluated_models[name], task.ids()[::-1], 1))
        assert together.keys() == alone.keys() == set(task.ids())
        both = (together, alone)
        if task.name == "likelihood":
            nll = [[answers[i]["nll"] for i in task.ids()] for answers in both]
            np.testing.assert_allclose(nll[0], nll[1], rtol=1e-5)
        elif task.name == "cloze":
            nats = [[answers[i].pop("word_nats") for i in task.ids()] for answers in both]
            if name not in BLOCK_PRICES:
                np.testing.assert_allclose(nats[0], nats[1], rtol=1e-4)
            assert together == alone
        else:
            assert together == alone, task.name


@given(st.lists(st.sampled_from(["bird", "stone", "song", "a", "of", "x1", "."]), max_size=40))
def test_a_question_can_be_answered_from_its_prompt(words: list[str]) -> None:
    text = " ".join(words)
    for prompt, word, candidates in questions(text):
        assert text.startswith(f"{prompt} {word}")
        earlier = [match.group().lower() for match in WORD.finditer(prompt)]
        assert sorted(set(earlier)) == candidates
        assert word in candidates
        assert earlier[-1] != word
        assert len(prompt) >= len(text) // 2 - 1


def test_a_question_of_known_text() -> None:
    text = "The lamp stands by the window and nobody lights the lamp today."
    assert next(questions(text)) == (
        "The lamp stands by the window and nobody lights the",
        "lamp",
        ["lamp", "lights", "nobody", "stands", "window"],
    )
    assert list(questions("Nothing here comes twice, not even once more.")) == []


def test_cloze_items_come_from_one_document_each(
    held_out: np.ndarray, tokenizer: TextTokenizer
) -> None:
    items = cloze_items(held_out, tokenizer, 5)
    assert len(items) == 5
    assert len({item.answer.lower() for item in items}) == 5  # one in twenty, at least once
    for item in items:
        assert longest_document(held_out[int(item.id)].tolist(), tokenizer).startswith(item.prompt)
        assert item.answer.lower() in (item.choices or [])
    eos = tokenizer.eos_token_id
    row = [*tokenizer.encode("The"), eos, *tokenizer.encode("The lamp opens"), eos]
    assert longest_document(row, tokenizer) == "The lamp opens"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_word_s_nats_are_those_of_the_text_less_the_prompt_s(
    name: str,
    evaluated_models: dict[str, EvaluatedModel],
    held_out: np.ndarray,
    tokenizer: TextTokenizer,
) -> None:
    (task,) = all_tasks(held_out, tokenizer, tasks=["cloze"], task_items=3)
    records = dict(task.answer(evaluated_models[name], task.ids(), 2))
    found = task.summary(records)
    if name in BLOCK_PRICES:  # of 8, which no word fills
        assert "word_nats" not in found.metrics
        assert "word_kind" not in found.details
        assert re.match(
            r"the likelihood prices whole blocks: 24 tokens' places for the \d+ tokens of 3 words",
            found.details["word_nats_absent"],
        )
        return
    nats = [record["word_nats"] for record in records.values()]
    assert found.metrics["word_nats"] == pytest.approx(np.mean(nats))
    kinds = {"ar": "exact", "llada": "bound", "bd3lm": "bound"}
    assert found.details["word_kind"] == kinds[name]
    if name != "ar":
        return
    item = cloze_items(held_out[:, :-8], tokenizer, 3)[0]
    prompt, word = tokenizer.encode(item.prompt), tokenizer.encode(f" {item.answer}")
    with torch.no_grad():
        nll = token_nll(evaluated_models[name].model, torch.tensor([prompt + word])).double()[0]
    assert records[item.id]["word_nats"] == pytest.approx(float(nll[len(prompt) :].sum()), rel=1e-4)


def test_no_right_item_is_no_certainty() -> None:
    assert share_error(0.0, 50) == pytest.approx((2 / 54 * 52 / 54 / 54) ** 0.5)
    assert share_error(1.0, 50) == pytest.approx(share_error(0.0, 50))
    assert share_error(0.5, 10_000) == pytest.approx(0.005, rel=1e-3)


class Oracle:
    """Continues the texts as they do, but for every `wrong`-th token."""

    name, fills_gaps = "oracle", False

    def __init__(self, held_out: np.ndarray, wrong: int) -> None:
        self._rows, self._wrong = held_out.tolist(), wrong

    def _after(self, prompt: list[int], count: int) -> list[int]:
        row = next(row for row in self._rows if row[: len(prompt)] == prompt)
        true = row[len(prompt) : len(prompt) + count]
        return [(t + 1) % 300 if (i + 1) % self._wrong == 0 else t for i, t in enumerate(true)]

    def generate(self, model: Any, prompts: Any, settings: Any, **_: Any) -> Any:
        return [self._after(prompt, settings.max_new_tokens) for prompt in prompts]

    def iter_generate(self, model: Any, prompts: Any, settings: Any, **_: Any) -> Any:
        yield from enumerate(self.generate(model, prompts, settings))


@pytest.mark.parametrize("kind", ["continuation", "infilling"])
def test_right_tokens_are_counted_by_position(
    kind: str,
    held_out: np.ndarray,
    tokenizer: TextTokenizer,
    evaluated_models: dict[str, EvaluatedModel],
) -> None:
    family: Any = Oracle(held_out, wrong=4)
    evaluated = EvaluatedModel(family, None, tokenizer, None, evaluated_models["ar"].device)
    task: Task = (
        ContinuationTask(held_out, 12, SAMPLED, seed=0)
        if kind == "continuation"
        else InfillingTask(held_out, 16, 8, settings=SAMPLED, seed=0)
    )
    found = task.summary(dict(task.answer(evaluated, task.ids(), 4)))
    assert found.metrics["accuracy"] == 0.75
    assert found.metrics["accuracy_standard_error"] == 0.0
    assert found.metrics["first_token_accuracy"] == 1.0
    assert found.details["accuracy_by_position"] == [1, 1, 1, 0] * 2
    assert 0 < found.metrics["chrf"] < 100
    if kind == "infilling":
        assert found.details["gap"] == [12, 20]
        assert found.details["right_context"] is False


def test_a_gap_that_does_not_fit_is_refused(held_out: np.ndarray) -> None:
    with pytest.raises(SpecError, match=r"gap_tokens=16: a gap from token 22 .*32 tokens"):
        InfillingTask(held_out, 30, 16, settings=SAMPLED, seed=0)
    with pytest.raises(SpecError, match="prompt_tokens=32"):
        ContinuationTask(held_out, 32, SAMPLED, seed=0)


def test_a_corpus_without_words_that_come_again_is_told(tokenizer: TextTokenizer) -> None:
    rows = np.full((3, 32), tokenizer.encode("x")[0])
    with pytest.raises(SpecError, match="none of the 3 held-out sequences"):
        all_tasks(rows, tokenizer, tasks=["cloze"])
    settings = EvaluationSpec(tasks=("cloze",))
    with pytest.raises(SpecError, match="needs held-out text"):
        make_tasks(settings, None, no_items, seed=0, context=32)


def test_variety_of_known_texts() -> None:
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 3 / 5  # 12 21 12, 12 23
    assert repetition(texts, 2) == pytest.approx((1 / 3 + 0) / 2)
    assert np.isnan(distinct(texts, 5))
    assert np.isnan(repetition(texts, 5))


def test_a_reference_judges_by_its_exact_likelihood(
    evaluated_models: dict[str, EvaluatedModel], texts: list[str]
) -> None:
    ar = evaluated_models["ar"]
    reference = Reference("itself", ar)
    some = [texts[0][:40], texts[1][:90], "The"]
    found = reference.judge(some)
    for place, text in enumerate(some):
        alone = reference.judge([text])
        assert found.nll_N[place] == pytest.approx(alone.nll_N[0], rel=1e-5)
        np.testing.assert_allclose(
            found.features_Nd[place], alone.features_Nd[0], rtol=1e-3, atol=1e-5
        )
        tokens = torch.tensor([ar.tokenizer.encode(text)])
        with torch.no_grad():
            expected = float(token_nll(ar.model, tokens).double().sum())
        assert found.nll_N[place] == pytest.approx(expected, rel=1e-5)
        assert found.tokens_N[place] == tokens.shape[1]
    with pytest.raises(SpecError, match="is of family llada"):
        Reference("other", evaluated_models["llada"])


def test_mauve_tells_own_text_from_noise(
    evaluated_models: dict[str, EvaluatedModel], tokenizer: TextTokenizer, held_out: np.ndarray
) -> None:
    rows = np.concatenate([held_out, held_out[::-1], held_out])
    reference = Reference("itself", evaluated_models["ar"])
    task = UnconditionalTask(rows, tokenizer, SAMPLED, seed=0, judges=Judges(lambda: reference))
    natural = {i: answer(tokenizer, row[:8].tolist()) for i, row in enumerate(rows)}
    noise = {i: answer(tokenizer, [7] * 8) for i in range(len(rows))}
    alike, different = task.summary(natural), task.summary(noise)
    assert alike.metrics["mauve"] > 0.9 > 0.2 > different.metrics["mauve"]
    assert alike.metrics["distinct_2"] == alike.details["held_out"]["distinct_2"]
    assert different.metrics["distinct_1"] == 1 / (8 * len(rows))
    assert different.metrics["repetition_1"] == 7 / 8
    natural_nats = alike.details["held_out"]["reference_nats_per_token"]
    assert alike.metrics["reference_nats_per_token"] == pytest.approx(natural_nats)
    assert different.metrics["reference_nats_per_token"] != pytest.approx(natural_nats)


def answer(tokenizer: TextTokenizer, tokens: list[int]) -> dict[str, Any]:
    return {"tokens": tokens, "generation": tokenizer.decode(tokens)}


def test_texts_that_are_empty_are_counted(
    evaluated_models: dict[str, EvaluatedModel], tokenizer: TextTokenizer, held_out: np.ndarray
) -> None:
    reference = Reference("itself", evaluated_models["ar"])
    task = UnconditionalTask(held_out, tokenizer, SAMPLED, seed=0, judges=Judges(lambda: reference))
    nothing = {i: answer(tokenizer, [tokenizer.eos_token_id] * 8) for i in range(20)}
    found = task.summary(nothing)
    assert (found.details["texts_judged"], found.details["texts_empty"]) == (0, 20)
    assert "reference_nats_per_token" not in found.metrics


def test_evaluations_of_the_network_are_counted_as_they_happen(
    evaluated_models: dict[str, EvaluatedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the settings say it costs is how often the network is asked."""
    from cola.models.onednn import for_generation
    from cola.seeding import Stream

    counted = SimpleNamespace(calls=0)

    def count(*_: Any) -> None:
        counted.calls += 1

    settings = GenerationSpec(
        max_new_tokens=12,
        steps=6,
        guidance_scale=1.0,
        solver="heun",
        unmasking_block=5,
        tokens_per_pass=2,
    )
    prompt = list(range(11))
    for name in ("ar", "llada"):
        evaluated = evaluated_models[name]
        hook = evaluated.model.model.layers[0].mlp.register_forward_hook(count)
        counted.calls = 0
        evaluated.family.generate(
            evaluated.model, [prompt], settings, stream=Stream(0, 0, [0]), eos_token_id=None
        )
        hook.remove()
        expected = evaluated.family.generation_evaluations(evaluated.model, settings, len(prompt))
        assert counted.calls == expected, name
    evaluated = evaluated_models["cola"]
    dit: Any = type(for_generation(evaluated.model.dit))
    real = dit.denoise

    def counting(self: Any, *arguments: Any, **named: Any) -> Any:
        counted.calls += 1
        return real(self, *arguments, **named)

    monkeypatch.setattr(dit, "denoise", counting)
    counted.calls = 0
    evaluated.family.generate(
        evaluated.model, [prompt], settings, stream=Stream(0, 0, [0]), eos_token_id=None
    )
    expected = evaluated.family.generation_evaluations(evaluated.model, settings, len(prompt))
    assert counted.calls == expected == 2 * 6 * 2  # blocks of 8 behind 3 left over, Heun
