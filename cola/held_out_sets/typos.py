"""Text with seeded typing errors, sequence by sequence: what a model makes of text by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cola.data.tokenizer import Encoder, TextTokenizer
from cola.spec.data import PerturbedText

REPLACE, SWAP, INSERT, DELETE = range(4)


def mistyped(text: str, rate: float, random: np.random.Generator) -> str:
    """The text with errors drawn at a share `rate` of its letters and digits.

    An error is one in its place, swapped with the next one, one put in before it, or left out. What
    is swapped with no letter has one in its place, and what is left out makes up for one that was
    put in before, so that no text gets shorter; else one is put in. A letter may be drawn in its
    own place. Others are drawn from the text's own letters
    and digits, as frequent as they are there: whatever its language, it stays in its alphabet.
    """
    alphabet = [character for character in text if character.isalnum()]
    chosen = random.random(len(text)) < rate
    kinds, picks = random.integers(4, size=len(text)), random.random(len(text))
    parts: list[str] = []
    spare, index = 0, 0
    while index < len(text):
        character, following = text[index], text[index + 1 : index + 2]
        if not (chosen[index] and character.isalnum()):
            parts.append(character)
        elif kinds[index] == SWAP and following.isalnum():
            parts += [following, character]
            index += 1
        elif kinds[index] == DELETE and spare:
            spare -= 1
        else:
            other = alphabet[int(picks[index] * len(alphabet))]
            put_in = kinds[index] in (INSERT, DELETE)
            parts += [other, character] if put_in else [other]
            spare += put_in
        index += 1
    return "".join(parts)


def mistyped_rows(
    rows_NL: np.ndarray, tokenizer: TextTokenizer, settings: PerturbedText
) -> Iterator[tuple[int, np.ndarray, int]]:
    """(row, its first L tokens with errors (L,), UTF-8 bytes of them) of rows of L tokens.

    The errors of a row depend on the seed, its number and its text alone. A row whose text takes
    fewer tokens than before is left out.
    """
    encoder = Encoder(tokenizer)
    length = rows_NL.shape[1]
    for number, row_L in enumerate(rows_NL):
        random = np.random.default_rng([settings.seed, number])
        ids, sizes = _with_errors(row_L, encoder, settings.rate, random=random)
        if len(ids) >= length:
            yield number, ids[:length], int(sizes[:length].sum())


def _with_errors(
    row_L: np.ndarray, encoder: Encoder, rate: float, *, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (T,) of a sequence's text with errors, and the bytes of each; ends of text stay."""
    eos = encoder.tokenizer.eos_token_id
    ends = np.flatnonzero(row_L == eos)
    ids, sizes = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for start, stop in zip([0, *(ends + 1)], [*ends, len(row_L)], strict=True):
        # A sequence may begin and end within a character.
        text = encoder.tokenizer.decode(row_L[start:stop].tolist()).strip("\ufffd")
        if text:
            found, lengths = encoder.encode([mistyped(text, rate, random)])[0]
            ids.append(found)
            sizes.append(lengths)
        if stop < len(row_L):
            ids.append(np.array([eos]))
            sizes.append(np.zeros(1, dtype=np.int64))
    return np.concatenate(ids), np.concatenate(sizes)
