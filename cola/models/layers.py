"""Layers that the networks share: norms, attention, rotary embeddings, timestep embedding.

Shapes: B batch, T queries, S keys, H heads, D head width, C model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.models.masks import QueryChunk

KeysValues = tuple[Tensor, Tensor]
# Queries up to which plain products beat the fused kernel on a CPU (a block has 16). Chosen for
# tests/benchmarks/generation.py, which shows the effect of another value.
FEW_QUERIES = 32
SINUSOID_WIDTH = 256  # the release's


def activation_dtype(weight: Tensor) -> torch.dtype:
    """Type of keys and values: autocast's where it is enabled, else the weight's."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class LayerNorm(nn.LayerNorm):
    """A LayerNorm whose sums are in float32 and whose output has the input's type.

    Autocast on CUDA returns float32, which all layers behind it would then read and write.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return super().forward(input).to(input.dtype)


def normalized(x: Tensor, eps: float) -> Tensor:
    """`LayerNorm` without affine parameters: (..., C) -> (..., C)."""
    if x.device.type != "cuda":  # autocast leaves it alone there
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], eps=eps)


def merge_heads(x_BHTD: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D)."""
    return x_BHTD.transpose(1, 2).flatten(-2)


def attend(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, mask: Tensor | None, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention, (B, H, T, D); `mask` None: every key is visible.

    `causal` (only without a mask) hides later keys and skips the work on them.
    """
    short = q_BHTD.shape[-2] <= FEW_QUERIES and not causal
    if short and q_BHTD.device.type == "cpu" and not torch.is_grad_enabled():
        return attend_plainly(q_BHTD, k_BHSD, v_BHSD, mask=mask)
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=causal)


def attend_plainly(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, mask: Tensor | None
) -> Tensor:
    """`attend` by two products and a softmax: faster on a CPU for few queries."""
    # Keys are the left factor of the first product: the short side is then the transposed one.
    q_BHTD = q_BHTD * q_BHTD.shape[-1] ** -0.5
    score_BHTS = (k_BHSD @ q_BHTD.transpose(-1, -2)).transpose(-1, -2)
    if mask is not None:
        score_BHTS = score_BHTS.masked_fill(~mask, -torch.inf)
    return score_BHTS.softmax(-1) @ v_BHSD


def attend_in_chunks(
    q_BHTD: Tensor, past: KeysValues, own: KeysValues, *, chunks: Sequence[QueryChunk]
) -> Tensor:
    """Attention of the noisy copy (model.md, Eq. 7) in chunks of queries, (B, H, T, D).

    Chunk c sees the first c + 1 pieces of the clean keys and values `past`, and piece c of the
    noisy ones `own`: keys that are hidden from a whole chunk cost nothing.
    """
    # Every piece is split off once: gradients are then summed piece by piece, without zeros for
    # the rest.
    counts = [chunk.count for chunk in chunks]
    ends = [chunk.mask.shape[1] - chunk.count for chunk in chunks]
    seen = [end - start for start, end in pairwise([0, *ends])]
    past_k, past_v = (part.split(seen, dim=2) for part in past)
    queries, own_k, own_v = (part.split(counts, dim=2) for part in (q_BHTD, *own))
    attended = []
    for c, chunk in enumerate(chunks):
        k = torch.cat([*past_k[: c + 1], own_k[c]], dim=2)
        v = torch.cat([*past_v[: c + 1], own_v[c]], dim=2)
        attended.append(attend(queries[c], k, v, mask=chunk.mask))
    return torch.cat(attended, dim=2)


def rotary_angles(position: Tensor, inverse_frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position x frequency in float32, each (1 or B, T, 1, R/2).

    position: (T,) or (B, T), explicit because the copies of [clean | noisy] share positions;
    inverse_frequency: (R/2,). The result broadcasts over heads.
    """
    angle = position.float()[..., None, None] * inverse_frequency.float()
    angle = angle[None] if position.dim() == 1 else angle
    return angle.cos(), angle.sin()


def rotations(angles: tuple[Tensor, Tensor], head_width: int) -> Tensor:
    """Cosines and sines side by side, (1 or B, T, 1, D/2, 2) in float32."""
    # Channel pairs beyond R are rotated by 0, which is cheaper than splitting and rejoining them.
    cos, sin = angles
    rest = (0, head_width // 2 - cos.shape[-1])
    return torch.stack((F.pad(cos, rest, value=1.0), F.pad(sin, rest)), dim=-1)


def rotate_half(x_BTHD: Tensor, rotations: Tensor) -> Tensor:
    """Rotary embedding of the channel pairs (i, i + D/2), the VAE's form, in float32.

    The pairs come out side by side. Queries and keys are reordered alike, so their products stay.
    """
    return rotate_interleaved(
        x_BTHD.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2), rotations
    )


def rotate_interleaved(x_BTHD: Tensor, rotations: Tensor) -> Tensor:
    """Rotary embedding of the channel pairs (2i, 2i + 1), the DiT's form, in float32."""
    pairs = x_BTHD.float().unflatten(-1, (-1, 2))
    return rotate_pairs(pairs, rotations).flatten(-2).to(x_BTHD.dtype)


def rotate_pairs(pairs: Tensor, rotations: Tensor) -> Tensor:
    """Pairs (..., 2) rotated in the plane; the two forms differ by the last bit, and rarely."""
    if not torch.compiler.is_compiling():
        # One pass over memory, on a CPU in a fourth of the time of real products.
        product = torch.view_as_complex(pairs) * torch.view_as_complex(rotations)
        return torch.view_as_real(product)
    # Inductor generates no code for complex numbers.
    (a, b), (cos, sin) = pairs.unbind(-1), rotations.unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)


def inverse_frequencies(width: int, theta: float) -> Tensor:
    """theta^(-2i / width) for i < width / 2."""
    return theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)


@lru_cache(maxsize=16)
def inverse_frequencies_on(device: torch.device, width: int, theta: float) -> Tensor:
    """The same numbers on a device: made on the host once, as copies end a CUDA graph's capture."""
    with torch.inference_mode(False):
        return inverse_frequencies(width, theta).to(device)


def sinusoid(timestep: Tensor) -> Tensor:
    """Timesteps of any shape -> (..., SINUSOID_WIDTH): sines, then cosines (model.md, Eq. 16)."""
    half = SINUSOID_WIDTH // 2
    exponent = -math.log(10_000.0) * torch.arange(half, device=timestep.device).float() / half
    angle = timestep.float()[..., None] * exponent.exp()
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Linear-SiLU-Linear-SiLU-Linear of the sinusoid (model.md, Eq. 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(SINUSOID_WIDTH, width)
        self.proj_hid = nn.Linear(width, width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        """Timesteps of any shape -> (..., C)."""
        hidden = F.silu(self.proj_in(sinusoid(timestep).to(self.proj_in.weight.dtype)))
        return self.proj_out(F.silu(self.proj_hid(hidden)))
