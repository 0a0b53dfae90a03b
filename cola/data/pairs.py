"""Pairs of text and image as sequences: the text's tokens, filled up with ends of text, and behind
them the image's bytes. Whoever reads tokens alone reads the same texts in the same order."""

from __future__ import annotations

import math

import numpy as np

from cola.data.sides import SplitPiece
from cola.errors import SpecError
from cola.image_captions.drawing import pair_of
from cola.spec import DataSpec
from cola.spec.data import GeneratedPairs


def row_length(spec: DataSpec) -> int:
    """Numbers of a packed sequence: its tokens and, of pairs, its image's bytes."""
    return spec.sequence_length + math.prod(spec.image_shape or (0,))


def as_row(
    spec: DataSpec, piece: SplitPiece, ids: np.ndarray, lengths: np.ndarray, *, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """A pair's row and the bytes of text of each of its numbers, (`row_length`,) each.

    ids: the caption's tokens, and behind them an end of text.

    Raises:
        SpecError: the caption does not fit a sequence.
    """
    assert isinstance(spec.corpus, GeneratedPairs)
    if len(ids) > spec.sequence_length:
        raise SpecError(
            f"data.sequence_length={spec.sequence_length}: caption {piece.document} has {len(ids)} "
            "tokens with its end, and a pair is a sequence; give a longer sequence_length, or a "
            "tokenizer with more entries"
        )
    _, image = pair_of(spec.corpus, piece.document)
    filler = np.full(spec.sequence_length - len(ids), eos, dtype=ids.dtype)
    row = np.concatenate([ids, filler, image.ravel().astype(ids.dtype)])
    return row, np.pad(lengths, (0, len(row) - len(lengths)))
