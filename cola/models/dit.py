"""Block-causal diffusion transformer over latents, in the public release's layout (section 2).

Shapes: B batch, n latents, b = n / block_size blocks, d latent width, C width, H heads, D head
width, K distinct timesteps of a sample.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from cola.models.kv_cache import KVCache
from cola.models.layers import (
    TimestepEmbedding,
    attend,
    inverse_frequencies,
    merge_heads,
    rotary_angles,
    rotate_interleaved,
    split_heads,
)
from cola.models.masks import block_causal_mask, noisy_query_mask
from cola.models.text_vae import init_normal

T = 1000.0  # the network sees timestep T * t
ROPE_THETA = 10_000.0
Angles = tuple[Tensor, Tensor]


class DiTConfig(PretrainedConfig):
    """Keys and defaults of the release's `cola_dit`."""

    model_type = "cola_dit"

    def __init__(
        self,
        txt_in_channels: int = 16,
        txt_out_channels: int = 16,
        txt_dim: int = 2048,
        emb_dim: int = 2048,
        heads: int = 16,
        head_dim: int = 128,
        expand_ratio: int = 4,
        num_layers: int = 24,
        rope_dim: int = 96,
        qk_bias: bool = False,
        norm_eps: float = 1e-5,
        block_size: int = 16,
        patch_size: int = 1,
        init_std: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.txt_in_channels = txt_in_channels
        self.txt_out_channels = txt_out_channels
        self.txt_dim = txt_dim
        self.emb_dim = emb_dim
        self.heads = heads
        self.head_dim = head_dim
        self.expand_ratio = expand_ratio
        self.num_layers = num_layers
        self.rope_dim = rope_dim
        self.qk_bias = qk_bias
        self.norm_eps = norm_eps
        self.block_size = block_size
        self.patch_size = patch_size
        self.init_std = init_std
        super().__init__(**kwargs)


class RotaryFrequencies(nn.Module):
    """Holds the frequencies where the release's checkpoints have them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.register_buffer("freqs", inverse_frequencies(width, ROPE_THETA))

    def forward(self, position: Tensor) -> Angles:
        """Rotary angles of explicit positions."""
        return rotary_angles(position, self.freqs)


class Rotary(nn.Module):
    """One level of nesting that the release's parameter names have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rope = RotaryFrequencies(width)

    def forward(self, position: Tensor) -> Angles:
        """Rotary angles of explicit positions."""
        angles: Angles = self.rope(position)
        return angles


class SelfAttention(nn.Module):
    """Projections, QK LayerNorm per head, partial rotary embedding."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.num_heads = config.heads
        self.proj_qkv = nn.Linear(config.txt_dim, 3 * inner, bias=config.qk_bias)
        self.proj_out = nn.Linear(inner, config.txt_dim, bias=config.qk_bias)
        self.norm_q = nn.LayerNorm(config.head_dim, eps=config.norm_eps)
        self.norm_k = nn.LayerNorm(config.head_dim, eps=config.norm_eps)
        self.rope = Rotary(config.rope_dim)

    def qkv(self, x_BnC: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, n, D)."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.proj_qkv(x_BnC).chunk(3, -1))
        angles = self.rope(position)
        q = rotate_interleaved(self.norm_q(q), angles)
        return q, rotate_interleaved(self.norm_k(k), angles), v

    def out(self, x_BHnD: Tensor) -> Tensor:
        """Back to the model's width."""
        projected: Tensor = self.proj_out(merge_heads(x_BHnD))
        return projected


class MLP(nn.Module):
    """GELU(tanh), four times the width."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.proj_in = nn.Linear(config.txt_dim, config.expand_ratio * config.txt_dim)
        self.proj_out = nn.Linear(config.expand_ratio * config.txt_dim, config.txt_dim)

    def forward(self, x_BnC: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        projected: Tensor = self.proj_out(F.gelu(self.proj_in(x_BnC), approximate="tanh"))
        return projected


def modulation(emb_dim: int, width: int, parts: int) -> nn.Sequential:
    """AdaLN: Linear(SiLU(emb)) giving `parts` vectors of the width."""
    return nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, parts * width))


class AdaLN(nn.Module):
    """Shift and scale on the way in, gate on the way out, for attention and MLP."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.msa_in = modulation(config.emb_dim, config.txt_dim, 2)
        self.msa_out = modulation(config.emb_dim, config.txt_dim, 1)
        self.mlp_in = modulation(config.emb_dim, config.txt_dim, 2)
        self.mlp_out = modulation(config.emb_dim, config.txt_dim, 1)


class Times:
    """Embeddings of the distinct timesteps of a sample, and which latent has which.

    emb_BKC: (B or 1, K, C). index_Bn: (B, n) into K; None where K is 1 or runs of n / K latents
    share a timestep.
    """

    def __init__(self, emb_BKC: Tensor, index_Bn: Tensor | None = None) -> None:
        self.emb_BKC, self.index_Bn = emb_BKC, index_Bn

    def spread(self, per_timestep_BKC: Tensor, length: int) -> Tensor:
        """What was computed once per distinct timestep, for each of `length` latents."""
        count = per_timestep_BKC.shape[1]
        if self.index_Bn is not None:
            batch = torch.arange(len(self.index_Bn), device=self.index_Bn.device)
            flat = (batch[:, None] * count + self.index_Bn).flatten()
            gathered = per_timestep_BKC.flatten(0, 1).index_select(0, flat)
            return gathered.unflatten(0, self.index_Bn.shape)
        if count in (1, length):
            return per_timestep_BKC
        return per_timestep_BKC.repeat_interleave(length // count, dim=1)


class DiTBlock(nn.Module):
    """One layer; its halves are separate so that callers decide who attends to whom."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.msa = SelfAttention(config)
        self.mlp = MLP(config)
        self.ada = AdaLN(config)

    def qkv(self, x_BnC: Tensor, times: Times, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the modulated input."""
        modulation = times.spread(self.ada.msa_in(times.emb_BKC), x_BnC.shape[1])
        return self.msa.qkv(modulate(x_BnC, modulation, self.eps), position)

    def finish(self, x_BnC: Tensor, attended_BHnD: Tensor, times: Times) -> Tensor:
        """Residual of the attention, then the MLP."""
        length, emb = x_BnC.shape[1], times.emb_BKC
        x_BnC = x_BnC + times.spread(self.ada.msa_out(emb), length) * self.msa.out(attended_BHnD)
        hidden = modulate(x_BnC, times.spread(self.ada.mlp_in(emb), length), self.eps)
        return x_BnC + times.spread(self.ada.mlp_out(emb), length) * self.mlp(hidden)


def modulate(x_BnC: Tensor, shift_scale_BnC: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine, then x (1 + scale) + shift."""
    shift, scale = shift_scale_BnC.chunk(2, dim=-1)
    return F.layer_norm(x_BnC, x_BnC.shape[-1:], eps=eps) * (1 + scale) + shift


class LatentProjection(nn.Module):
    """A Linear with the release's extra level of naming."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        projected: Tensor = self.proj(x)
        return projected


class OutputAdaLN(nn.Module):
    """Shift and scale before the output projection."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.out_in = modulation(config.emb_dim, config.txt_dim, 2)

    def forward(self, emb_BKC: Tensor) -> Tensor:
        """(B, K, C) -> (B, K, 2 C)."""
        projected: Tensor = self.out_in(emb_BKC)
        return projected


class ColaDiT(PreTrainedModel):
    """The velocity field v_psi as a Hugging Face model with the release's parameter names."""

    config_class = DiTConfig
    base_model_prefix = ""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.txt_in = LatentProjection(config.txt_in_channels, config.txt_dim)
        self.emb_in = TimestepEmbedding(config.emb_dim)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.num_layers))
        self.txt_out_norm = nn.LayerNorm(config.txt_dim, eps=config.norm_eps)
        self.txt_out_ada = OutputAdaLN(config)
        self.txt_out = LatentProjection(config.txt_dim, config.txt_out_channels)
        self.post_init()

    @property
    def layers(self) -> list[DiTBlock]:
        """The blocks in order."""
        return [cast(DiTBlock, block) for block in self.blocks]

    def _init_weights(self, module: nn.Module) -> None:
        init_normal(module, self.config.init_std)
        if isinstance(module, RotaryFrequencies):
            with torch.no_grad():
                module.freqs.copy_(inverse_frequencies(2 * len(module.freqs), ROPE_THETA))

    def forward(
        self, z0_Bnd: Tensor, zt_Bnd: Tensor, t_BK: Tensor, index_Bn: Tensor | None = None
    ) -> Tensor:
        """Velocity of the noisy copy in one pass on [clean | noisy] (section 1).

        t_BK: distinct times of the noisy copy; `index_Bn` says which latent has which (None: one a
        sequence, a block or a latent, by K). Returns (B, n, d).
        """
        return self.noisy_pass(zt_Bnd, t_BK, self.clean_history(z0_Bnd), index_Bn)

    def clean_history(self, z0_Bnd: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the clean copy, per layer.

        Clean queries see clean keys only, so the clean stream is independent of the noisy one.
        The last clean block is never read and is left out, as is the last layer's output.
        """
        block = self.config.block_size
        length = z0_Bnd.shape[1] - block
        position = torch.arange(length, device=z0_Bnd.device)
        mask = block_causal_mask(length, block, z0_Bnd.device)
        times, x_BmC, history = self.times_zero(z0_Bnd), self.txt_in(z0_Bnd[:, :length]), []
        for layer, layer_block in enumerate(self.layers):
            q, k, v = layer_block.qkv(x_BmC, times, position)
            history.append((k, v))
            if layer < len(self.layers) - 1 and length:
                x_BmC = layer_block.finish(x_BmC, attend(q, k, v, mask), times)
        return history

    def noisy_pass(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        index_Bn: Tensor | None = None,
    ) -> Tensor:
        """Velocity of every block of the noisy copy given the clean history before it."""
        length = zt_Bnd.shape[1]
        position = torch.arange(length, device=zt_Bnd.device)
        mask = noisy_query_mask(length, self.config.block_size, zt_Bnd.device)
        times, x_BnC = Times(self.emb_in(T * t_BK), index_Bn), self.txt_in(zt_Bnd)
        for block, (past_k, past_v) in zip(self.layers, history, strict=True):
            q, k, v = block.qkv(x_BnC, times, position)
            k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
            x_BnC = block.finish(x_BnC, attend(q, k, v, mask), times)
        return self.velocity(x_BnC, times)

    def denoise(
        self, z_Bsd: Tensor, t_BK: Tensor, position_Bs: Tensor, cache: KVCache, guided: bool
    ) -> tuple[Tensor, Tensor]:
        """Velocity of one block given the cached prefix, and of the block alone (for CFG).

        Both come from one batched pass; without `guided` the second is the first.
        """
        batch, size = z_Bsd.shape[:2]
        if guided:
            alone = torch.arange(size, device=z_Bsd.device).expand(batch, size)
            z_Bsd, t_BK = torch.cat([z_Bsd, z_Bsd]), torch.cat([t_BK, t_BK])
            position_Bs = torch.cat([position_Bs, alone])
        times = Times(self.emb_in(T * t_BK))
        x_BsC = self._behind_cache(z_Bsd, times, position_Bs, cache, batch, commit=False)
        velocity = self.velocity(x_BsC, times)
        return velocity[:batch], velocity[-batch:]

    def commit(self, z_Bsd: Tensor, position_Bs: Tensor, cache: KVCache, longest: int) -> None:
        """Add a finished block (timestep 0) to the cache; `longest`: its new largest length."""
        times = self.times_zero(z_Bsd)
        self._behind_cache(z_Bsd, times, position_Bs, cache, len(z_Bsd), commit=True)
        cache.advance(torch.full_like(cache.length_B, z_Bsd.shape[1]), longest)

    def prefill(self, z_Bmd: Tensor, cache: KVCache, count_B: Tensor) -> None:
        """Fill an empty cache with clean prefixes of `count_B` latents (whole blocks, padded)."""
        length = z_Bmd.shape[1]
        if length == 0:
            return
        position = torch.arange(length, device=z_Bmd.device)
        mask = block_causal_mask(length, self.config.block_size, z_Bmd.device)
        times, x_BmC = self.times_zero(z_Bmd), self.txt_in(z_Bmd)
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_BmC, times, position)
            cache.write(layer, k, v)
            x_BmC = block.finish(x_BmC, attend(q, k, v, mask), times)
        cache.advance(count_B, length)

    def _behind_cache(
        self,
        z_Rsd: Tensor,
        times: Times,
        position_Rs: Tensor,
        cache: KVCache,
        batch: int,
        commit: bool,
    ) -> Tensor:
        """The first `batch` rows see the cache and themselves, further rows themselves alone."""
        size = z_Rsd.shape[1]
        own = torch.ones(batch, 1, 1, size, dtype=torch.bool, device=z_Rsd.device)
        mask = torch.cat([cache.visible(), own], dim=-1)
        x_RsC = self.txt_in(z_Rsd)
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_RsC, times, position_Rs)
            past_k, past_v = cache.keys_values(layer)
            if commit:
                cache.write(layer, k, v)
            seen_k = torch.cat([past_k.to(k.dtype), k[:batch]], dim=2)
            seen_v = torch.cat([past_v.to(v.dtype), v[:batch]], dim=2)
            attended = attend(q[:batch], seen_k, seen_v, mask)
            if len(q) > batch:
                alone = attend(q[batch:], k[batch:], v[batch:], None)
                attended = torch.cat([attended, alone], dim=0)
            x_RsC = block.finish(x_RsC, attended, times)
        return x_RsC

    def times_zero(self, like: Tensor) -> Times:
        """The one timestep of everything clean."""
        return Times(self.emb_in(like.new_zeros(1, 1)))

    def velocity(self, x_BnC: Tensor, times: Times) -> Tensor:
        """Output LayerNorm (affine), AdaLN, Linear."""
        shift_scale = times.spread(self.txt_out_ada(times.emb_BKC), x_BnC.shape[1])
        shift, scale = shift_scale.chunk(2, dim=-1)
        return self.txt_out(self.txt_out_norm(x_BnC) * (1 + scale) + shift)

    def new_cache(self, batch: int, capacity: int, like: Tensor) -> KVCache:
        """An empty cache for `capacity` latents a sample."""
        config = self.config
        return KVCache(
            config.num_layers,
            batch,
            config.heads,
            capacity,
            config.head_dim,
            like.device,
            like.dtype,
        )


AutoConfig.register(DiTConfig.model_type, DiTConfig)
AutoModel.register(DiTConfig, ColaDiT)
