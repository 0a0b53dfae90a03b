"""Blocks of latents from a prior, behind a cached prefix: one sampler for each kind of prior.

Shapes: B batch, s latents a block, d latent width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cola.models.adaln import CachedTimestep, TimestepEmbeddings, TimestepTable
from cola.models.dit import BlockCausalDiT
from cola.models.kv_cache import KVCache
from cola.models.latents.drifting import DriftingDiT
from cola.models.latents.mixture import MixtureDiT
from cola.sampling.first_block import KnownBlock
from cola.sampling.ode import evaluation_times, integrate, time_grid
from cola.spec import GenerationSpec


class BlockSampler(Protocol):
    """What makes the next block of every row."""

    def __call__(self, known: KnownBlock | None, noise_Bsd: Tensor, cache: KVCache) -> Tensor:
        """Latents (B, s, d) behind the cache's prefix; known ones (None: there are none) stay as
        they are. `noise_Bsd` are the row's own random numbers, N(0, 1)."""


def block_sampler(dit: BlockCausalDiT, settings: GenerationSpec, like: Tensor) -> BlockSampler:
    """The sampler of the prior that the network is of, on the device of `like`."""
    if isinstance(dit, MixtureDiT):
        return MixtureSampler(dit, like)
    if isinstance(dit, DriftingDiT):
        return FlowSampler(dit, settings.in_one_pass(), like)
    return FlowSampler(dit, settings, like)


class MixtureSampler:
    """Draws a block from its mixture, in one pass (model.md, Eq. 64)."""

    def __init__(self, dit: MixtureDiT, like: Tensor) -> None:
        one_11 = like.new_ones(1, 1)
        self._dit, self._time = dit, CachedTimestep(TimestepTable(dit.embed_times(one_11)), 0)

    def __call__(self, known: KnownBlock | None, noise_Bsd: Tensor, cache: KVCache) -> Tensor:
        """See `BlockSampler`; known latents decide on the others as the mixture says."""
        rotary, empty_Bsd = self._dit.block_rotary(cache), torch.zeros_like(noise_Bsd[..., :-1])
        numbers, _ = self._dit.denoise(empty_Bsd, self._time, rotary, cache=cache, guided=False)
        mixture = self._dit.read(numbers)
        if known is None:
            return mixture.sample(noise_Bsd)
        return mixture.sample(noise_Bsd, known.z_Bsd, known.known_Bs)


class FlowSampler:
    """Integrates a block from noise by the settings' solver (model.md, Eqs. 19 to 21)."""

    def __init__(self, dit: BlockCausalDiT, settings: GenerationSpec, like: Tensor) -> None:
        self._dit, self._settings = dit, settings
        self._timesteps = SolverTimesteps(dit, settings, like)

    def __call__(self, known: KnownBlock | None, noise_Bsd: Tensor, cache: KVCache) -> Tensor:
        """See `BlockSampler`."""
        return denoise_block(
            self._dit,
            known,
            self._settings,
            z1_Bsd=noise_Bsd,
            cache=cache,
            solver_timesteps=self._timesteps,
        )


class SolverTimesteps:
    """Embeddings of the solver's times, cached because every block passes the same ones."""

    def __init__(self, dit: BlockCausalDiT, settings: GenerationSpec, like: Tensor) -> None:
        self._dit, self._like = dit, like
        self.grid = time_grid(settings.time_grid, settings.steps)
        times = sorted(set(evaluation_times(self.grid, settings.solver)))
        t_1K = like.new_tensor([times])
        table = TimestepTable(dit.embed_times(t_1K), t_1K)
        self._cached = {t: CachedTimestep(table, index) for index, t in enumerate(times)}

    def uniform(self, t: float) -> TimestepEmbeddings:
        """All latents at time t, which must be one of the solver's."""
        return self._cached[t]

    def with_clean(self, t: float, clean_Bs: Tensor) -> TimestepEmbeddings:
        """Clean latents at time 0, the others at time t."""
        return self._dit.timesteps(self._like.new_full((1, 1), t), clean_Bs)


def denoise_block(
    dit: BlockCausalDiT,
    known: KnownBlock | None,
    settings: GenerationSpec,
    *,
    z1_Bsd: Tensor,
    cache: KVCache,
    solver_timesteps: SolverTimesteps,
) -> Tensor:
    """Latents (B, s, d) of one block behind the cached prefix, integrated from the noise z1.

    With guidance (model.md, Eq. 20); where the prefix is empty it has no effect. Known latents
    (None: there are none) are pinned (model.md, Eq. 21): clean repaint holds them at z0 and
    timestep 0 in every evaluation, partial repaint at their own z_t and time t.
    """
    guided = settings.guidance_scale != 1.0
    clean = settings.first_block != "partial_repaint"
    rotary = dit.block_rotary(cache)

    def pinned(z: Tensor, t: float, known: KnownBlock) -> Tensor:
        held = known.z_Bsd if clean else (1 - t) * known.z_Bsd + t * z1_Bsd
        return torch.where(known.known_Bs[..., None], held, z)

    def velocity(z: Tensor, t: float) -> Tensor:
        timesteps = solver_timesteps.uniform(t)
        if known is not None:
            z = pinned(z, t, known)
            if clean:
                timesteps = solver_timesteps.with_clean(t, known.known_Bs)
        conditional, alone = dit.denoise(z, timesteps, rotary, cache=cache, guided=guided)
        return alone + settings.guidance_scale * (conditional - alone) if guided else conditional

    z = integrate(velocity, z1_Bsd, solver_timesteps.grid, solver=settings.solver)
    return z if known is None else pinned(z, 0.0, known)
