"""The cloze asks what the text itself answers."""

from __future__ import annotations

import _pydecimal
import inspect

import numpy as np
import pytest

from cola.data import TextTokenizer
from cola.evaluation.few_shot.answers import leading_word
from cola.evaluation.few_shot.scoring import score_items
from cola.evaluation.tasks.cloze import WORD_TOKENS, cloze_items, longest_document


def code_rows(tokenizer: TextTokenizer) -> np.ndarray:
    """Sequences of 512 tokens of a Python module: words between dots, underscores and digits."""
    flat = tokenizer.encode(inspect.getsource(_pydecimal))
    return np.array(flat[: len(flat) // 512 * 512], dtype=np.int64).reshape(-1, 512)


def test_the_text_itself_answers_every_cloze(tokenizer: TextTokenizer) -> None:
    items = cloze_items(code_rows(tokenizer)[:, :-8], tokenizer, 100)
    assert len(items) > 20
    texts = {
        i: longest_document(row.tolist(), tokenizer) for i, row in enumerate(code_rows(tokenizer))
    }
    behind = {item.id: texts[int(item.id)][len(item.prompt) :] for item in items}
    assert any(
        not text.removeprefix(f" {item.answer}")[:1].isspace()
        for item in items
        for text in [behind[item.id]]
    )
    said = {i: tokenizer.decode(tokenizer.encode(text)[:WORD_TOKENS]) for i, text in behind.items()}
    found = score_items("cloze", "leading_word", items, generations=said)
    assert found.accuracy == 100.0
    # Another word, or the word within a longer one, is no answer.
    longer = {i: f"{text.split()[0][:4]}x" for i, text in behind.items()}
    assert score_items("cloze", "leading_word", items, generations=longer).accuracy == 0.0


@pytest.mark.parametrize(
    ("generation", "word"),
    [(" self._exp, other", "self"), ("\n  Self.x", "self"), (" _self", ""), (" 4self", ""),
     (" self2", "self"), ("", ""), (" größe=", "größe")],
)  # fmt: skip
def test_the_letters_that_a_text_begins_with(generation: str, word: str) -> None:
    assert leading_word(generation) == word
