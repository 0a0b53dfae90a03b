"""Stage 2, the VAE and the DiT together (model.md, Eq. 14).

Shapes: B batch, L tokens, n latents, d latent width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.text_vae import Encoder
from cola.objectives.prior_training import PriorTraining
from cola.objectives.vae import Posterior, vae_draws, vae_terms
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, VAEObjective

RESTING_NOISE = "resting_noise"  # the posterior's noise in a step that does not train the VAE


def joint_draws(
    model: ColaDLM,
    stage1: VAEObjective,
    stage2: JointObjective,
    tokens_BL: Tensor,
    stream: Stream,
    *,
    prior: PriorTraining,
    positions: Sequence[int],
    global_size: int,
    stage_step: int,
) -> dict[str, Tensor]:
    """Random inputs of `joint_loss` in a step of the stage."""
    config = model.vae.config
    latents = tokens_BL.shape[1] // config.patch_size
    shape = (len(tokens_BL), latents, config.latent_dim)
    draws = prior.draws(
        shape,
        stream=stream,
        positions=positions,
        global_size=global_size,
        stage_step=stage_step,
    )
    if not stage2.trains_vae(stage_step):
        return {**draws, RESTING_NOISE: stream.normal("posterior", latents, config.latent_dim)}
    return {**draws, **vae_draws(model.vae, stage1, tokens_BL, stream=stream)}


def joint_loss(
    model: ColaDLM,
    reference: Encoder | None,
    stage1: VAEObjective,
    stage2: JointObjective,
    tokens_BL: Tensor,
    draws: dict[str, Tensor],
    *,
    prior: PriorTraining,
) -> dict[str, Tensor]:
    """The loss and its parts; `gradient_mode` decides which of them reach the VAE.

    Where the VAE rests, the loss is the prior's alone and nothing of the VAE is differentiated.
    """
    if RESTING_NOISE in draws:
        with torch.no_grad():
            posterior = Posterior(*model.vae.encoder(tokens_BL))
            z0 = posterior.sample(draws[RESTING_NOISE])
        terms = {"log_snr": posterior.log_snr()}
        loss = z0.new_zeros(())
    else:
        terms, posterior, z0 = vae_terms(model.vae, stage1, tokens_BL, draws=draws, whole_text=True)
        loss = stage2.lambda_vae * _vae_part(model, stage1, terms, posterior=posterior, z0=z0)
    z0 = model.to_dit(z0)
    if not stage2.reaches_latents:
        z0 = z0.detach()
    found = prior.loss(z0, draws)
    terms |= found.terms
    loss = loss + found.added + stage2.fm_weight(model.vae.config.latent_dim) * found.value
    if reference is not None and RESTING_NOISE not in draws:
        with torch.no_grad():
            anchor = Posterior(*reference(tokens_BL))
        terms["reference_kl"] = kl_between(posterior, anchor) / model.vae.config.patch_size
        loss = loss + stage2.lambda_ref * terms["reference_kl"]
    return {"loss": loss, **terms}


def kl_between(q: Posterior, r: Posterior) -> Tensor:
    """KL(q || r) of diagonal Gaussians (model.md, Eq. 15), nats, mean over all latents."""
    square = (q.mean - r.mean).square() + q.log_variance.exp()
    kl = 0.5 * (r.log_variance - q.log_variance - 1 + square * (-r.log_variance).exp())
    return kl.sum(-1).mean()


def _vae_part(
    model: ColaDLM,
    stage1: VAEObjective,
    terms: dict[str, Tensor],
    *,
    posterior: Posterior,
    z0: Tensor,
) -> Tensor:
    """The bracket of model.md, Eq. 14; the prior's part of the KL is L_FM's."""
    negative_entropy = posterior.log_density(z0).mean() / model.vae.config.patch_size
    terms["log_q"] = negative_entropy
    loss = terms["reconstruction"] + stage1.beta * negative_entropy
    if "masked" in terms:
        loss = loss + stage1.lambda_mask * terms["masked"]
    return loss
