"""Who sees whom: block-causal masks over positions, built once per layout and kept.

True where the key is visible. T queries, S keys.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def block_causal(query_position: Tensor, key_position: Tensor, block_size: int) -> Tensor:
    """(T, S): a query sees its own block and the blocks before it; block 1 is strictly causal."""
    return key_position[None, :] // block_size <= query_position[:, None] // block_size


@lru_cache(maxsize=64)
def block_causal_mask(length: int, block_size: int, device: torch.device) -> Tensor:
    """(length, length) mask of a plain sequence."""
    position = torch.arange(length, device=device)
    return block_causal(position, position, block_size)


@lru_cache(maxsize=64)
def noisy_query_mask(length: int, block_size: int, device: torch.device) -> Tensor:
    """Visible set V_b = {clean z0^(<b), noisy z_t^(b)} of the noisy copy (section 1).

    Queries: `length` noisy latents. Keys: [clean, without its last block | noisy].
    """
    position = torch.arange(length, device=device)
    block = position // block_size
    clean = block[: length - block_size][None, :] < block[:, None]
    noisy = block[None, :] == block[:, None]
    return torch.cat([clean, noisy], dim=1)
