"""Text that an evaluation is given, as packed sequences: all of it, in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cola.data import TextTokenizer
from cola.data.sources import Piece, ReadCounts, read_pieces
from cola.data.tokenizer import Encoder
from cola.errors import SpecError
from cola.evaluation.tasks.catalog import HeldOut
from cola.spec import DataSpec

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
    parts = encoded(pieces_of(files), tokenizer)
    if not parts:
        given = ", ".join(map(str, files))
        raise SpecError(f"{OPTION} {given}: holds no text; give a file with some")
    ids_T, bytes_T = (np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True))
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
    )


def pieces_of(files: Sequence[Path]) -> Iterator[Piece]:
    """The text of the files, as a corpus' is read.

    Raises:
        SpecError: naming the file, and that it came by --held-out.
    """
    paths = [str(path.expanduser()) for path in files]
    for path in files:
        if not path.expanduser().exists():
            raise SpecError(f"{OPTION} {path}: no such file or folder; give a text or .jsonl file")
    spec = DataSpec.parse({"corpus": {"source": "files", "paths": paths}}, origin=OPTION)
    try:
        yield from read_pieces(spec, ReadCounts())
    except SpecError as error:
        raise SpecError(str(error).replace("data.corpus.paths=", f"{OPTION} ")) from error


def encoded(
    pieces: Iterator[Piece], tokenizer: TextTokenizer
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids of all documents with ends of text, and the UTF-8 bytes of each (0: an end), in
    parts that follow each other; none where there is no text.

    Raises:
        SpecError: the tokenizer does not fit the text.
    """
    encoder = Encoder(tokenizer)
    end = (np.array([tokenizer.eos_token_id]), np.zeros(1, dtype=np.int64))
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in batches(pieces):
        found = encoder.encode([piece.text for piece in batch])
        for piece, part in zip(batch, found, strict=True):
            parts += [end, part] if piece.first and parts else [part]
    encoder.check_fit()
    return [*parts, end] if parts else []


def batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """The pieces in lists of at most `ENCODED_AT_ONCE`."""
    batch: list[Piece] = []
    for piece in pieces:
        batch.append(piece)
        if len(batch) == ENCODED_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
