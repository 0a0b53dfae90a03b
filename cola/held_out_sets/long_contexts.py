"""Sequences of the study's own test split that are longer than those of training."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from cola.data.fingerprint import source_fingerprint
from cola.data.held_out import HeldOutText
from cola.data.hub import pinned
from cola.data.packed import PackedTokens
from cola.data.prepare import PreparedData
from cola.data.sides import split_pieces, split_threshold
from cola.data.sources import ReadCounts
from cola.data.tokenizer import Encoder
from cola.errors import SpecError
from cola.held_out_sets.texts import TextRows, kept_rows
from cola.records import OWN_TEXT
from cola.spec import DataSpec

KEY = "evaluation.context_lengths"


def long_rows(spec: DataSpec, data: PreparedData, length: int, *, sequences: int) -> TextRows:
    """At most `sequences` sequences of `length` tokens, of as many documents of the split on which
    finished models are scored as possible.

    They are packed as in training, so that one may hold several documents. The corpus is read once
    more for each length, and they are kept beside it.

    Raises:
        SpecError: the split has no such sequence, or the corpus changed since it was prepared.
        StorageError: the folder of prepared data cannot be written.
    """
    return kept_rows(data, [KEY, length, sequences], lambda: _cut(spec, data, length, sequences))


def _cut(given: DataSpec, data: PreparedData, length: int, sequences: int) -> TextRows:
    if source_fingerprint(given) != data.meta["fingerprint"]:
        raise SpecError(f"{KEY}: the corpus changed since it was prepared; run the study again")
    spec, _ = pinned(given)
    encoder, eos = Encoder(data.tokenizer), data.tokenizer.eos_token_id
    prefix = ".long-contexts-"
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=data.folder.parent) as name,
        HeldOutText(Path(name)) as held_out,
    ):
        for piece in split_pieces(spec, split_threshold(spec), ReadCounts()):
            if piece.held_out:
                ids, lengths = encoder.encode([piece.text])[0]
                if piece.ends:
                    ids, lengths = np.append(ids, eos), np.append(lengths, 0)
                held_out.append(ids, lengths, piece.document, ends=piece.ends)
        writers, _ = held_out.deal_out(
            Path(name),
            length,
            data.meta["dtype"],
            eos_token_id=eos,
            divided_at=int(data.meta["sequence_length"]),
        )
        shards = writers[data.final].shards
        packed = PackedTokens(Path(name), data.final, length, data.meta["dtype"], shards)
        if not len(packed):
            raise SpecError(
                f"{KEY}: the {data.final} split has no sequence of {length} tokens; choose fewer, "
                "or a larger data.validation_fraction"
            )
        ids_N = np.arange(min(sequences, len(packed)))
        rows = packed.rows(ids_N), packed.bytes_of(ids_N), packed.documents_of(ids_N)
    return TextRows(*rows, documents_of=OWN_TEXT)
