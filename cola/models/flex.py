"""FlexAttention for the DiT's training pass on CUDA, whose kernels skip hidden tiles.

The layouts evaluate `cola.models.masks.visible` (model.md, Eq. 8), as the dense masks do.
B batch, H heads, T queries, S keys, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from cola.models.masks import visible


@lru_cache(maxsize=64)
def block_causal_layout(length: int, block_size: int, device: torch.device) -> BlockMask:
    """Layout of a plain sequence; the same set as `masks.block_causal_mask`."""

    def mask_mod(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query, key, block_size, clean=length)

    return create_block_mask(mask_mod, None, None, length, length, device=str(device))


@lru_cache(maxsize=64)
def noisy_layout(length: int, block_size: int, device: torch.device) -> BlockMask:
    """Layout of the noisy copy's queries; the same set as `masks.noisy_query_mask`."""
    clean = length - block_size

    def mask_mod(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(clean + query, key, block_size, clean=clean)

    return create_block_mask(mask_mod, None, None, length, clean + length, device=str(device))


def attend_flex(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, layout: BlockMask) -> Tensor:
    """Scaled dot-product attention under a layout, (B, H, T, D).

    Off CUDA it runs unfused and has no backward pass.
    """
    kernel = cast(Callable[..., Any], flex_attention)
    if q_BHTD.is_cuda and not torch.compiler.is_compiling():
        kernel = _compiled()
    # Autocast does not reach FlexAttention: norms and rotations may have left float32.
    attended: Tensor = kernel(
        q_BHTD.to(v_BHSD.dtype), k_BHSD.to(v_BHSD.dtype), v_BHSD, block_mask=layout
    )
    return attended


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    return compiled
