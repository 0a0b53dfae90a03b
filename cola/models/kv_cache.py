"""Keys and values of what has been read, per layer and per row: allocated once, written in place.

B rows of a pass, H heads, S columns that a pass sees, D head width, T new entries of a pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from cola.models.masks import cached_prefix_mask


class KVCache:
    """Preallocated buffers whose rows hold different numbers of entries, each from column 0.

    With fewer rows in work than allocated, those in work are the first. Lengths are kept on the
    host (`lengths`) and on the device (`length_B`), so that nothing is read back from the device.

    Without `step`, a pass has the rows in work and sees the columns that they fill: the least work.
    With it, shapes are fixed: rows are rounded up to a power of two and columns to a multiple of
    `step` (itself one of every T), and no number that a pass is given depends on the lengths. So
    one CUDA graph serves many passes. What the further rows hold is never read by the others.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        *,
        capacity: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        step: int | None = None,
    ) -> None:
        if step is not None:
            capacity = rounded_up(capacity, step)
        shape = (layers, batch, heads, capacity, head_dim)
        self._k = torch.zeros(shape, device=device, dtype=dtype)
        self._v = torch.zeros(shape, device=device, dtype=dtype)
        self._length = torch.zeros(batch, device=device, dtype=torch.long)
        self.step = step
        self._set_lengths([0] * batch)

    def _set_lengths(self, lengths: list[int]) -> None:
        allocated = len(self._length)
        self._length.copy_(torch.tensor([*lengths, *[0] * (allocated - len(lengths))]))
        self._count(lengths)

    def _count(self, lengths: list[int]) -> None:
        """What the host knows of the lengths."""
        self.lengths = lengths
        self.filled = max(lengths, default=0)  # entries of the longest row
        level = min(lengths, default=0) == self.filled  # all rows are as long
        self.level = level and self.step is None
        self.rows = len(lengths)  # of a pass
        self.columns = self.filled  # that a pass sees beside its own, in the least-work form
        if self.step is not None:
            self.rows = min(len(self._length), power_of_two(len(lengths)))
            self.columns = min(self._k.shape[3], rounded_up(self.filled + 1, self.step))
        self.length_B = self._length[: self.rows]  # entries of every row of a pass

    def unused(self, count: int) -> KVCache:
        """An empty cache over the next `count` unused rows of the same buffers; see `append`."""
        part, start = copy.copy(self), len(self.lengths)
        part._k = self._k[:, start : start + count]
        part._v = self._v[:, start : start + count]
        part._length = torch.zeros_like(self._length[:count])
        part.step = None
        part._count([0] * count)
        return part

    def append(self, part: KVCache) -> None:
        """Adopt the rows that `part` wrote into this cache's unused ones."""
        self._set_lengths([*self.lengths, *part.lengths])

    def append_copies(self, part: KVCache, times: int) -> None:
        """Adopt every row of another cache of such entries so many times, side by side."""
        start, length = len(self.lengths), part.filled
        rows = slice(start, start + times * len(part.lengths))
        for own, other in ((self._k, part._k), (self._v, part._v)):
            own[:, rows, :, :length] = other[:, :, :, :length].repeat_interleave(times, 1)
        self._set_lengths([*self.lengths, *(n for n in part.lengths for _ in range(times))])

    def keep(self, order: Sequence[int]) -> None:
        """Keep these rows, in this order.

        A row that moves must come from behind all kept positions, as in `compact_order`.
        """
        for target, row in enumerate(order):
            if target != row:
                length = self.lengths[row]
                self._k[:, target, :, :length] = self._k[:, row, :, :length]
                self._v[:, target, :, :length] = self._v[:, row, :, :length]
        self._set_lengths([self.lengths[row] for row in order])

    def positions(self, count: int) -> Tensor:
        """Positions of `count` new entries: (T,) where all rows are as long, else (B, T)."""
        new_T = torch.arange(count, device=self._length.device)
        return self.filled + new_T if self.level else self.length_B[:, None] + new_T

    def view(self, count: int, block_size: int) -> CacheView:
        """What a pass of `count` new entries writes and sees, in blocks of `block_size`.

        Cached lengths must be multiples of the block size.
        """
        columns = self.columns if self.step is not None else self.filled + count
        k, v = self._k[:, : self.rows], self._v[:, : self.rows]
        if self.level and count <= block_size:
            mask = None  # every entry is visible
        else:
            mask = cached_prefix_mask(self.length_B, columns, count, block_size=block_size)
        if self.level:
            return CacheView(k, v, columns, mask=mask, first=self.filled, entry=None)
        heads, capacity = k.shape[2], k.shape[3]
        row_BH = torch.arange(self.rows * heads, device=k.device).view(-1, heads)
        entry = row_BH[..., None] * capacity + self.positions(count)[:, None]
        return CacheView(k, v, columns, mask=mask, first=0, entry=entry.flatten())

    def advance(self, counts: Sequence[int]) -> None:
        """Add the first `counts[i]` entries that a pass wrote for row i to its own."""
        lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        if len(set(counts)) == 1:  # nothing need be copied to the device
            self._length[: len(lengths)] += counts[0]
            self._count(lengths)
        else:
            self._set_lengths(lengths)


@dataclass(frozen=True)
class CacheView:
    """One pass's part of a cache: where its entries go, and what it sees.

    keys, values: (layers, B, H, capacity, D). The entries of every row begin at column `first`;
    where the rows differ, `entry` are the entries' places among (B, H, capacity), flattened.
    `mask` (B, 1, T or 1, S) is True where a column is visible; None: everywhere.
    """

    keys: Tensor
    values: Tensor
    columns: int
    _: KW_ONLY
    mask: Tensor | None
    first: int
    entry: Tensor | None

    def update(self, k_BHTD: Tensor, v_BHTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write a layer's new entries; all that the pass sees, two views (B, H, S, D).

        The next pass overwrites the entries unless `KVCache.advance` keeps them. The name and the
        arguments are those of the caches of `transformers`.
        """
        return self._write(self.keys[layer], k_BHTD), self._write(self.values[layer], v_BHTD)

    def _write(self, cached_BHSD: Tensor, new_BHTD: Tensor) -> Tensor:
        if self.entry is None:
            cached_BHSD[:, :, self.first : self.first + new_BHTD.shape[2]] = new_BHTD
        else:
            width = new_BHTD.shape[3]
            rows = new_BHTD.to(cached_BHSD.dtype).reshape(-1, width)
            cached_BHSD.view(-1, width).index_copy_(0, self.entry, rows)
        return cached_BHSD[:, :, : self.columns]


def rounded_up(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


def power_of_two(count: int) -> int:
    """The next power of two, at least 1."""
    return 1 << max(count - 1, 0).bit_length()


def compact_order(kept: Sequence[int]) -> list[int]:
    """An order for `KVCache.keep` that keeps the rows `kept`: the last ones fill the gaps."""
    staying = set(kept)
    movers = [row for row in kept if row >= len(kept)]
    return [row if row in staying else movers.pop() for row in range(len(kept))]
