"""Keys and values of what is already committed, per layer and per sample.

B batch, H heads, S capacity, D head width, T new entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Preallocated buffers; samples may hold different numbers of entries.

    The numbers are kept on the host (`lengths`) and on the device (`length_B`), so that nothing
    has to be read back from the device.
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
        return max(self.lengths)

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """(B, H, filled, D) views."""
        return self._k[layer, :, :, : self.filled], self._v[layer, :, :, : self.filled]

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
        filled = self.filled
        end = filled + k_BHTD.shape[2]
        self._k[layer, :, :, filled:end] = k_BHTD
        self._v[layer, :, :, filled:end] = v_BHTD
        return self._k[layer, :, :, :end], self._v[layer, :, :, :end]

    def advance(self, counts: Sequence[int]) -> None:
        """Count the first of each sample's stored entries, as many as said, as its own."""
        self._keep([length + count for length, count in zip(self.lengths, counts, strict=True)])
