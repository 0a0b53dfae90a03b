"""Text corpora as packed token sequences, and the order in which they are trained on."""

from cola.data.fingerprint import source_fingerprint
from cola.data.order import (
    OrderFingerprint,
    micro_batches,
    micro_slices,
    sequence_ids,
    worker_slice,
)
from cola.data.packed import PackedTokens
from cola.data.prepare import PreparedData, Split, find_prepared, open_prepared, prepare
from cola.data.tokenizer import TextTokenizer, vocab_size_of

__all__ = [
    "OrderFingerprint",
    "PackedTokens",
    "PreparedData",
    "Split",
    "TextTokenizer",
    "find_prepared",
    "micro_batches",
    "micro_slices",
    "open_prepared",
    "prepare",
    "sequence_ids",
    "source_fingerprint",
    "vocab_size_of",
    "worker_slice",
]
