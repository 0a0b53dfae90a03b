"""Documents as tokens one after the other, and the sequences that are cut from them, in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cola.batches import batches
from cola.data.held_out import owners_of
from cola.data.sources import Piece
from cola.data.tokenizer import Encoder, TextTokenizer
from cola.errors import SpecError

ENCODED_AT_ONCE = 64  # chosen: pieces of 16,384 characters, which the tokenizer's threads share


def owners_in(starts_D: np.ndarray, tokens: int, rows: int, *, length: int) -> np.ndarray:
    """The document that most of each sequence is of: (rows,)."""
    stops_D = np.append(starts_D[1:], tokens)
    return owners_of(starts_D, stops_D, np.arange(len(starts_D)), rows=rows, length=length)


def encoded(
    pieces: Iterator[Piece], tokenizer: TextTokenizer, *, key: str, most: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids (T,) of documents with ends of text, the UTF-8 bytes of each (0: an end), and where
    each document starts (D,).

    Of all documents, or up to the piece that brings them to `most` tokens.

    Raises:
        SpecError: beginning with `key`: there is no text, or the tokenizer does not fit it.
    """
    encoder = Encoder(tokenizer)
    end = (np.array([tokenizer.eos_token_id]), np.zeros(1, dtype=np.int64))
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    starts, tokens = [], 0
    for batch in batches(pieces, ENCODED_AT_ONCE):
        found = encoder.encode([piece.text for piece in batch])
        for piece, part in zip(batch, found, strict=True):
            if most is not None and tokens >= most:
                break
            if piece.first and parts:
                parts.append(end)
                tokens += 1
            if piece.first:
                starts.append(tokens)
            parts.append(part)
            tokens += len(part[0])
        if most is not None and tokens >= most:
            break
    if not parts:
        raise SpecError(f"{key}: holds no text; give a file with some")
    try:
        encoder.check_fit()
    except SpecError as error:
        raise SpecError(f"{key}: {error}") from None
    ids, lengths = zip(*parts, end, strict=True)
    ids_T, lengths_T = np.concatenate(ids), np.concatenate(lengths)
    return ids_T.astype(np.int64), lengths_T.astype(np.int64), np.array(starts)
