"""Which sequence is trained on when: a pure function of (data seed, step).

Nothing is stored and nothing is drawn from a generator, so any step can be asked for at once, and
neither the number of workers nor an interruption changes the order.
"""

from __future__ import annotations

import hashlib
from math import isqrt
from typing import Any

import numpy as np

_ROUNDS = 8
_HASH_BLOCK = 256
_REPLAY = 1 << 20


def sequence_ids(seed: int, step: int, batch_sequences: int, *, num_sequences: int) -> np.ndarray:
    """Ids of the global batch of `step`: (batch_sequences,) int64 in [0, num_sequences).

    Position p = step * batch_sequences + i is in epoch p // num_sequences; each epoch goes through
    all sequences once, in another order. Batches run across the ends of epochs.

    Raises:
        ValueError: for a negative step or sizes below one.
    """
    if step < 0:
        raise ValueError(f"step={step} must be at least 0")
    for name, size in (("batch_sequences", batch_sequences), ("num_sequences", num_sequences)):
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    return _ids_between(
        seed, step * batch_sequences, (step + 1) * batch_sequences, num_sequences=num_sequences
    )


def worker_slice(ids: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """The part of a global batch (axis 0) that worker `rank` of `workers` processes.

    Parts are consecutive, and differ by at most one sequence; none is empty.

    Raises:
        ValueError: when there are fewer sequences than workers, or no such rank.
    """
    if len(ids) < workers or not 0 <= rank < workers:
        raise ValueError(f"{len(ids)} sequences cannot be divided for rank {rank} of {workers}")
    return _part(ids, rank, workers)


def micro_slices(ids: np.ndarray, count: int) -> list[np.ndarray]:
    """A worker's share (axis 0) as `count` micro-batches that differ by at most one sequence.

    With fewer sequences than `count` some are empty.
    """
    return [_part(ids, index, count) for index in range(count)]


def micro_batches(batch_sequences: int, workers: int, micro_batch_sequences: int | None) -> int:
    """Micro-batches that each worker makes of its share, for the largest share.

    All workers make equally many, of at most `micro_batch_sequences` (None: the share) sequences.
    """
    share = -(-batch_sequences // workers)
    return -(-share // (micro_batch_sequences or share))


def _part(ids: np.ndarray, index: int, parts: int) -> np.ndarray:
    return ids[index * len(ids) // parts : (index + 1) * len(ids) // parts]


def permute(positions: np.ndarray, num_sequences: int, seed: int, *, epoch: int) -> np.ndarray:
    """The seeded permutation of [0, num_sequences) of that epoch, at `positions` (n,) int64.

    A Feistel network of modular additions on pairs (left, right) with left < a, right < b and
    a b >= num_sequences (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002);
    results outside the range walk on until they are inside. Time and memory depend on the number
    of positions only.
    """
    rows = isqrt(num_sequences - 1) + 1  # so that rows * columns - num_sequences < rows
    columns = -(-num_sequences // rows)
    keys = _round_keys(seed, epoch)
    image = _feistel(positions.astype(np.uint64), rows, columns, keys=keys)
    outside = np.flatnonzero(image >= num_sequences)
    while len(outside):
        image[outside] = _feistel(image[outside], rows, columns, keys=keys)
        outside = outside[image[outside] >= num_sequences]
    return image.astype(np.int64)


class OrderFingerprint:
    """Digests of the exact ids consumed so far, kept at every power-of-two count of sequences.

    Two runs that consumed the same sequences in the same order agree on every count that both
    reached, however the ids were divided into batches. The state is plain JSON.
    """

    def __init__(self) -> None:
        self.count = 0
        self.digests: dict[int, str] = {}
        self._chain = b""
        self._pending = np.zeros(0, dtype=np.int64)

    @classmethod
    def at(
        cls, seed: int, step: int, batch_sequences: int, *, num_sequences: int
    ) -> OrderFingerprint:
        """The fingerprint after `step` whole steps of `sequence_ids` (about 10 M ids a second)."""
        fingerprint = cls()
        total = step * batch_sequences
        for start in range(0, total, _REPLAY):
            stop = min(total, start + _REPLAY)
            fingerprint.update(_ids_between(seed, start, stop, num_sequences=num_sequences))
        return fingerprint

    def update(self, ids: np.ndarray) -> None:
        """Add the ids of a global batch (all workers), in order: (n,)."""
        ids = np.concatenate([self._pending, np.asarray(ids, dtype=np.int64).reshape(-1)])
        base = self.count - len(self._pending)  # a multiple of _HASH_BLOCK
        wanted = 1 << self.count.bit_length()  # the next power of two after what is there
        self.count = base + len(ids)
        data = ids.astype("<i8").tobytes()
        start = 0
        while True:
            size = min(len(ids) - start, _HASH_BLOCK)
            while wanted <= base + start + size:
                stop = wanted - base
                self.digests[wanted] = self._digest(data[8 * start : 8 * stop]).hex()
                wanted *= 2
            if size < _HASH_BLOCK:
                break
            self._chain = self._digest(data[8 * start : 8 * (start + size)])
            start += size
        self._pending = ids[start:]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume, as plain JSON values."""
        return {
            "count": self.count,
            "chain": self._chain.hex(),
            "pending": self._pending.tolist(),
            "digests": {str(count): digest for count, digest in self.digests.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.count = int(state["count"])
        self._chain = bytes.fromhex(state["chain"])
        self._pending = np.asarray(state["pending"], dtype=np.int64)
        self.digests = {int(count): digest for count, digest in state["digests"].items()}

    def _digest(self, data: bytes) -> bytes:
        return hashlib.sha256(self._chain + data).digest()


def _ids_between(seed: int, start: int, stop: int, *, num_sequences: int) -> np.ndarray:
    """Ids at the positions [start, stop) of the endless order."""
    parts: list[np.ndarray] = []
    while start < stop:
        epoch, offset = divmod(start, num_sequences)
        taken = min(stop - start, num_sequences - offset)
        positions = np.arange(offset, offset + taken, dtype=np.int64)
        parts.append(permute(positions, num_sequences, seed, epoch=epoch))
        start += taken
    return np.concatenate(parts)


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return [np.uint64(key) for key in np.frombuffer(digest, dtype="<u8")]


def _feistel(index: np.ndarray, rows: int, columns: int, *, keys: list[np.uint64]) -> np.ndarray:
    """A permutation of [0, rows * columns), index (n,) uint64."""
    a, b = np.uint64(rows), np.uint64(columns)
    left: np.ndarray = index % a
    right: np.ndarray = index // a
    for key_left, key_right in zip(keys[::2], keys[1::2], strict=True):
        left = (left + _mix(right ^ key_left) % a) % a
        right = (right + _mix(left ^ key_right) % b) % b
    return left + a * right


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
