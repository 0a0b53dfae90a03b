"""Velocity fields of blocks of latents, by a block-causal transformer (model.md, Eqs. 2, 3, 8, 16
and 17): the trunk, and Cola DLM's prior.

Parameter names and shapes are the public release's. Shapes: B batch, n latents, d latent width,
b = n / block_size blocks, C width, H heads, D head width, K distinct timesteps of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from cola.models.adaln import Narrowing, TimestepEmbeddings, latent_times, modulate
from cola.models.dit_config import DiTConfig
from cola.models.dit_layers import (
    ROPE_THETA,
    DiTBlock,
    LatentProjection,
    OutputAdaLN,
    RotaryFrequencies,
)
from cola.models.execution import emptied, filled, run_block
from cola.models.flex import block_causal_layout, noisy_layout
from cola.models.kv_cache import KVCache
from cola.models.layers import (
    LayerNorm,
    TimestepEmbedding,
    activation_dtype,
    attend,
    inverse_frequencies,
    rotations,
)
from cola.models.masks import block_causal_mask, noisy_chunks
from cola.models.text_vae import init_normal

T = 1000.0  # the network sees timestep T * t, as in the release


class BlockCausalDiT(PreTrainedModel):
    """The transformer without what it says of its features: `velocity` is the subclasses'."""

    config_class: type[DiTConfig] = DiTConfig
    base_model_prefix = ""
    # (features (B, n, C), z (B, n, d), timesteps) -> velocity (B, n, d) of latents at their times,
    # or what another kind of prior reads off them, as wide as that is.
    velocity: Callable[[Tensor, Tensor, TimestepEmbeddings], Tensor]

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.txt_in = LatentProjection(config.txt_in_channels, config.txt_dim)
        if config.self_conditioning:
            self.estimate_in = nn.Linear(config.txt_in_channels, config.txt_dim, bias=False)
        self.emb_in = TimestepEmbedding(config.emb_dim)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.num_layers))
        self.txt_out_norm = LayerNorm(config.txt_dim, eps=config.norm_eps)
        self.txt_out_ada = OutputAdaLN(config)
        self.use_flex: bool | None = None

    @property
    def layers(self) -> list[DiTBlock]:
        """The blocks in order."""
        return [cast(DiTBlock, block) for block in self.blocks]

    def rotary(self, position: Tensor) -> Tensor:
        """Rotations of the rotary embedding for all layers, whose frequencies agree."""
        return rotations(self.layers[0].msa.rope.rope(position), self.config.head_dim)

    def uses_flex(self, device: torch.device) -> bool:
        """Whether the training pass uses FlexAttention (`use_flex` None: on CUDA)."""
        return device.type == "cuda" if self.use_flex is None else self.use_flex

    def _init_weights(self, module: nn.Module) -> None:
        init_normal(module, self.config.init_std)
        if isinstance(module, Narrowing):
            module.draw()
        if isinstance(module, RotaryFrequencies):
            with torch.no_grad():
                module.freqs.copy_(inverse_frequencies(2 * len(module.freqs), ROPE_THETA))

    def forward(
        self,
        z0_Bnd: Tensor,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        *,
        clean_Bn: Tensor | None = None,
        refined: bool = False,
    ) -> Tensor:
        """Velocity (B, n, d) of the noisy copy in one pass on [clean | noisy] (model.md, Eq. 8).

        t_BK: times in [0, 1], one for each run of n / K latents (a sequence, a block or a latent).
        Where `clean_Bn` is True, a latent of the noisy copy is at time 0. `refined`: with an
        estimate by a first pass (model.md, Eq. 58), which no gradient reaches.
        """
        history, estimate = self.clean_history(z0_Bnd), None
        if self.config.self_conditioning:  # its weights take part in every step of an optimiser
            estimate = torch.zeros_like(zt_Bnd)
        if refined:
            with without_gradients(zt_Bnd.device.type):
                estimate = self._estimate(zt_Bnd, t_BK, history, clean_Bn=clean_Bn)
        return self._noisy_velocity(zt_Bnd, t_BK, history, clean_Bn=clean_Bn, estimate_Bnd=estimate)

    def clean_history(self, z0_Bnd: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (B, H, n - block_size, D) of the clean copy, per layer.

        Clean queries see clean keys only, so the clean copy is independent of the noisy one. Its
        last block and its last layer's output are never read, and are left out. Rows are filled up
        as those of `noisy_pass` are.
        """
        size, device, z0_Bnd = self.config.block_size, z0_Bnd.device, filled(z0_Bnd)
        length = z0_Bnd.shape[1] - size
        rotary = self.rotary(torch.arange(length, device=device))
        flex = self.uses_flex(device) and length > 0
        layout = block_causal_layout(length, size, device) if flex else None
        mask = block_causal_mask(length, size, device) if layout is None else None
        timesteps, x_BmC = self.timestep_zero(z0_Bnd), self.embed(z0_Bnd[:, :length])
        history: list[tuple[Tensor, Tensor]] = []
        for block in self.layers[:-1] if length else ():
            x_BmC, k, v = run_block(
                DiTBlock.clean, block, x_BmC, timesteps, rotary, mask=mask, layout=layout
            )
            history.append((k, v))
        for block in self.layers[len(history) :]:
            history.append(run_block(DiTBlock.keys_values, block, x_BmC, timesteps, rotary))
        return history

    def noisy_pass(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        *,
        clean_Bn: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, n, d) of every noisy block given the clean blocks before it.

        `history` is what `clean_history` returns. See `forward` for the rest. With
        self-conditioning there are two passes, through both of which gradients go.
        """
        estimate = None
        if self.config.self_conditioning:
            estimate = self._estimate(zt_Bnd, t_BK, history, clean_Bn=clean_Bn)
        return self._noisy_velocity(zt_Bnd, t_BK, history, clean_Bn=clean_Bn, estimate_Bnd=estimate)

    def _estimate(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        *,
        clean_Bn: Tensor | None,
    ) -> Tensor:
        """The clean latents by the velocity of a pass without an estimate (model.md, Eq. 57)."""
        velocity = self._noisy_velocity(zt_Bnd, t_BK, history, clean_Bn=clean_Bn)
        return zt_Bnd - latent_times(t_BK, zt_Bnd.shape[1], clean_Bn) * velocity

    def _noisy_velocity(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        *,
        clean_Bn: Tensor | None,
        estimate_Bnd: Tensor | None = None,
    ) -> Tensor:
        """The velocity by one pass, given an estimate of the clean latents or none."""
        features_BnC, timesteps = self._noisy_features(
            zt_Bnd, t_BK, history, clean_Bn=clean_Bn, estimate_Bnd=estimate_Bnd
        )
        return emptied(self.velocity(features_BnC, filled(zt_Bnd), timesteps), len(zt_Bnd))

    def noisy_features(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        *,
        clean_Bn: Tensor | None = None,
    ) -> Tensor:
        """What `noisy_pass` reads the velocity off, (B, n, C)."""
        features_BnC, _ = self._noisy_features(zt_Bnd, t_BK, history, clean_Bn=clean_Bn)
        return emptied(features_BnC, len(zt_Bnd))

    def _noisy_features(
        self,
        zt_Bnd: Tensor,
        t_BK: Tensor,
        history: list[tuple[Tensor, Tensor]],
        *,
        clean_Bn: Tensor | None,
        estimate_Bnd: Tensor | None = None,
    ) -> tuple[Tensor, TimestepEmbeddings]:
        """Features of the noisy copy, and its timesteps, of rows that are filled up."""
        size, length, device = self.config.block_size, zt_Bnd.shape[1], zt_Bnd.device
        rotary = self.rotary(torch.arange(length, device=device))
        layout = noisy_layout(length, size, device) if self.uses_flex(device) else None
        chunks = noisy_chunks(length, size, device) if layout is None else ()
        clean_Bn = None if clean_Bn is None else filled(clean_Bn)
        timesteps = self.timesteps(filled(t_BK), clean_Bn)
        x_BnC = self.embed(filled(zt_Bnd))
        if estimate_Bnd is not None:
            x_BnC = x_BnC + self.embed_estimate(filled(estimate_Bnd))
        for block, past in zip(self.layers, history, strict=True):
            x_BnC = run_block(
                DiTBlock.noisy, block, x_BnC, past, timesteps, rotary, chunks=chunks, layout=layout
            )
        return self.features(x_BnC, timesteps), timesteps

    def block_rotary(self, cache: KVCache) -> Tensor:
        """Rotations of the block behind the cache; batch size 1 where all samples are as long."""
        return self.rotary(cache.positions(self.config.block_size))

    def denoise(
        self,
        z_Bsd: Tensor,
        timesteps: TimestepEmbeddings,
        rotary: Tensor,
        *,
        cache: KVCache,
        guided: bool,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of one block behind the cached prefix and of the block alone, (B, s, d) each.

        These are v_cond and v_alone of model.md, Eq. 20, from one pass over 2 B rows; with
        self-conditioning from two, each velocity with its own estimate. Without `guided` there is
        one velocity, returned twice. `rotary` (see `block_rotary`) serves both: the block alone
        depends on distances between positions only.
        """
        found = self._block_velocities(z_Bsd, timesteps, rotary, cache=cache, guided=guided)
        if not self.config.self_conditioning:
            return found
        t_Bs1 = timesteps.times(z_Bsd.shape[1])
        estimates = [z_Bsd - t_Bs1 * velocity for velocity in (found if guided else found[:1])]
        return self._block_velocities(
            z_Bsd, timesteps, rotary, cache=cache, guided=guided, estimate=torch.cat(estimates)
        )

    def _block_velocities(
        self,
        z_Bsd: Tensor,
        timesteps: TimestepEmbeddings,
        rotary: Tensor,
        *,
        cache: KVCache,
        guided: bool,
        estimate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `denoise`: one pass, with estimates (B or 2 B, s, d) of the clean block or none."""
        batch, x_BsC = len(z_Bsd), self.embed(z_Bsd)
        view = cache.view(z_Bsd.shape[1], self.config.block_size)
        apart = guided and estimate is not None  # rows behind the prefix, and of the block alone
        if apart:
            x_BsC, timesteps, rotary = _twice(x_BsC, timesteps, rotary)
        if estimate is not None:
            x_BsC = x_BsC + self.embed_estimate(estimate)
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_BsC, timesteps, rotary)
            if guided and not apart:  # both are the same up to the first attention
                x_BsC, timesteps, rotary = _twice(x_BsC, timesteps, rotary)
                apart = True
            seen_k, seen_v = view.update(k[:batch], v[:batch], layer)
            heads, width = q.shape[1], q.shape[3]
            attended = q.new_empty(*x_BsC.shape[:2], heads, width)
            behind = attend(q[:batch], seen_k.to(q.dtype), seen_v.to(q.dtype), mask=view.mask)
            attended[:batch] = behind.transpose(1, 2)
            if guided:
                alone = attend(q[-batch:], k[-batch:], v[-batch:], mask=None)
                attended[batch:] = alone.transpose(1, 2)
            x_BsC = block.finish(x_BsC, attended.transpose(1, 2), timesteps)
        z_Bsd = torch.cat([z_Bsd, z_Bsd]) if guided else z_Bsd
        velocity = self.velocity(self.features(x_BsC, timesteps), z_Bsd, timesteps)
        return velocity[:batch], velocity[-batch:]

    def commit(self, z_Bmd: Tensor, cache: KVCache, counts: Sequence[int]) -> None:
        """Append clean latents to the cache: the first `counts[i]` (whole blocks) of sample i."""
        if z_Bmd.shape[1]:
            self.write_clean(z_Bmd, cache)
            cache.advance(counts)

    def write_clean(self, z_Bmd: Tensor, cache: KVCache) -> None:
        """Write clean latents behind the cached ones, for `KVCache.advance` to keep."""
        length, size = z_Bmd.shape[1], self.config.block_size
        rotary, view = self.rotary(cache.positions(length)), cache.view(length, size)
        timesteps, x_BmC = self.timestep_zero(z_Bmd), self.embed(z_Bmd)
        for layer, block in enumerate(self.layers):
            q, k, v = block.qkv(x_BmC, timesteps, rotary)
            seen_k, seen_v = view.update(k, v, layer)
            if layer < len(self.layers) - 1:  # the last layer's output is never read
                attended = attend(q, seen_k.to(q.dtype), seen_v.to(q.dtype), mask=view.mask)
                x_BmC = block.finish(x_BmC, attended, timesteps)

    def embed(self, z_Bnd: Tensor) -> Tensor:
        """Latents (float32 outside the networks) -> (B, n, C) in the type of the weights."""
        embedded: Tensor = self.txt_in(z_Bnd.to(self.txt_in.proj.weight.dtype))
        return embedded

    def embed_estimate(self, z_Bnd: Tensor) -> Tensor:
        """What an estimate of clean latents adds to the noisy ones' embedding, (B, n, C)."""
        embedded: Tensor = self.estimate_in(z_Bnd.to(self.estimate_in.weight.dtype))
        return embedded

    def timestep_zero(self, like: Tensor) -> TimestepEmbeddings:
        """The timestep of clean latents, on the device of `like`."""
        return self.timesteps(like.new_zeros(1, 1))

    def timesteps(self, t_BK: Tensor, clean_Bn: Tensor | None = None) -> TimestepEmbeddings:
        """Embeddings of times in [0, 1]; see `forward` for the arguments."""
        zero = None if clean_Bn is None else self.embed_times(t_BK.new_zeros(1, 1))
        return TimestepEmbeddings(self.embed_times(t_BK), zero, clean_Bn, t_BK=t_BK)

    def embed_times(self, t_BK: Tensor) -> Tensor:
        """Times in [0, 1] -> (B, K, C) (model.md, Eq. 16)."""
        timestep_BK = T * t_BK
        if self.config.timestep_dtype == "bfloat16":
            timestep_BK = timestep_BK.bfloat16().float()
        embedded: Tensor = self.emb_in(timestep_BK)
        return embedded

    def features(self, x_BnC: Tensor, timesteps: TimestepEmbeddings) -> Tensor:
        """LayerNorm with affine parameters, then AdaLN: (B, n, C) -> (B, n, C)."""
        return modulate(self.txt_out_norm(x_BnC), timesteps, self.txt_out_ada.out_in)

    def new_cache(
        self, batch: int, capacity: int, like: Tensor, *, step: int | None = None
    ) -> KVCache:
        """An empty cache for `capacity` latents per sample, on the device of `like`."""
        config = self.config
        return KVCache(
            config.num_layers,
            batch,
            config.heads,
            capacity=capacity,
            head_dim=config.head_dim,
            device=like.device,
            dtype=activation_dtype(self.txt_in.proj.weight),
            step=step,
        )


def _twice(
    x_BsC: Tensor, timesteps: TimestepEmbeddings, rotary: Tensor
) -> tuple[Tensor, TimestepEmbeddings, Tensor]:
    """The batch concatenated with itself; rotations of batch size 1 serve any."""
    rotary = rotary if len(rotary) == 1 else torch.cat([rotary, rotary])
    return torch.cat([x_BsC, x_BsC]), timesteps.repeat_batch(), rotary


@contextmanager
def without_gradients(device: str) -> Iterator[None]:
    """No gradients, and no weights that autocast casts meanwhile: it would keep them for passes
    with gradients, which then would not reach the weights."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.no_grad(), torch.autocast(device, dtype, enabled=enabled, cache_enabled=False):
        yield


class ProjectedDiT(BlockCausalDiT):
    """A prior whose output is a linear map of the features."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.txt_out = LatentProjection(config.txt_dim, config.txt_out_channels)
        self.post_init()

    def velocity(
        self, features_BnC: Tensor, z_Bnd: Tensor, timesteps: TimestepEmbeddings
    ) -> Tensor:
        """What the projection says of each latent, (B, n, C) -> (B, n, `txt_out_channels`)."""
        projected: Tensor = self.txt_out(features_BnC)
        return projected


class ColaDiT(ProjectedDiT):
    """The velocity field v_psi as a Hugging Face model with the release's parameter names."""


AutoConfig.register(DiTConfig.model_type, DiTConfig)
AutoModel.register(DiTConfig, ColaDiT)
