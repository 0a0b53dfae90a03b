"""Layers of the DiT under the public release's parameter names and shapes.

AdaLN: model.md, Eq. 17. Shapes: B batch, n latents, C width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from cola.models.adaln import TimestepEmbeddings, adaln_projection, add_gated
from cola.models.dit_config import DiTConfig
from cola.models.flex import attend_flex
from cola.models.layers import (
    KeysValues,
    LayerNorm,
    attend,
    attend_in_chunks,
    inverse_frequencies,
    inverse_frequencies_on,
    merge_heads,
    rotary_angles,
    rotate_interleaved,
)
from cola.models.masks import QueryChunk

ROPE_THETA = 10_000.0  # the release's


class RotaryFrequencies(nn.Module):
    """The frequencies, as a buffer under the release's name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.register_buffer("freqs", inverse_frequencies(width, ROPE_THETA))

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary angles of explicit positions; see `rotary_angles`."""
        if self.freqs.dtype == torch.float32:
            return rotary_angles(position, self.freqs)
        # In a model with bfloat16 weights the buffer is rounded, which is wrong at late positions.
        exact = inverse_frequencies_on(self.freqs.device, 2 * len(self.freqs), ROPE_THETA)
        return rotary_angles(position, exact)


class Rotary(nn.Module):
    """A level of nesting in the release's parameter names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rope = RotaryFrequencies(width)


class SelfAttention(nn.Module):
    """Projections, QK LayerNorm per head, partial rotary embedding."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.num_heads = config.heads
        self.proj_qkv = nn.Linear(config.txt_dim, 3 * inner, bias=config.qk_bias)
        self.proj_out = nn.Linear(inner, config.txt_dim, bias=config.qk_bias)
        self.norm_q = LayerNorm(config.head_dim, eps=config.norm_eps)
        self.norm_k = LayerNorm(config.head_dim, eps=config.norm_eps)
        self.rope = Rotary(config.rope_dim)

    def qkv(self, x_BnC: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, n, D); `rotary` is what `layers.rotations` returns."""
        q, k, v = self.proj_qkv(x_BnC).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        # Heads are moved forward last: norms and rotations are fast on contiguous memory.
        q = rotate_interleaved(self.norm_q(q), rotary).transpose(1, 2)
        k = rotate_interleaved(self.norm_k(k), rotary).transpose(1, 2)
        return q, k, v.transpose(1, 2)

    def out(self, x_BHnD: Tensor) -> Tensor:
        """Output projection, (B, H, n, D) -> (B, n, C)."""
        projected: Tensor = self.proj_out(merge_heads(x_BHnD))
        return projected


class MLP(nn.Module):
    """Two layers with GELU (tanh approximation), `expand_ratio` times as wide inside."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        inner = round(config.expand_ratio * config.txt_dim)
        self.proj_in = nn.Linear(config.txt_dim, inner)
        self.proj_out = nn.Linear(inner, config.txt_dim)

    def forward(self, x_BnC: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        projected: Tensor = self.proj_out(F.gelu(self.proj_in(x_BnC), approximate="tanh"))
        return projected


def projection_of(config: DiTConfig, vectors: int) -> nn.Sequential:
    """See `adaln_projection`."""
    return adaln_projection(config.emb_dim, config.txt_dim, vectors, rank=config.adaln_rank)


class AdaLN(nn.Module):
    """Shift and scale on the way in, gate on the way out, for attention and MLP."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.msa_in = projection_of(config, 2)
        self.msa_out = projection_of(config, 1)
        self.mlp_in = projection_of(config, 2)
        self.mlp_out = projection_of(config, 1)


class DiTBlock(nn.Module):
    """One layer: whole in training, in two halves around the attention where a cache is read."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.msa = SelfAttention(config)
        self.mlp = MLP(config)
        self.ada = AdaLN(config)

    def clean(
        self,
        x_BmC: Tensor,
        timesteps: TimestepEmbeddings,
        rotary: Tensor,
        *,
        mask: Tensor | None,
        layout: BlockMask | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer on the clean copy: its output (B, m, C), and its keys and values.

        One of mask and layout says which latents see which.
        """
        q, k, v = self.qkv(x_BmC, timesteps, rotary)
        seen = attend(q, k, v, mask=mask) if layout is None else attend_flex(q, k, v, layout=layout)
        return self.finish(x_BmC, seen, timesteps), k, v

    def noisy(
        self,
        x_BnC: Tensor,
        past: KeysValues,
        timesteps: TimestepEmbeddings,
        rotary: Tensor,
        *,
        chunks: Sequence[QueryChunk],
        layout: BlockMask | None,
    ) -> Tensor:
        """The layer on the noisy copy, (B, n, C); `past` are the clean copy's keys and values.

        The layout, or where there is none the chunks, say which latents see which.
        """
        q, k, v = self.qkv(x_BnC, timesteps, rotary)
        if layout is None:
            seen = attend_in_chunks(q, past, (k, v), chunks=chunks)
        else:
            keys, values = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
            seen = attend_flex(q, keys, values, layout=layout)
        return self.finish(x_BnC, seen, timesteps)

    def keys_values(
        self, x_BmC: Tensor, timesteps: TimestepEmbeddings, rotary: Tensor
    ) -> KeysValues:
        """Keys and values alone, of a layer whose output nobody reads."""
        _, k, v = self.qkv(x_BmC, timesteps, rotary)
        return k, v

    def qkv(
        self, x_BnC: Tensor, timesteps: TimestepEmbeddings, rotary: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the modulated input, each (B, H, n, D)."""
        return self.msa.qkv(timesteps.modulate_norm(x_BnC, self.ada.msa_in, self.eps), rotary)

    def finish(self, x_BnC: Tensor, attended_BHnD: Tensor, timesteps: TimestepEmbeddings) -> Tensor:
        """Add the gated attention, then the gated MLP, to the residual stream: (B, n, C)."""
        attended_BnC = self.msa.out(attended_BHnD)
        x_BnC = add_gated(x_BnC, attended_BnC, timesteps, ada=self.ada.msa_out)
        hidden_BnC = timesteps.modulate_norm(x_BnC, self.ada.mlp_in, self.eps)
        return add_gated(x_BnC, self.mlp(hidden_BnC), timesteps, ada=self.ada.mlp_out)


class LatentProjection(nn.Module):
    """A Linear one level deeper in the parameter names, as in the release."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        projected: Tensor = self.proj(x)
        return projected


class OutputAdaLN(nn.Module):
    """Shift and scale before the output projection, under the release's name."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.out_in = projection_of(config, 2)
