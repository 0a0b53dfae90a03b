"""What is known without a model: losses of guesses that count tokens, of a compressor, and of the
source where text was drawn from a known one.

A model's NLL means something beside them: above `uniform` it has learned nothing, above `unigram`
no more than how frequent each token is.
"""

from __future__ import annotations

import json
import logging
import lzma
import math
from dataclasses import asdict, dataclass

import numpy as np

from cola.data import PreparedData, Split
from cola.files import write_atomically
from cola.hidden_topics.truth import true_nll

log = logging.getLogger(__name__)

# Tokens of the training split that are counted, its first ones. Chosen: their pairs are sorted in
# memory, at some ten bytes a token.
MOST_TOKENS = 20_000_000


@dataclass(frozen=True)
class ReferenceLines:
    """Losses on the first sequences of a split, in nats per token; `xz` in bits per byte.

    uniform: every token equally likely. unigram: its frequency in the training split. bigram: its
    frequency after the token before it, interpolated with `unigram` (Witten and Bell, 1991, method
    C); the first token of a sequence is an unigram. xz: the sequences' text, one after the other,
    compressed by LZMA without any other text. truth: what the sequences cost who knows the source
    that they were drawn from; None where that is not known.
    """

    uniform: float
    unigram: float
    bigram: float
    xz_bits_per_byte: float
    counted_tokens: int
    truth: float | None = None


def reference_lines(
    data: PreparedData, sequences: int, split: Split = "validation"
) -> ReferenceLines:
    """The lines for the first `sequences` sequences of a split.

    They are kept beside the prepared data where its folder can be written.
    """
    of_test = "" if split == "validation" else f"{split}-"
    file = data.folder / f"reference-lines-{of_test}{sequences}.json"
    if file.is_file():
        try:
            return ReferenceLines(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            log.warning("%s: is damaged; it is made again", file)
    lines = counted_lines(data, sequences, split)
    try:
        write_atomically(file, json.dumps(asdict(lines), indent=1))
    except OSError as error:
        log.debug("%s: not kept (%s)", file, error)
    return lines


def counted_lines(
    data: PreparedData, sequences: int, split: Split = "validation"
) -> ReferenceLines:
    """The lines, counted anew."""
    train_NL = counted_rows(data)
    held_out = data.split(split)
    tokens_NL = held_out.rows(np.arange(min(sequences, len(held_out))))
    vocab = int(data.meta["vocab_size"])
    unigram_V = smoothed(np.bincount(train_NL.ravel(), minlength=vocab), vocab)
    bigram_NL = bigram_probabilities(train_NL, tokens_NL, unigram_V)
    text = "".join(data.tokenizer.decode(row.tolist()) for row in tokens_NL).encode()
    return ReferenceLines(
        uniform=math.log(vocab),
        unigram=float(-np.log(unigram_V[tokens_NL]).mean()),
        bigram=float(-np.log(bigram_NL).mean()),
        xz_bits_per_byte=8 * len(lzma.compress(text, preset=9)) / len(text),
        counted_tokens=int(train_NL.size),
        truth=None if data.source is None else float(true_nll(data.source, tokens_NL).mean()),
    )


def counted_rows(data: PreparedData) -> np.ndarray:
    """The sequences of the training split whose tokens are counted: (N, L)."""
    rows = min(len(data.train), max(1, MOST_TOKENS // data.train.sequence_length))
    return data.train.rows(np.arange(rows))


def token_frequencies(data: PreparedData) -> np.ndarray:
    """How frequent each token is in the training split, none of them 0: (V,)."""
    vocab = int(data.meta["vocab_size"])
    return smoothed(np.bincount(counted_rows(data).ravel(), minlength=vocab), vocab)


def smoothed(counts_V: np.ndarray, vocab: int) -> np.ndarray:
    """Frequencies interpolated with 1 / V, so that a token that was never seen has one: (V,)."""
    total, kinds = counts_V.sum(), np.count_nonzero(counts_V)
    return np.asarray((counts_V + kinds / vocab) / (total + kinds))


def bigram_probabilities(
    train_NL: np.ndarray, tokens_NL: np.ndarray, unigram_V: np.ndarray
) -> np.ndarray:
    """p(token | token before it): (N, L); the first column is the unigram's.

    With c(a) pairs that begin with a and T(a) different tokens after a,
    p(b | a) = (c(a, b) + T(a) p(b)) / (c(a) + T(a)).
    """
    vocab = len(unigram_V)
    codes = train_NL[:, :-1].ravel() * vocab + train_NL[:, 1:].ravel()
    pairs, counts = np.unique(codes, return_counts=True)
    first = pairs // vocab
    begun_V = np.bincount(first, weights=counts, minlength=vocab)
    kinds_V = np.bincount(first, minlength=vocab)
    before, after = tokens_NL[:, :-1], tokens_NL[:, 1:]
    wanted = before * vocab + after
    place = np.minimum(np.searchsorted(pairs, wanted), max(0, len(pairs) - 1))
    seen = np.where(pairs[place] == wanted, counts[place], 0) if len(pairs) else 0 * wanted
    total = begun_V[before] + kinds_V[before]
    following = np.where(
        total > 0,
        (seen + kinds_V[before] * unigram_V[after]) / np.maximum(total, 1),
        unigram_V[after],
    )
    return np.concatenate([unigram_V[tokens_NL[:, :1]], following], axis=1)
