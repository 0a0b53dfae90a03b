"""Parts that the networks share: attention by explicit mask, both rotary forms, time embedding.

Shapes: B batch, T queries, S keys, H heads, D head width, C model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.models.masks import QueryChunk

KeysValues = tuple[Tensor, Tensor]
FEW_QUERIES = 32  # up to which plain products beat the fused kernel on a CPU


def activation_dtype(weight: Tensor) -> torch.dtype:
    """What keys and values come in: autocast's type where it is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def merge_heads(x_BHTD: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D)."""
    return x_BHTD.transpose(1, 2).flatten(-2)


def attend(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask: Tensor | None, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention; `mask` is True where a key is visible, None for all.

    `causal` (without a mask) hides later keys, and skips the work on them.
    """
    short = q_BHTD.shape[-2] <= FEW_QUERIES and not causal
    if short and q_BHTD.device.type == "cpu" and not torch.is_grad_enabled():
        return attend_plainly(q_BHTD, k_BHSD, v_BHSD, mask)
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=causal)


def attend_plainly(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two products and a softmax: faster on a CPU for a block of queries.

    Keys stand on the left of the first product: the short side is then the one that is transposed.
    """
    q_BHTD = q_BHTD * q_BHTD.shape[-1] ** -0.5
    score_BHTS = (k_BHSD @ q_BHTD.transpose(-1, -2)).transpose(-1, -2)
    if mask is not None:
        score_BHTS = score_BHTS.masked_fill(~mask, -torch.inf)
    return score_BHTS.softmax(-1) @ v_BHSD


def attend_in_chunks(
    q_BHTD: Tensor, past: KeysValues, own: KeysValues, chunks: Sequence[QueryChunk]
) -> Tensor:
    """Attention of the noisy copy, chunk by chunk of queries: hidden keys of others cost nothing.

    Chunk c sees the first c + 1 pieces of `past`, and piece c of `own`. Every piece is split off
    once: gradients are then summed piece by piece, without zeros for the rest.
    """
    counts = [chunk.count for chunk in chunks]
    ends = [chunk.mask.shape[1] - chunk.count for chunk in chunks]
    seen = [end - start for start, end in pairwise([0, *ends])]
    past_k, past_v = (part.split(seen, dim=2) for part in past)
    queries, own_k, own_v = (part.split(counts, dim=2) for part in (q_BHTD, *own))
    attended = []
    for c, chunk in enumerate(chunks):
        k = torch.cat([*past_k[: c + 1], own_k[c]], dim=2)
        v = torch.cat([*past_v[: c + 1], own_v[c]], dim=2)
        attended.append(attend(queries[c], k, v, chunk.mask))
    return torch.cat(attended, dim=2)


def rotary_angles(position: Tensor, inverse_frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position x frequency, in float32.

    position: (T,) or (B, T); inverse_frequency: (R/2,). Returns two of (1 or B, T, 1, R/2), to
    broadcast over heads. Positions are explicit: layouts such as [clean | noisy] repeat them.
    """
    angle = position.float()[..., None, None] * inverse_frequency.float()
    angle = angle[None] if position.dim() == 1 else angle
    return angle.cos(), angle.sin()


def rotations(angles: tuple[Tensor, Tensor], head_width: int) -> Tensor:
    """The angles as complex numbers, (1 or B, T, 1, D/2).

    Pairs of channels beyond R are rotated by 0, which is cheaper than to take them out and put them
    back.
    """
    cos, sin = angles
    rest = (0, head_width // 2 - cos.shape[-1])
    return torch.complex(F.pad(cos, rest, value=1.0), F.pad(sin, rest))


def rotate_half(x_BTHD: Tensor, rotations: Tensor) -> Tensor:
    """Rotary embedding of the pairs (i, i + D/2) (the VAE's form), with each pair put side by side.

    That reorders the channels of queries and keys alike, so their products are what they were.
    """
    return rotate_interleaved(
        x_BTHD.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2), rotations
    )


def rotate_interleaved(x_BTHD: Tensor, rotations: Tensor) -> Tensor:
    """Rotary embedding of the pairs (2i, 2i + 1) (the DiT's form), in float32."""
    pairs = torch.view_as_complex(x_BTHD.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).to(x_BTHD.dtype)


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
        hidden = F.silu(self.proj_in(sinusoid(timestep).to(self.proj_in.weight.dtype)))
        return self.proj_out(F.silu(self.proj_hid(hidden)))
