"""Fixed-length token sequences in memory-mapped shards.

A split is a row of files `<split>-00000.tokens`, each a raw (n, L) little-endian matrix of uint16
(uint32 for more than 65,536 entries), with the UTF-8 bytes of text of each sequence beside it in
`<split>-00000.bytes` (raw int32). Of held-out splits `<split>.documents` has the number of the
document that each sequence is of (raw int64). A sequence with an image has its bytes behind the
tokens, each as a number of the matrix.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

SHARD_TOKENS = 1 << 26
_FLUSH_TOKENS = 1 << 20


class PackedTokens:
    """Sequences of one split, read on demand; can be pickled and sent to another process."""

    def __init__(
        self,
        folder: Path,
        split: str,
        sequence_length: int,
        dtype: str,
        shards: list[int],
        *,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        """Open a split of `shards[i]` sequences in file i, each with an image of that shape.

        Raises:
            ValueError: when a file is missing or is not of the size that `shards` says.
        """
        self.folder, self.split, self.sequence_length = folder, split, sequence_length
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shards, self.image_shape = shards, image_shape
        self._ends = np.cumsum(shards, dtype=np.int64) if shards else np.zeros(0, np.int64)
        self._tokens: list[np.ndarray] = []
        self._images: list[np.ndarray] = []
        self._bytes: list[np.ndarray] = []
        for index, rows in enumerate(shards):
            shape = (rows, sequence_length + math.prod(image_shape or (0,)))
            whole = _map(token_file(folder, split, index), self.dtype, shape)
            self._tokens.append(whole[:, :sequence_length])
            self._images.append(whole[:, sequence_length:])
            self._bytes.append(_map(byte_file(folder, split, index), np.dtype("<i4"), (rows,)))
        self._documents: np.ndarray | None = None
        documents = document_file(folder, split)
        if documents.is_file() and len(self):
            self._documents = _map(documents, np.dtype("<i8"), (len(self),))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        """Sequence `index` as (L,) int64; negative indices count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        return self.rows(np.asarray([index % len(self)]))[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The sequences of those ids: (n, L) int64.

        Raises:
            IndexError: for an id outside [0, len).
        """
        shape = (len(ids), self.sequence_length)
        return self._gather(self._tokens, ids, np.empty(shape, dtype=np.int64))

    def images_of(self, ids: np.ndarray) -> np.ndarray | None:
        """The images of the sequences of those ids: (n, channels, height, width) uint8; None where
        there are none.

        Raises:
            IndexError: for an id outside [0, len).
        """
        if self.image_shape is None:
            return None
        flat = np.empty((len(ids), math.prod(self.image_shape)), dtype=np.uint8)
        return self._gather(self._images, ids, flat).reshape(len(ids), *self.image_shape)

    def bytes_of(self, ids: np.ndarray) -> np.ndarray:
        """UTF-8 bytes of the text of each sequence (EOS counts 0): (n,) int64.

        Raises:
            IndexError: for an id outside [0, len).
        """
        return self._gather(self._bytes, ids, np.empty(len(ids), dtype=np.int64))

    @property
    def knows_documents(self) -> bool:
        """Whether it is known which document each sequence is of."""
        return self._documents is not None

    def documents_of(self, ids: np.ndarray) -> np.ndarray:
        """The document that each sequence is of, as a number within the split: (n,) int64.

        Where that is not known, each sequence has a number of its own.

        Raises:
            IndexError: for an id outside [0, len).
        """
        ids = np.asarray(ids, dtype=np.int64)
        self._check_ids(ids)
        return ids if self._documents is None else np.array(self._documents[ids])

    def _check_ids(self, ids: np.ndarray) -> None:
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"sequences {ids.min()} to {ids.max()} of {len(self)}")

    def _gather(self, shards: list[np.ndarray], ids: np.ndarray, out: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids, dtype=np.int64)
        self._check_ids(ids)
        shard_of = np.searchsorted(self._ends, ids, side="right")
        for shard in np.unique(shard_of):
            chosen = shard_of == shard
            first = int(self._ends[shard]) - self.shards[shard]
            out[chosen] = shards[shard][ids[chosen] - first]
        return out

    def __reduce__(self) -> tuple[object, ...]:
        # A pickled memory map would carry the data itself.
        arguments = (self.folder, self.split, self.sequence_length, self.dtype.name, self.shards)
        return partial(type(self), image_shape=self.image_shape), arguments


class PackedWriter:
    """Writes a split: tokens go in, whole sequences come out; a last part of one is dropped."""

    def __init__(
        self,
        folder: Path,
        split: str,
        sequence_length: int,
        dtype: str,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        self.folder, self.split, self.sequence_length = folder, split, sequence_length
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shards: list[int] = []
        self.bytes = 0
        self.dropped_tokens = 0
        self._rows_per_shard = max(1, shard_tokens // sequence_length)
        self._tokens: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._pending = 0
        self._files: tuple[BinaryIO, BinaryIO] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_shard()

    @property
    def sequences(self) -> int:
        """Sequences written so far."""
        return sum(self.shards)

    def append(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Take the next tokens of the split: ids (T,) and bytes of text of each (T,)."""
        self._tokens.append(ids)
        self._lengths.append(lengths)
        self._pending += len(ids)
        if self._pending >= max(_FLUSH_TOKENS, self.sequence_length):
            self.flush()

    def flush(self) -> None:
        """Write all whole sequences that are waiting."""
        rows = self._pending // self.sequence_length
        if not rows:
            self.dropped_tokens = self._pending
            return
        used = rows * self.sequence_length
        ids, lengths = np.concatenate(self._tokens), np.concatenate(self._lengths)
        tokens_NL = ids[:used].reshape(rows, self.sequence_length)
        bytes_N = lengths[:used].reshape(rows, self.sequence_length).sum(axis=1)
        self._tokens, self._lengths = [ids[used:]], [lengths[used:]]
        self._pending -= used
        self.dropped_tokens = self._pending
        self.write_rows(tokens_NL, bytes_N)

    def write_rows(self, tokens_NL: np.ndarray, bytes_N: np.ndarray) -> None:
        """Write whole sequences, with the bytes of text of each."""
        self.bytes += int(bytes_N.sum())
        start, rows = 0, len(tokens_NL)
        while start < rows:
            files = self._files
            if files is None or self.shards[-1] == self._rows_per_shard:
                files = self._open_shard()
            stop = min(rows, start + self._rows_per_shard - self.shards[-1])
            files[0].write(tokens_NL[start:stop].astype(self.dtype).tobytes())
            files[1].write(bytes_N[start:stop].astype("<i4").tobytes())
            self.shards[-1] += stop - start
            start = stop

    def _open_shard(self) -> tuple[BinaryIO, BinaryIO]:
        self._close_shard()
        index = len(self.shards)
        files = (
            token_file(self.folder, self.split, index).open("wb"),
            byte_file(self.folder, self.split, index).open("wb"),
        )
        self._files = files
        self.shards.append(0)
        return files

    def _close_shard(self) -> None:
        if self._files is None:
            return
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())  # the folder is published by a rename: data goes first
            file.close()
        self._files = None


def token_file(folder: Path, split: str, index: int) -> Path:
    """File of the tokens of a shard."""
    return folder / f"{split}-{index:05d}.tokens"


def byte_file(folder: Path, split: str, index: int) -> Path:
    """File of the bytes of text of each sequence of a shard."""
    return folder / f"{split}-{index:05d}.bytes"


def document_file(folder: Path, split: str) -> Path:
    """File of the document that each sequence of a split is of."""
    return folder / f"{split}.documents"


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    expected = int(np.prod(shape)) * dtype.itemsize
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        raise ValueError(f"{path}: {expected} bytes expected, found {found}")
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
