"""Text that an evaluation is given, as packed sequences: all of it, in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cola.batches import batches
from cola.data import TextTokenizer
from cola.data.held_out import owners_of
from cola.data.sources import Piece, ReadCounts, read_file_pieces
from cola.data.summary import left_out_of
from cola.data.tokenizer import Encoder
from cola.errors import SpecError
from cola.evaluation.tasks.catalog import HeldOut

log = logging.getLogger(__name__)

OPTION = "--held-out"
ENCODED_AT_ONCE = 64  # chosen: pieces of 16,384 characters, which the tokenizer's threads share


def held_out_text(
    files: Sequence[Path], tokenizer: TextTokenizer, length: int, *, every_sequence: bool
) -> HeldOut:
    """The files' documents, an end of text behind each, in sequences of `length` tokens.

    What does not fill a last sequence is kept as its beginning. `every_sequence`: the likelihood is
    measured of all, not of the first `task_items`.

    Raises:
        SpecError: a file cannot be read, holds no text, or does not fit the tokenizer.
    """
    counts = ReadCounts()
    paths = [path.expanduser() for path in files]
    ids_T, bytes_T, starts_D = encoded(read_file_pieces(paths, counts, key=OPTION), tokenizer)
    rows = len(ids_T) // length
    used = rows * length
    log.info("%s: %d tokens, %d of %d", OPTION, len(ids_T), rows, length)
    return HeldOut(
        ids_T[:used].reshape(rows, length),
        bytes_T[:used].reshape(rows, length).sum(axis=1),
        tokenizer,
        last_T=ids_T[used:],
        last_bytes=int(bytes_T[used:].sum()),
        every_sequence=every_sequence,
        left_out=tuple(left_out_of("the held-out text", counts)),
        documents_N=documents_of(starts_D, len(ids_T), rows, length=length),
    )


def documents_of(starts_D: np.ndarray, tokens: int, rows: int, *, length: int) -> np.ndarray | None:
    """The document that most of each sequence is of: (rows,); None where they all are of one."""
    stops_D = np.append(starts_D[1:], tokens)
    owners = owners_of(starts_D, stops_D, np.arange(len(starts_D)), rows=rows, length=length)
    return owners if len(np.unique(owners)) > 1 else None


def encoded(
    pieces: Iterator[Piece], tokenizer: TextTokenizer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids (T,) of all documents with ends of text, the UTF-8 bytes of each (0: an end), and
    where each document starts (D,).

    Raises:
        SpecError: there is no text, or the tokenizer does not fit it.
    """
    encoder = Encoder(tokenizer)
    end = (np.array([tokenizer.eos_token_id]), np.zeros(1, dtype=np.int64))
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    starts, tokens = [], 0
    for batch in batches(pieces, ENCODED_AT_ONCE):
        found = encoder.encode([piece.text for piece in batch])
        for piece, part in zip(batch, found, strict=True):
            if piece.first and parts:
                parts.append(end)
                tokens += 1
            if piece.first:
                starts.append(tokens)
            parts.append(part)
            tokens += len(part[0])
    if not parts:
        raise SpecError(f"{OPTION}: holds no text; give a file with some")
    encoder.check_fit()
    ids, lengths = zip(*parts, end, strict=True)
    ids_T, lengths_T = np.concatenate(ids), np.concatenate(lengths)
    return ids_T.astype(np.int64), lengths_T.astype(np.int64), np.array(starts)
