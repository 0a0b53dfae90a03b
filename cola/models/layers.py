"""Parts that the networks share: attention by explicit mask, both rotary forms, time embedding.

Shapes: B batch, T queries, S keys, H heads, D head width, C model width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x_BTC: Tensor, num_heads: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x_BTC.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x_BHTD: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D)."""
    return x_BHTD.transpose(1, 2).flatten(-2)


def attend(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention; `mask` is True where a key is visible, None for all."""
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=mask)


def rotary_angles(position: Tensor, inverse_frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position x frequency, in float32.

    position: (T,) or (B, T); inverse_frequency: (R/2,). Returns two of (1 or B, 1, T, R/2), to
    broadcast over heads. Positions are explicit: layouts such as [clean | noisy] repeat them.
    """
    angle = position.float()[..., None] * inverse_frequency.float()
    angle = angle[None, None] if position.dim() == 1 else angle[:, None]
    return angle.cos(), angle.sin()


def rotate_half(x_BHTD: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding over the full head width, pairs (i, i + D/2) (the VAE's form)."""
    cos, sin = angles
    first, second = x_BHTD.float().chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(x_BHTD.dtype)


def rotate_interleaved(x_BHTD: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of the first R channels, pairs (2i, 2i + 1) (the DiT's form)."""
    cos, sin = angles
    width = 2 * cos.shape[-1]
    pairs = x_BHTD[..., :width].float().unflatten(-1, (-1, 2))
    even, odd = pairs.unbind(-1)
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([rotated.to(x_BHTD.dtype), x_BHTD[..., width:]], dim=-1)


def inverse_frequencies(width: int, theta: float) -> Tensor:
    """theta^(-2i / width) for i < width / 2."""
    return theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)


def sinusoid(timestep: Tensor, width: int = 256) -> Tensor:
    """Embedding of timesteps (any shape) -> (..., width): sines, then cosines."""
    half = width // 2
    exponent = -math.log(10_000.0) * torch.arange(half, device=timestep.device).float() / half
    angle = timestep.float()[..., None] * exponent.exp()
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Sinusoid of 256, then Linear-SiLU-Linear-SiLU-Linear (section 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(256, width)
        self.proj_hid = nn.Linear(width, width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        """Timesteps of any shape -> (..., C)."""
        hidden = F.silu(self.proj_in(sinusoid(timestep)))
        return self.proj_out(F.silu(self.proj_hid(hidden)))
