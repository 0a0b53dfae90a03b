"""The evidence bound of models with latents: Cola DLM's (model.md, Eq. 23), where blocks see tokens
that of model.md, Eq. 50, and its importance-weighted form (model.md, Eq. 26).

The prior's density is the flow's (model.md, Eq. 24); `diffusion_evidence` is the bound with the
diffusion's in its place (model.md, Eq. 38).
Shapes: B batch, L tokens, n latents, d latent width, s latents a block, b blocks, K samples of z0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.compute.channel import noise_scale
from cola.likelihood.flow_density import by_block
from cola.likelihood.prior_density import prior_nll_by_block
from cola.models.latents.latent_model import LatentModel
from cola.objectives.vae import Posterior
from cola.records import (
    DIFFUSION_BOUND,
    DISTORTION,
    LATENT_MEAN,
    LATENT_SQUARE,
    PRIOR_COST,
    RATE,
    SOLVER_DIFFERENCE,
    SOLVER_NLL_DIFFERENCE,
)
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


@dataclass(frozen=True)
class Evidence:
    """The evidence bound of one sample of z0, by block of latents in nats, (B, b) float64 each.

    parts: "reconstruction" is -log p(x|z0), "prior" -log p_psi(z0), "posterior" log q(z0|x); their
    sum is the bound. solver_difference_Bb: what the finer solution of the flow takes from "prior",
    before extrapolation. diffusion_prior_Bb: "prior" of the diffusion instead of the flow, an upper
    bound (None: not asked for).
    """

    parts: dict[str, Tensor]
    solver_difference_Bb: Tensor
    diffusion_prior_Bb: Tensor | None
    z0_Bnd: Tensor

    @property
    def nll(self) -> Tensor:
        """The bound, (B, b)."""
        return torch.stack(list(self.parts.values())).sum(0)

    def measurements(self, length: int) -> dict[str, Tensor]:
        """Rate, distortion and the rest, (B,) each, in the units of their names; `length` tokens.

        The rate is what prior and posterior make up, the distortion the reconstruction: their sum
        is the bound (model.md, Eq. 39).
        """
        latents, width = self.z0_Bnd.shape[1:]
        sums = {name: value_Bb.sum(1) for name, value_Bb in self.parts.items()}
        rate_B = sums["prior"] + sums["posterior"]
        found = {
            f"{RATE}_nats_per_token": rate_B / length,
            f"{DISTORTION}_nats_per_token": sums["reconstruction"] / length,
            PRIOR_COST: sums["prior"] / (latents * width),
            SOLVER_NLL_DIFFERENCE: self.solver_difference_Bb.sum(1) / length,
            SOLVER_DIFFERENCE: self.solver_difference_Bb.sum(1) / latents,
        }
        if self.diffusion_prior_Bb is not None:
            more_B = self.diffusion_prior_Bb.sum(1) - sums["prior"]
            found[f"{DIFFUSION_BOUND}_nats_per_token"] = (self.nll.sum(1) + more_B) / length
        return found


@dataclass(frozen=True)
class ImportanceBound:
    """nll_B = -log (1/K) sum_k w_k (model.md, Eq. 26), and log w_k (B, K), in nats, float64.

    solver_difference_B: what the finer solutions of the flow take from it, in nats a latent.
    """

    nll_B: Tensor
    log_weights_BK: Tensor
    solver_difference_B: Tensor

    def effective_samples(self) -> Tensor:
        """(sum w)^2 / sum w^2, (B,), 1 to K; near 1, more samples would tighten the bound much."""
        share_BK = self.log_weights_BK.softmax(1)
        return 1 / share_BK.square().sum(1)


def evidence_by_block(
    model: LatentModel,
    tokens_BL: Tensor,
    settings: LikelihoodSpec,
    *,
    stream: Stream,
    sample: int = 0,
    real_BL: Tensor | None = None,
    diffusion_times: int = 0,
) -> Evidence:
    """The evidence bound for one sample of z0, which differs by the number `sample`.

    The flow is solved with `ode_steps` steps and with twice as many, and extrapolated. Tokens where
    `real_BL` is False are encoded but not predicted. `diffusion_times`: times a block at which the
    diffusion's bound is measured (0: it is left out).
    """
    suffix = f"/{sample}" if sample else ""
    block = model.dit.config.block_size
    with torch.no_grad():
        posterior = Posterior(*model.codec.encoder(tokens_BL))
        latents, width = posterior.mean.shape[1:]
        z0 = posterior.sample(stream.normal(f"posterior{suffix}", latents, width))
        nll_BL = model.codec.decoder.token_nll(z0, tokens_BL)
        if real_BL is not None:
            nll_BL = nll_BL * real_BL
        z = model.to_dit(z0)
        history = model.dit.clean_history(model.as_history(z, tokens_BL))

    found = prior_nll_by_block(
        model.dit,
        z,
        history,
        settings=settings,
        stream=stream,
        suffix=suffix,
        scale=latent_scale(model),
        diffusion_times=diffusion_times,
    )
    # The density of z0 rather than of z: change of variables of the border (model.md, Eq. 18).
    border = block * width * math.log(model.codec.config.scaling_factor)
    diffusion_Bb = found.diffusion_Bb
    parts = {
        "reconstruction": by_block(nll_BL.double(), model.tokens_per_block),
        "prior": found.nll_Bb - border,
        "posterior": by_block(posterior.log_density(z0).double(), block),
    }
    return Evidence(
        parts,
        found.solver_difference_Bb,
        None if diffusion_Bb is None else diffusion_Bb - border,
        z0,
    )


def latent_moments(z0_Bnd: Tensor) -> dict[str, Tensor]:
    """First and second moments of each dimension over a sequence's latents, (B,) each."""
    z0_Bnd = z0_Bnd.double()
    moments = {LATENT_MEAN: z0_Bnd.mean(1), LATENT_SQUARE: z0_Bnd.square().mean(1)}
    return {
        f"{name}/{dimension}": value_Bd[:, dimension]
        for name, value_Bd in moments.items()
        for dimension in range(z0_Bnd.shape[2])
    }


def latent_scale(model: LatentModel) -> float:
    """See `noise_scale`."""
    config = model.codec.config
    return noise_scale(config.log_snr, config.scaling_factor)


def importance_weighted_bound(
    model: LatentModel, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
) -> ImportanceBound:
    """Upper bound of -log p(x) from K = `importance_samples` samples of z0 (model.md, Eq. 26).

    K = 1 is the evidence bound; the bound tightens with K.
    """
    samples = settings.importance_samples
    found = [
        evidence_by_block(model, tokens_BL, settings, stream=stream, sample=sample)
        for sample in range(samples)
    ]
    log_weights_BK = torch.stack([-evidence.nll.sum(1) for evidence in found], dim=1)
    nll_B = math.log(samples) - log_weights_BK.logsumexp(1)
    difference_BK = torch.stack([each.solver_difference_Bb.sum(1) for each in found], dim=1)
    latents = found[0].z0_Bnd.shape[1]
    difference_B = (log_weights_BK.softmax(1) * difference_BK).sum(1) / latents
    return ImportanceBound(nll_B, log_weights_BK, difference_B)
