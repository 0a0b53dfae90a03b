"""Keys and values of what is already committed, per layer and per sample.

B batch, H heads, S capacity, D head width, T new entries.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Preallocated buffers; samples may hold different numbers of entries.

    There may be fewer samples than rows of the buffers: the first rows are theirs. The numbers are
    kept on the host (`lengths`) and on the device (`length_B`), so that nothing has to be read back
    from the device.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (layers, batch, heads, capacity, head_dim)
        self._k = torch.zeros(shape, device=device, dtype=dtype)
        self._v = torch.zeros(shape, device=device, dtype=dtype)
        self._keep([0] * batch)

    def _keep(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.length_B = torch.tensor(lengths, dtype=torch.long, device=self._k.device)

    @property
    def filled(self) -> int:
        """Entries of the longest sample: how much of the buffers is worth reading."""
        return max(self.lengths, default=0)

    def unused(self, count: int) -> KVCache:
        """The next `count` rows of the buffers as an empty cache of their own; see `append`."""
        part, start = copy.copy(self), len(self.lengths)
        part._k = self._k[:, start : start + count]
        part._v = self._v[:, start : start + count]
        part._keep([0] * count)
        return part

    def append(self, part: KVCache) -> None:
        """Count the samples of `part`, which stand in the unused rows, among the own ones."""
        self._keep([*self.lengths, *part.lengths])

    def keep(self, order: Sequence[int]) -> None:
        """Keep these rows, in this order; one that moves must come from behind all kept places."""
        for place, row in enumerate(order):
            if place != row:
                length = self.lengths[row]
                self._k[:, place, :, :length] = self._k[:, row, :, :length]
                self._v[:, place, :, :length] = self._v[:, row, :, :length]
        self._keep([self.lengths[row] for row in order])

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """(B, H, filled, D) views."""
        batch, filled = len(self.lengths), self.filled
        return self._k[layer, :batch, :, :filled], self._v[layer, :batch, :, :filled]

    def mask(self, count: int, own_TT: Tensor | None = None) -> Tensor | None:
        """Who sees whom among `count` entries behind the cache: (B, 1, T or 1, filled + T).

        `own_TT` says which of them see each other (None: all). None where everything is visible.
        """
        if own_TT is None and min(self.lengths) == self.filled:
            return None
        device = self.length_B.device
        own = torch.ones(1, count, dtype=torch.bool, device=device) if own_TT is None else own_TT
        visible = torch.arange(self.filled, device=device) < self.length_B[:, None]
        rows = (len(self.lengths), 1, len(own))
        parts = [visible[:, None, None].expand(*rows, -1), own.expand(*rows, -1)]
        return torch.cat(parts, dim=-1)

    def write(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> None:
        """Store T entries behind each sample's own; `advance` then makes them visible."""
        count = k_BHTD.shape[2]
        row = torch.arange(len(self.length_B), device=self.length_B.device)[:, None]
        place = self.length_B[:, None] + torch.arange(count, device=self.length_B.device)
        # Advanced indexing puts (B, T) first: the values are laid out to match.
        self._k[layer][row, :, place] = k_BHTD.transpose(1, 2).to(self._k.dtype)
        self._v[layer][row, :, place] = v_BHTD.transpose(1, 2).to(self._v.dtype)

    def behind(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """What is cached followed by T other entries: (B, H, filled + T, D) views.

        The T entries stand where the buffers are still unused, so that nothing is copied but they;
        they are not kept.
        """
        batch, filled = len(self.lengths), self.filled
        end = filled + k_BHTD.shape[2]
        self._k[layer, :batch, :, filled:end] = k_BHTD
        self._v[layer, :batch, :, filled:end] = v_BHTD
        return self._k[layer, :batch, :, :end], self._v[layer, :batch, :, :end]

    def advance(self, counts: Sequence[int]) -> None:
        """Count the first of each sample's stored entries, as many as said, as its own."""
        self._keep([length + count for length, count in zip(self.lengths, counts, strict=True)])


def closed_ranks(going: Sequence[int]) -> list[int]:
    """An order for `KVCache.keep` that keeps the rows `going`: the last ones fill the holes."""
    staying = set(going)
    movers = [row for row in going if row >= len(going)]
    return [place if place in staying else movers.pop() for place in range(len(going))]
