"""A small LAMBADA from any text: say the next word, which occurred earlier in the text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cola.data import TextTokenizer
from cola.evaluation.items import Item

WORD = re.compile(r"[^\W\d_]{4,}")  # shorter ones are mostly function words
LEAST_CANDIDATES = 2


def cloze_items(rows_NL: Iterable[np.ndarray], tokenizer: TextTokenizer, limit: int) -> list[Item]:
    """At most one item a sequence, of the first `limit` sequences that give one.

    The id is the sequence's place. `choices` are the words of the prompt that could be meant, so
    the chance level is that of naming one of them at random.
    """
    items: list[Item] = []
    for place, row_L in enumerate(rows_NL):
        text = longest_document(row_L.tolist(), tokenizer)
        found = next(questions(text), None)
        if found is not None:
            prompt, word, candidates = found
            items.append(Item(id=place, prompt=prompt, answer=word, choices=candidates))
        if len(items) == limit:
            break
    return items


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

    The word stands behind a single space, occurred earlier in the text, and was not the word just
    before it. A word that the text breaks off in is none.
    """
    words = [match for match in WORD.finditer(text) if match.end() < len(text)]
    for place in range(len(words) - 1, 0, -1):
        match = words[place]
        if match.start() < len(text) // 2:
            return
        word = match.group().lower()
        earlier = [other.group().lower() for other in words[:place]]
        behind_space = re.search(r"\S \Z", text[: match.start()])
        if not behind_space or word not in earlier or word == earlier[-1]:
            continue
        candidates = sorted(set(earlier))
        if len(candidates) >= LEAST_CANDIDATES:
            yield text[: match.start() - 1], match.group(), candidates
