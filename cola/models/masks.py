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
NOWHERE = 1 << 40  # no position reaches it


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


def cached_prefix_mask(prefix_B: Tensor, columns: int, count: int, *, block_size: int) -> Tensor:
    """Mask of `count` new latents behind cached prefixes: (B, 1, T or 1, columns).

    `prefix_B` are the rows' own prefix lengths, in whole blocks; a row's new latents lie in the
    columns behind its own prefix. A noisy block sees what a clean one at its place does. Queries
    of one block all have the same visible set (T is then 1).
    """
    new_T = torch.arange(1 if count <= block_size else count, device=prefix_B.device)
    query_BT1 = (prefix_B[:, None] + new_T)[..., None]
    key_S = torch.arange(columns, device=prefix_B.device)
    # What lies behind a row's own entries is another row's, or nothing: its position is hidden.
    return visible(query_BT1, key_S, block_size, clean=NOWHERE)[:, None]


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
