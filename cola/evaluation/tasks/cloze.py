"""A small LAMBADA from any text: say the next word, which occurred earlier in the text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from cola.data import TextTokenizer
from cola.evaluation.few_shot.answers import cut, leading_word
from cola.evaluation.items import Id, Item
from cola.evaluation.models.context import fitted_prompt
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import Record, TaskResult, digest_of, sample_id
from cola.evaluation.tasks.text_task import TextTask
from cola.families.registry import has_likelihood
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec

WORD = re.compile(r"[^\W\d_]{4,}")  # shorter ones are mostly function words
NO_PRICE = "the model has no likelihood"
LEAST_CANDIDATES = 2
WORD_TOKENS = 8  # of a continuation: a word has fewer, in any tokenizer of a few thousand entries
SHARE_OF_WORD = 20  # chosen: at most one item in this many asks for the same word


class ClozeTask(TextTask):
    """Exact match of the word, and its likelihood given the prompt, which improves earlier."""

    def __init__(
        self,
        items: Sequence[Item],
        generation: GenerationSpec,
        likelihood: LikelihoodSpec,
        *,
        seed: int,
        skipped: int = 0,
    ) -> None:
        super().__init__(
            "cloze", "leading_word", items, settings=generation, seed=seed, skipped=skipped
        )
        self._likelihood = likelihood
        self.digest = digest_of(self.digest, "leading_word", likelihood.canonical_json())

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        for start in range(0, len(ids), rows):
            chosen = ids[start : start + rows]
            answers = dict(super().answer(evaluated, chosen, rows))
            for item, nats in zip(chosen, self._word_nats(evaluated, chosen), strict=True):
                yield item, answers[item] | nats

    @torch.no_grad()
    def _word_nats(self, evaluated: EvaluatedModel, ids: Sequence[Id]) -> list[Record]:
        """The price of each word; none where the family would price what fills up its block."""
        family, model = evaluated.family, evaluated.model
        if not has_likelihood(family.name, family.sizes_of(model), self._likelihood):
            return [{"word_nats": None, "absent": NO_PRICE} for _ in ids]
        encode = evaluated.tokenizer.encode
        words = [encode(f" {self._items[item].answer}") for item in ids]
        priced = [evaluated.family.priced_tokens(evaluated.model, len(word)) for word in words]
        if any(count != len(word) for count, word in zip(priced, words, strict=True)):
            return [
                {"word_nats": None, "word_tokens": len(word), "word_tokens_priced": count}
                for count, word in zip(priced, words, strict=True)
            ]
        prompts = [encode(self._items[item].prompt)[self._skipped :] for item in ids]
        if evaluated.context is not None:
            rooms = [max(0, evaluated.context - len(word)) for word in words]
            prompts = [fitted_prompt(p, room)[0] for p, room in zip(prompts, rooms, strict=True)]
        stream = Stream(self._seed, 0, [sample_id(item) for item in ids], device=evaluated.device)
        likelihood = evaluated.family.conditional_nll(
            evaluated.model,
            prompts,
            words,
            settings=self._likelihood,
            stream=stream,
            eos_token_id=evaluated.tokenizer.eos_token_id,
        )
        return [
            {"word_nats": nats, "word_kind": likelihood.kind} for nats in likelihood.nll_B.tolist()
        ]

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`; `word_nats` is the mean of -log p(word | prompt), of `word_kind`.

        It is absent where the family prices more than a word's tokens: `word_nats_absent` says why.
        """
        result = super().summary(records)
        nats = [record["word_nats"] for record in records.values()]
        if None in nats:
            if any(record.get("absent") for record in records.values()):
                result.details["word_nats_absent"] = NO_PRICE
                return result
            padded = [r for r in records.values() if r["word_nats"] is None]
            words = sum(record["word_tokens"] for record in padded)
            priced = sum(record["word_tokens_priced"] for record in padded)
            result.details["word_nats_absent"] = (
                f"the likelihood prices whole blocks: {priced} tokens' places for the {words} "
                f"tokens of {len(padded)} words, and the price of padding is no word's"
            )
            return result
        kinds = sorted({record["word_kind"] for record in records.values()})
        result.metrics["word_nats"] = float(np.mean(nats))
        result.details["word_kind"] = kinds[0] if len(kinds) == 1 else kinds
        return result


def cloze_items(rows_NL: Iterable[np.ndarray], tokenizer: TextTokenizer, limit: int) -> list[Item]:
    """At most one item a sequence, of the first `limit` sequences that give one.

    The text itself answers each: its own next tokens are scored as right.
    No word is asked for by more than one item in twenty: saying the same word always, as a model
    that knows word frequencies alone does, is right that often at most. The id is the sequence's
    place. `choices` are the words of the prompt that could be meant, so
    the chance level is that of naming one of them at random.
    """
    items: list[Item] = []
    asked: Counter[str] = Counter()
    for index, row_L in enumerate(rows_NL):
        text = longest_document(row_L.tolist(), tokenizer)
        unasked = (
            q
            for q in questions(text)
            if asked[q[1].lower()] < max(1, limit // SHARE_OF_WORD)
            and is_answered(text, *q[:2], tokenizer=tokenizer)
        )
        question = next(unasked, None)
        if question is not None:
            prompt, word, candidates = question
            asked[word.lower()] += 1
            items.append(Item(id=index, prompt=prompt, answer=word, choices=candidates))
        if len(items) == limit:
            break
    return items


def is_answered(text: str, prompt: str, word: str, *, tokenizer: TextTokenizer) -> bool:
    """Whether the text's own continuation of a prompt says the word in as many tokens as a model
    has for it."""
    said = tokenizer.decode(tokenizer.encode(text[len(prompt) :])[:WORD_TOKENS])
    return leading_word(cut(said)) == word.lower()


def longest_document(ids: Sequence[int], tokenizer: TextTokenizer) -> str:
    """The text of the longest part between two ends of text."""
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == tokenizer.eos_token_id:
            parts.append([])
        else:
            parts[-1].append(token)
    # A sequence may begin and end within a character.
    return tokenizer.decode(max(parts, key=len)).strip("\ufffd")


def questions(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """(prompt, word, candidates) from the back of the text to its middle.

    The word follows a single space, occurred earlier in the text, and was not the word just
    before it. A word that the text breaks off in is none.
    """
    words = [match for match in WORD.finditer(text) if match.end() < len(text)]
    for index in range(len(words) - 1, 0, -1):
        match = words[index]
        if match.start() < len(text) // 2:
            return
        word = match.group().lower()
        earlier = [other.group().lower() for other in words[:index]]
        behind_space = re.search(r"\S \Z", text[: match.start()])
        if not behind_space or word not in earlier or word == earlier[-1]:
            continue
        candidates = sorted(set(earlier))
        if len(candidates) >= LEAST_CANDIDATES:
            yield text[: match.start() - 1], match.group(), candidates
