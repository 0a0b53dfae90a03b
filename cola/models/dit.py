"""Block-causal diffusion transformer over latents, in the public release's layout (section 2).

Shapes: B batch, n latents, b = n / block_size blocks, d latent width, C width, H heads, D head
width, K distinct timesteps of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from cola.models.adaln import Times, gated, modulate, modulation
from cola.models.flex import attend_flex, block_causal_layout, noisy_layout
from cola.models.kv_cache import KVCache
from cola.models.layers import (
    TimestepEmbedding,
    activation_dtype,
    attend,
    attend_in_chunks,
    inverse_frequencies,
    merge_heads,
    rotary_angles,
    rotate_interleaved,
    rotations,
)
from cola.models.masks import block_causal_mask, noisy_chunks
from cola.models.text_vae import init_normal

T = 1000.0  # the network sees timestep T * t
ROPE_THETA = 10_000.0


class DiTConfig(PretrainedConfig):
    """Keys and defaults of the release's `cola_dit`; `timestep_dtype` is ours.

    "bfloat16" rounds 1000 t before it is embedded, as the release's code does (section 8).
    """

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
        timestep_dtype: str = "float32",
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
        self.timestep_dtype = timestep_dtype
        super().__init__(**kwargs)


class RotaryFrequencies(nn.Module):
    """Holds the frequencies where the release's checkpoints have them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.register_buffer("freqs", inverse_frequencies(width, ROPE_THETA))

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary angles of explicit positions."""
        if self.freqs.dtype == torch.float32:
            return rotary_angles(position, self.freqs)
        # A model with bfloat16 weights: frequencies rounded to it would turn late positions wrong.
        exact = inverse_frequencies(2 * len(self.freqs), ROPE_THETA).to(self.freqs.device)
        return rotary_angles(position, exact)


class Rotary(nn.Module):
    """One level of nesting that the release's parameter names have."""

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
        self.norm_q = nn.LayerNorm(config.head_dim, eps=config.norm_eps)
        self.norm_k = nn.LayerNorm(config.head_dim, eps=config.norm_eps)
        self.rope = Rotary(config.rope_dim)

    def qkv(self, x_BnC: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, n, D); `turns` are the rotary embedding's rotations."""
        q, k, v = self.proj_qkv(x_BnC).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        # Heads are moved forward last: norms and rotations are fast on contiguous memory.
        q = rotate_interleaved(self.norm_q(q), turns).transpose(1, 2)
        k = rotate_interleaved(self.norm_k(k), turns).transpose(1, 2)
        return q, k, v.transpose(1, 2)

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


class AdaLN(nn.Module):
    """Shift and scale on the way in, gate on the way out, for attention and MLP."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.msa_in = modulation(config.emb_dim, config.txt_dim, 2)
        self.msa_out = modulation(config.emb_dim, config.txt_dim, 1)
        self.mlp_in = modulation(config.emb_dim, config.txt_dim, 2)
        self.mlp_out = modulation(config.emb_dim, config.txt_dim, 1)


class DiTBlock(nn.Module):
    """One layer; its halves are separate so that callers decide who attends to whom."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.msa = SelfAttention(config)
        self.mlp = MLP(config)
        self.ada = AdaLN(config)

    def qkv(self, x_BnC: Tensor, times: Times, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the modulated input."""
        return self.msa.qkv(times.modulated(x_BnC, self.ada.msa_in, self.eps), turns)

    def finish(self, x_BnC: Tensor, attended_BHnD: Tensor, times: Times) -> Tensor:
        """Residual of the attention, then the MLP."""
        x_BnC = gated(x_BnC, self.msa.out(attended_BHnD), times, self.ada.msa_out)
        hidden = times.modulated(x_BnC, self.ada.mlp_in, self.eps)
        return gated(x_BnC, self.mlp(hidden), times, self.ada.mlp_out)


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
    """Shift and scale before the output projection, under the release's name."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.out_in = modulation(config.emb_dim, config.txt_dim, 2)


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
        self.use_flex: bool | None = None
        self.post_init()

    @property
    def layers(self) -> list[DiTBlock]:
        """The blocks in order."""
        return [cast(DiTBlock, block) for block in self.blocks]

    def turns(self, position: Tensor) -> Tensor:
        """Rotations of the rotary embedding, once for all layers: their frequencies agree."""
        return rotations(self.layers[0].msa.rope.rope(position), self.config.head_dim)

    def flex(self, device: torch.device) -> bool:
        """Whether the training pass takes FlexAttention (`use_flex` None: on CUDA)."""
        return device.type == "cuda" if self.use_flex is None else self.use_flex

    def _init_weights(self, module: nn.Module) -> None:
        init_normal(module, self.config.init_std)
        if isinstance(module, RotaryFrequencies):
            with torch.no_grad():
                module.freqs.copy_(inverse_frequencies(2 * len(module.freqs), ROPE_THETA))

    def forward(
        self, z0_Bnd: Tensor, zt_Bnd: Tensor, t_BK: Tensor, clean_Bn: Tensor | None = None
    ) -> Tensor:
        """Velocity of the noisy copy in one pass on [clean | noisy] (section 1).

        t_BK: times of the noisy copy, one for each run of n / K latents (a sequence, a block or a
        latent); where `clean_Bn` is True a latent is at time 0. Returns (B, n, d).
        """
        return self.noisy_pass(zt_Bnd, t_BK, self.clean_history(z0_Bnd), clean_Bn)

    def clean_history(self, z0_Bnd: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the clean copy, per layer.

        Clean queries see clean keys only, so the clean stream is independent of the noisy one.
        The last clean block is never read and is left out, as is the last layer's output.
        """
        size, device = self.config.block_size, z0_Bnd.device
        length = z0_Bnd.shape[1] - size
        turns = self.turns(torch.arange(length, device=device))
        layout = block_causal_layout(length, size, device) if self.flex(device) and length else None
        mask = block_causal_mask(length, size, device) if layout is None else None
        times, x_BmC = self.times_zero(z0_Bnd), self.embed(z0_Bnd[:, :length])
        history: list[tuple[Tensor, Tensor]] = []
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_BmC, times, turns)
            history.append((k, v))
            if layer < len(self.layers) - 1 and length:
                seen = attend(q, k, v, mask) if layout is None else attend_flex(q, k, v, layout)
                x_BmC = block.finish(x_BmC, seen, times)
        return history

    def noisy_pass(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        clean_Bn: Tensor | None = None,
    ) -> Tensor:
        """Velocity of every block of the noisy copy given the clean history before it."""
        size, length, device = self.config.block_size, zt_Bnd.shape[1], zt_Bnd.device
        turns = self.turns(torch.arange(length, device=device))
        layout = noisy_layout(length, size, device) if self.flex(device) else None
        chunks = noisy_chunks(length, size, device) if layout is None else ()
        times, x_BnC = self.times(t_BK, clean_Bn), self.embed(zt_Bnd)
        for block, past in zip(self.layers, history, strict=True):
            q, k, v = block.qkv(x_BnC, times, turns)
            if layout is None:
                seen = attend_in_chunks(q, past, (k, v), chunks)
            else:
                keys, values = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
                seen = attend_flex(q, keys, values, layout)
            x_BnC = block.finish(x_BnC, seen, times)
        return self.velocity(x_BnC, times)

    def block_turns(self, cache: KVCache) -> Tensor:
        """Rotations of the block behind the cache, (1, s, ...) where all samples are as long."""
        place = torch.arange(self.config.block_size, device=cache.length_B.device)
        if min(cache.lengths) == cache.filled:
            return self.turns(cache.filled + place)
        return self.turns(cache.length_B[:, None] + place)

    def denoise(
        self, z_Bsd: Tensor, times: Times, turns: Tensor, cache: KVCache, guided: bool
    ) -> tuple[Tensor, Tensor]:
        """Velocity of one block given the cached prefix, and of the block alone (for CFG).

        Both come from one batched pass of 2 B rows, [behind the prefix | alone]; without `guided`
        the second is the first. `turns` (see `block_turns`) serve both: only the distances between
        positions matter to a block alone. Up to the first attention both are the same.
        """
        batch = len(z_Bsd)
        x_BsC = self.embed(z_Bsd)
        mask = cache.mask(z_Bsd.shape[1])
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_BsC, times, turns)
            if guided and layer == 0:
                x_BsC, times = torch.cat([x_BsC, x_BsC]), times.twice()
                turns = turns if len(turns) == 1 else torch.cat([turns, turns])
            seen_k, seen_v = cache.behind(layer, k[:batch], v[:batch])
            heads, width = q.shape[1], q.shape[3]
            attended = q.new_empty(*x_BsC.shape[:2], heads, width)
            behind = attend(q[:batch], seen_k.to(q.dtype), seen_v.to(q.dtype), mask)
            attended[:batch] = behind.transpose(1, 2)
            if guided:
                alone = attend(q[-batch:], k[-batch:], v[-batch:], None)
                attended[batch:] = alone.transpose(1, 2)
            x_BsC = block.finish(x_BsC, attended.transpose(1, 2), times)
        velocity = self.velocity(x_BsC, times)
        return velocity[:batch], velocity[-batch:]

    def commit(self, z_Bmd: Tensor, cache: KVCache, counts: Sequence[int]) -> None:
        """Add clean latents to the cache, as many as said of each sample (whole blocks, padded)."""
        length = z_Bmd.shape[1]
        if length == 0:
            return
        place = torch.arange(length, device=z_Bmd.device)
        turns = self.turns(cache.length_B[:, None] + place)
        mask = cache.mask(length, block_causal_mask(length, self.config.block_size, z_Bmd.device))
        times, x_BmC = self.times_zero(z_Bmd), self.embed(z_Bmd)
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_BmC, times, turns)
            if layer < len(self.layers) - 1:  # the last layer's output is never read
                seen_k, seen_v = cache.behind(layer, k, v)
                attended = attend(q, seen_k.to(q.dtype), seen_v.to(q.dtype), mask)
                x_BmC = block.finish(x_BmC, attended, times)
            cache.write(layer, k, v)
        cache.advance(counts)

    def embed(self, z_Bnd: Tensor) -> Tensor:
        """Latents (float32 outside the networks) -> (B, n, C) in the type of the weights."""
        embedded: Tensor = self.txt_in(z_Bnd.to(self.txt_in.proj.weight.dtype))
        return embedded

    def times_zero(self, like: Tensor) -> Times:
        """The one timestep of everything clean."""
        return self.times(like.new_zeros(1, 1))

    def times(self, t_BK: Tensor, clean_Bn: Tensor | None = None) -> Times:
        """Embedded times in [0, 1]; see `Times`."""
        zero = None if clean_Bn is None else self.embed_times(t_BK.new_zeros(1, 1))
        return Times(self.embed_times(t_BK), zero, clean_Bn)

    def embed_times(self, t_BK: Tensor) -> Tensor:
        """(B, K, C) of times in [0, 1]."""
        timestep_BK = T * t_BK
        if self.config.timestep_dtype == "bfloat16":
            timestep_BK = timestep_BK.bfloat16().float()
        embedded: Tensor = self.emb_in(timestep_BK)
        return embedded

    def velocity(self, x_BnC: Tensor, times: Times) -> Tensor:
        """Output LayerNorm (affine), AdaLN, Linear."""
        return self.txt_out(modulate(self.txt_out_norm(x_BnC), times, self.txt_out_ada.out_in))

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
            activation_dtype(self.txt_in.proj.weight),
        )


AutoConfig.register(DiTConfig.model_type, DiTConfig)
AutoModel.register(DiTConfig, ColaDiT)
