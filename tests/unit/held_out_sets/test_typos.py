"""Seeded typing errors."""

from __future__ import annotations

import numpy as np
import pytest

from cola.data import PreparedData
from cola.held_out_sets.typos import mistyped, mistyped_rows
from cola.spec.data import PerturbedText

TEXT = "The river finds the lamp, and the captain repairs the engine of 1905. " * 6


def edits(first: str, second: str) -> int:
    """The fewest insertions, deletions, replacements and swaps of neighbours between two texts."""
    rows = [list(range(len(second) + 1))]
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows = [*rows[-1:], row]
    return rows[-1][-1]


def test_about_the_asked_share_of_letters_is_mistyped() -> None:
    letters = sum(map(str.isalnum, TEXT))
    found = edits(TEXT, mistyped(TEXT, 0.1, np.random.default_rng(0)))
    # A replacement may draw the same letter: one in about ten does, in a quarter of the errors.
    assert 0.06 * letters < found < 0.13 * letters


@pytest.mark.parametrize("seed", range(5))
def test_errors_touch_letters_alone_and_shorten_nothing(seed: int) -> None:
    made = mistyped(TEXT, 0.5, np.random.default_rng(seed))
    assert len(made) >= len(TEXT)
    others = [[c for c in text if not c.isalnum()] for text in (TEXT, made)]
    assert others[0] == others[1]
    assert set(made) <= set(TEXT)


def test_rows_depend_on_seed_and_number_alone(data: PreparedData) -> None:
    rows_NL = data.test.rows(np.arange(6))
    settings = PerturbedText(rate=0.1, seed=3)
    first, fewer = (
        {n: (ids.tolist(), size) for n, ids, size in mistyped_rows(rows, data.tokenizer, settings)}
        for rows in (rows_NL, rows_NL[:4])
    )
    assert len(first) > 3
    assert {n: row for n, row in first.items() if n < 4} == fewer
    other = PerturbedText(rate=0.1, seed=4)
    assert {n: ids.tolist() for n, ids, _ in mistyped_rows(rows_NL, data.tokenizer, other)} != {
        n: ids for n, (ids, _) in first.items()
    }


def test_rows_have_their_length_their_bytes_and_most_of_their_text(data: PreparedData) -> None:
    rows_NL = data.test.rows(np.arange(6))
    decode = data.tokenizer.decode
    for number, ids_L, size in mistyped_rows(rows_NL, data.tokenizer, PerturbedText(rate=0.05)):
        assert len(ids_L) == rows_NL.shape[1]
        assert size == len(decode(ids_L.tolist()).encode())
        given = decode(rows_NL[number].tolist()).strip("\ufffd")
        assert edits(given[:40], decode(ids_L.tolist())[:40]) < 16
