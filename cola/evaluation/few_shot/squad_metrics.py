"""Exact match and token F1 of a short answer, as SQuAD's version 1.1 script computes them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_words(text: str) -> list[str]:
    """Words in lower case, without ASCII punctuation and English articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def squad_exact_match(given: str, answers: Sequence[str]) -> bool:
    """Whether the text has the words of one of the answers, in order."""
    return any(squad_words(given) == squad_words(answer) for answer in answers)


def squad_f1(given: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall in words, 0 to 1, for the nearest of the answers."""
    return max(_word_f1(squad_words(given), squad_words(answer)) for answer in answers)


def _word_f1(given: list[str], answer: list[str]) -> float:
    shared = sum((Counter(given) & Counter(answer)).values())
    return 2 * shared / (len(given) + len(answer)) if shared else 0.0
