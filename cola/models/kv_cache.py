"""Keys and values of the committed latents, per layer and per sample.

B batch, H heads, S capacity, D head width, T new entries.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.masks import cached_prefix_mask


class KVCache:
    """Preallocated buffers whose samples may hold different numbers of entries.

    With fewer samples than rows, the samples occupy the first rows. Lengths are kept on the host
    (`lengths`) and on the device (`length_B`), so that nothing is read back from the device.
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
    ) -> None:
        shape = (layers, batch, heads, capacity, head_dim)
        self._k = torch.zeros(shape, device=device, dtype=dtype)
        self._v = torch.zeros(shape, device=device, dtype=dtype)
        self._set_lengths([0] * batch)

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.length_B = torch.tensor(lengths, dtype=torch.long, device=self._k.device)

    @property
    def filled(self) -> int:
        """Entries of the longest sample; the buffers hold nothing behind them."""
        return max(self.lengths, default=0)

    def unused(self, count: int) -> KVCache:
        """An empty cache over the next `count` unused rows of the same buffers; see `append`."""
        part, start = copy.copy(self), len(self.lengths)
        part._k = self._k[:, start : start + count]
        part._v = self._v[:, start : start + count]
        part._set_lengths([0] * count)
        return part

    def append(self, part: KVCache) -> None:
        """Adopt the samples that `part` wrote into this cache's unused rows."""
        self._set_lengths([*self.lengths, *part.lengths])

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

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Two views (B, H, filled, D)."""
        batch, filled = len(self.lengths), self.filled
        return self._k[layer, :batch, :, :filled], self._v[layer, :batch, :, :filled]

    def mask(self, count: int, block_size: int, *, noisy: bool) -> Tensor | None:
        """Visible set of `count` latents behind the cached ones (`cached_prefix_mask`).

        None where everything is visible: one noisy block behind prefixes of equal length.
        """
        if noisy and count <= block_size and min(self.lengths) == self.filled:
            return None
        return cached_prefix_mask(
            self.length_B, self.filled, count, block_size=block_size, noisy=noisy
        )

    def write(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> None:
        """Store T entries behind each sample's own; `advance` then makes them visible."""
        count = k_BHTD.shape[2]
        row = torch.arange(len(self.length_B), device=self.length_B.device)[:, None]
        position = self.length_B[:, None] + torch.arange(count, device=self.length_B.device)
        # Advanced indexing puts (B, T) first: the values are laid out to match.
        self._k[layer][row, :, position] = k_BHTD.transpose(1, 2).to(self._k.dtype)
        self._v[layer][row, :, position] = v_BHTD.transpose(1, 2).to(self._v.dtype)

    def behind(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """The cached entries followed by T others: two views (B, H, filled + T, D).

        The T entries lie in the unused part of the buffers, so that the cached ones need not be
        copied; the next `write` or `behind` overwrites them.
        """
        batch, filled = len(self.lengths), self.filled
        end = filled + k_BHTD.shape[2]
        self._k[layer, :batch, :, filled:end] = k_BHTD
        self._v[layer, :batch, :, filled:end] = v_BHTD
        return self._k[layer, :batch, :, :end], self._v[layer, :batch, :, :end]

    def advance(self, counts: Sequence[int]) -> None:
        """Add the first `counts[i]` entries that `write` stored for sample i to its own."""
        self._set_lengths(
            [length + count for length, count in zip(self.lengths, counts, strict=True)]
        )


def compact_order(kept: Sequence[int]) -> list[int]:
    """An order for `KVCache.keep` that keeps the rows `kept`: the last ones fill the gaps."""
    staying = set(kept)
    movers = [row for row in kept if row >= len(kept)]
    return [row if row in staying else movers.pop() for row in range(len(kept))]
