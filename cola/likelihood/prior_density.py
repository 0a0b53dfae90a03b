"""The density of clean latents under a prior, by block: one form for each kind of prior.

Shapes: B batch, n latents, d latent width, b blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.errors import SpecError
from cola.likelihood.diffusion_bound import diffusion_bound_by_block
from cola.likelihood.flow_density import flow_density_by_block
from cola.models.dit import BlockCausalDiT
from cola.models.latents.drifting import DriftingDiT
from cola.models.latents.mixture import MixtureDiT
from cola.models.layers import KeysValues
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


@dataclass(frozen=True)
class PriorNLL:
    """-log p(z) by block in nats, (B, b) float64 each.

    solver_difference_Bb: what a finer solution takes from it, 0 where nothing is solved.
    diffusion_Bb: an upper bound by the diffusion in its place (None: not asked for, or none).
    """

    nll_Bb: Tensor
    solver_difference_Bb: Tensor
    diffusion_Bb: Tensor | None


def prior_nll_by_block(
    dit: BlockCausalDiT,
    z_Bnd: Tensor,
    history: list[KeysValues],
    *,
    settings: LikelihoodSpec,
    stream: Stream,
    suffix: str,
    scale: float,
    diffusion_times: int,
) -> PriorNLL:
    """The density of latents behind their own `history` (see `BlockCausalDiT.clean_history`).

    Nothing of a mixture is solved: its density is its own (model.md, Eq. 61).

    Raises:
        SpecError: the prior is a generator, which has none.

    `suffix` sets the draws of one sample of the latents apart, `scale` is `latent_scale`.
    `diffusion_times`: times a block at which the diffusion's bound is measured (0: it is left out).
    """
    if isinstance(dit, DriftingDiT):
        raise SpecError(
            "this model has no likelihood: its prior is a generator (prior.kind=drifting); compare "
            "it by the tasks predictive and continuation"
        )
    if isinstance(dit, MixtureDiT):
        with torch.no_grad():
            nll_Bb = -dit.mixture(z_Bnd.shape, history).log_density(z_Bnd).double()
        return PriorNLL(nll_Bb, torch.zeros_like(nll_Bb), None)
    block = dit.config.block_size

    def velocity(z_Bnd: Tensor, t: float | Tensor) -> Tensor:
        t_BK = t if isinstance(t, Tensor) else z_Bnd.new_full((len(z_Bnd), 1), t)
        return dit.noisy_pass(z_Bnd, t_BK, history).float()

    density = flow_density_by_block(
        velocity,
        z_Bnd,
        settings.ode_steps,
        divergence=settings.divergence,
        probe_Bnd=trace_probe(settings.probe, f"probe{suffix}", z_Bnd.shape[1:], stream=stream),
        block=block,
        scale=scale,
    )
    diffusion_Bb = None
    if diffusion_times:
        with torch.no_grad():
            diffusion_Bb = diffusion_bound_by_block(
                velocity, z_Bnd, diffusion_times, stream=stream, block=block, scale=scale
            )
    return PriorNLL(-density.extrapolated, density.difference, diffusion_Bb)


def trace_probe(kind: str, purpose: str, shape_nd: Sequence[int], *, stream: Stream) -> Tensor:
    """Probe e (B, n, d) of model.md, Eq. 25: random signs (rademacher) or N(0, I) (gaussian).

    Both have E[e e^T] = I; signs give the estimate less variance.
    """
    if kind == "gaussian":
        return stream.normal(purpose, *shape_nd)
    return stream.uniform(purpose, *shape_nd).round() * 2 - 1
