"""Who sees whom: block-causal masks over positions, built once per layout and kept.

True where the key is visible. T queries, S keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Queries attended together. Small chunks skip more of what is hidden, large ones have fewer calls.
QUERY_CHUNK = 64


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


@dataclass(frozen=True)
class QueryChunk:
    """Queries that are computed together: how many, and their mask over the keys they may see."""

    count: int
    mask: Tensor


@lru_cache(maxsize=64)
def noisy_chunks(length: int, block_size: int, device: torch.device) -> tuple[QueryChunk, ...]:
    """Chunks of the noisy copy; keys: [clean | noisy], as far as one is visible."""
    mask, clean = noisy_query_mask(length, block_size, device), length - block_size
    return tuple(
        QueryChunk(
            end - start,
            torch.cat(
                [mask[start:end, : end - block_size], mask[start:end, clean + start : clean + end]],
                dim=1,
            ),
        )
        for start, end in chunk_bounds(length, block_size)
    )


def chunk_bounds(length: int, block_size: int) -> list[tuple[int, int]]:
    """Starts and ends of chunks of whole blocks of about QUERY_CHUNK positions."""
    size = max(QUERY_CHUNK // block_size, 1) * block_size
    return [(start, min(start + size, length)) for start in range(0, length, size)]
