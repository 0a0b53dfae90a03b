"""Keys and values of what is already committed, per layer and per sample.

B batch, H heads, S capacity, D head width, T new entries.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Preallocated buffers; samples may hold different numbers of entries (`length_B`)."""

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
        self.length_B = torch.zeros(batch, dtype=torch.long, device=device)
        self._filled = 0  # largest length, known without reading the device

    @property
    def filled(self) -> int:
        """Entries of the longest sample: how much of the buffers is worth reading."""
        return self._filled

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """(B, H, filled, D) views."""
        return self._k[layer, :, :, : self._filled], self._v[layer, :, :, : self._filled]

    def visible(self) -> Tensor:
        """(B, 1, 1, filled): True where the sample has an entry."""
        entry = torch.arange(self._filled, device=self.length_B.device)
        return (entry[None] < self.length_B[:, None])[:, None, None]

    def write(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> None:
        """Store T entries behind each sample's own; `advance` then makes them visible."""
        count = k_BHTD.shape[2]
        row = torch.arange(len(self.length_B), device=self.length_B.device)[:, None]
        place = self.length_B[:, None] + torch.arange(count, device=self.length_B.device)
        # Advanced indexing puts (B, T) first: the values are laid out to match.
        self._k[layer][row, :, place] = k_BHTD.transpose(1, 2).to(self._k.dtype)
        self._v[layer][row, :, place] = v_BHTD.transpose(1, 2).to(self._v.dtype)

    def advance(self, count_B: Tensor, longest: int) -> None:
        """Count the first `count_B` of each sample's stored entries as its own.

        `longest` is the new length of the longest sample (known on the host).
        """
        self.length_B = self.length_B + count_B
        self._filled = longest
