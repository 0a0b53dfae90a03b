"""Which latents see which: one definition for every attention back end (model.md, Eqs. 7 and 8).

SDPA's dense masks (CPU), FlexAttention's layouts (CUDA, `cola.models.flex`) and the masks of cached
generation (`cola.models.kv_cache`) are all `visible`, evaluated on different indices. Masks are
True where the key is visible. B batch, T queries, S keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Queries attended together: small chunks skip more hidden keys, large ones need fewer calls. Chosen
# for tests/benchmarks/training_step.py, which shows the effect of another value.
QUERY_CHUNK = 64


def visible(query: Tensor, key: Tensor, block_size: int, *, clean: int) -> Tensor:
    """Whether `query` sees `key`, both indices into [clean | noisy] (model.md, Eq. 8).

    `clean` is the number of latents in the clean copy; positions start at 0 in both copies. The
    arguments broadcast, so this is a FlexAttention `mask_mod` as well as a dense mask. A plain
    sequence is one that is all clean; it is strictly causal at block size 1.
    """
    query_is_noisy, key_is_noisy = query >= clean, key >= clean
    query_block = torch.where(query_is_noisy, query - clean, query) // block_size
    key_block = torch.where(key_is_noisy, key - clean, key) // block_size
    sees_clean = torch.where(query_is_noisy, key_block < query_block, key_block <= query_block)
    sees_noisy = query_is_noisy & (key_block == query_block)
    return torch.where(key_is_noisy, sees_noisy, sees_clean)


@lru_cache(maxsize=64)
def block_causal_mask(length: int, block_size: int, device: torch.device) -> Tensor:
    """(length, length) mask of a plain sequence."""
    index = torch.arange(length, device=device)
    return visible(index[:, None], index, block_size, clean=length)


@lru_cache(maxsize=64)
def noisy_query_mask(length: int, block_size: int, device: torch.device) -> Tensor:
    """(length, length - block_size + length) mask of the noisy copy's queries.

    Keys are [clean | noisy]. The clean copy lacks its last block, which no query sees.
    """
    clean = length - block_size
    query = clean + torch.arange(length, device=device)
    key = torch.arange(clean + length, device=device)
    return visible(query[:, None], key, block_size, clean=clean)


def cached_prefix_mask(
    prefix_B: Tensor, filled: int, count: int, *, block_size: int, noisy: bool
) -> Tensor:
    """Mask of `count` new latents behind cached clean prefixes: (B, 1, T or 1, filled + T).

    `prefix_B` are the samples' own prefix lengths, in whole blocks; `filled` is the longest. New
    latents are one noisy block, whose queries all have the same visible set (T is then 1), or any
    number of clean ones.
    """
    slot = torch.arange(filled, device=prefix_B.device)
    position_BT = prefix_B[:, None] + torch.arange(count, device=prefix_B.device)
    clean = filled + count  # no clean position reaches it
    new_BT = position_BT + clean if noisy else position_BT
    query_BT = new_BT[:, :1] if noisy else new_BT
    key_BS = torch.cat([slot.expand(len(prefix_B), -1), new_BT], dim=1)
    seen_BTS = visible(query_BT[:, :, None], key_BS[:, None], block_size, clean=clean)
    # Slots behind a sample's own prefix hold another sample's entries, or nothing.
    seen_BTS[..., :filled] &= (slot < prefix_B[:, None])[:, None]
    return seen_BTS[:, None]


@dataclass(frozen=True)
class QueryChunk:
    """Number of queries that are attended together, and their mask over the keys they may see."""

    count: int
    mask: Tensor


@lru_cache(maxsize=64)
def noisy_chunks(length: int, block_size: int, device: torch.device) -> tuple[QueryChunk, ...]:
    """Query chunks of the noisy copy; a chunk's keys are those of [clean | noisy] that it can see.

    These are the clean latents before the chunk's last block, and the chunk's own noisy ones.
    """
    mask, clean = noisy_query_mask(length, block_size, device), length - block_size
    chunks = []
    for start, end in chunk_bounds(length, block_size):
        rows = mask[start:end]
        history, own = rows[:, : end - block_size], rows[:, clean + start : clean + end]
        chunks.append(QueryChunk(end - start, torch.cat([history, own], dim=1)))
    return tuple(chunks)


def chunk_bounds(length: int, block_size: int) -> list[tuple[int, int]]:
    """Starts and ends of chunks of whole blocks, of about QUERY_CHUNK positions each."""
    size = max(QUERY_CHUNK // block_size, 1) * block_size
    return [(start, min(start + size, length)) for start in range(0, length, size)]
