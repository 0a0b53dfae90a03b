"""Which pieces of a corpus are held out: by a hash of their text, whatever else there is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cola.data.sources import ReadCounts, read_pieces
from cola.data.summary import check_has_text
from cola.errors import SpecError
from cola.spec import DataSpec


@dataclass(frozen=True)
class SplitPiece:
    """A piece of text, and on which side it is.

    `document`: its number in the corpus. `ends`: what follows on the same side of the border
    between training and held-out text is not the continuation, so EOS comes between.
    """

    text: str
    document: int
    held_out: bool
    ends: bool


def split_pieces(spec: DataSpec, threshold: int, counts: ReadCounts) -> Iterator[SplitPiece]:
    """All pieces of the corpus in their order; those whose text's hash is below it are held out."""
    previous: SplitPiece | None = None
    document = -1
    for piece in read_pieces(spec, counts):
        held_out = _text_hash(piece.text) < threshold
        document += piece.first
        if previous is not None:
            yield replace(previous, ends=piece.first or held_out != previous.held_out)
        previous = SplitPiece(piece.text, document, held_out, True)
    if previous is not None:
        yield previous


def split_threshold(spec: DataSpec) -> int:
    """Texts whose hash is below it are held out.

    It is `validation_fraction` of the hashes' range. When no text of a (small) corpus falls below,
    it is raised just above the smallest hash. Large corpora are read up to the first hit only.
    """
    threshold = int(spec.validation_fraction * 2**64)
    smallest, largest = 2**64, -1
    counts = ReadCounts()
    for piece in read_pieces(spec, counts):
        value = _text_hash(piece.text)
        smallest, largest = min(smallest, value), max(largest, value)
        if smallest < threshold <= largest:
            return threshold
    if largest < 0:
        check_has_text(spec, counts)
    if smallest == largest:
        raise SpecError(
            f"data.corpus.source={spec.corpus.source}: holds one text only, none is left for "
            "validation; give more text"
        )
    return max(threshold, smallest + 1) if largest >= threshold else largest


def _text_hash(text: str) -> int:
    """Uniform in [0, 2^64): equal texts are always on the same side."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
