"""How much generated texts repeat themselves and each other, from their token ids."""

from __future__ import annotations

from collections.abc import Sequence

Tokens = Sequence[int]


def distinct(texts: Sequence[Tokens], n: int) -> float:
    """Share of different n-grams among all n-grams of all texts (distinct-n of 1510.03055).

    NaN where no text has n tokens.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition(texts: Sequence[Tokens], n: int) -> float:
    """Mean over texts of the share of n-grams that occurred earlier in the same text (rep-n).

    NaN where no text has n tokens.
    """
    shares = [1 - len(set(grams)) / len(grams) for text in texts if (grams := ngrams(text, n))]
    return sum(shares) / len(shares) if shares else float("nan")


def ngrams(text: Tokens, n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens, in order."""
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]
