"""FlexAttention for the DiT's training pass on CUDA: kernels that skip what is hidden.

The visible sets are those of `cola.models.masks`, as block masks that are built once per layout.
B batch, H heads, T queries, S keys, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


@lru_cache(maxsize=64)
def block_causal_layout(length: int, block_size: int, device: torch.device) -> BlockMask:
    """A query sees its own block and the blocks before it."""

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key // block_size <= query // block_size

    return create_block_mask(visible, None, None, length, length, device=str(device))


@lru_cache(maxsize=64)
def noisy_layout(length: int, block_size: int, device: torch.device) -> BlockMask:
    """V_b = {clean z0^(<b), noisy z_t^(b)} of queries of b; keys [clean less its last | noisy]."""
    clean = length - block_size

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, block = query // block_size, key // block_size
        return torch.where(key < clean, block < own, (key - clean) // block_size == own)

    return create_block_mask(visible, None, None, length, clean + length, device=str(device))


def attend_flex(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, layout: BlockMask) -> Tensor:
    """Scaled dot-product attention under a layout. Off CUDA: unfused, without a backward pass."""
    kernel = _compiled() if q_BHTD.is_cuda else cast(Callable[..., Any], flex_attention)
    # Autocast does not reach FlexAttention: norms and rotations may have left float32.
    attended: Tensor = kernel(
        q_BHTD.to(v_BHSD.dtype), k_BHSD.to(v_BHSD.dtype), v_BHSD, block_mask=layout
    )
    return attended


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled
