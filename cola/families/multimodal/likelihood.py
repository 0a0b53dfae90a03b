"""Bounds of the NLL of texts and of images, each alone and behind the other (model.md, Eq. 73).

Shapes: B batch, L tokens, c channels, S pixels a side, n latents, d latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cola.compute.channel import noise_scale
from cola.likelihood.flow_density import flow_density_by_block
from cola.likelihood.prior_density import trace_probe
from cola.models.dit import ColaDiT
from cola.models.pairs.joint_pass import CleanPart, NoisyPart, joint_history, noisy_velocities
from cola.models.pairs.pair_model import PairModel
from cola.objectives.vae import Posterior
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


@dataclass(frozen=True)
class Encoded:
    """One modality of a batch: a sample of its latents, and what they cost beside the prior.

    z_Bnd: in the prior's normalisation, of standard deviation `scale` given the data. beside_B:
    -log p(data | z0) + log q(z0 | data) in nats, float64. name: of its draws.
    """

    name: str
    dit: ColaDiT
    z_Bnd: Tensor
    scale: float
    beside_B: Tensor


def encoded_text(model: PairModel, tokens_BL: Tensor, stream: Stream) -> Encoded:
    """The texts of a batch."""
    config = model.vae.config
    posterior = Posterior(*model.vae.encoder(tokens_BL))
    z0 = posterior.sample(stream.normal("posterior", *posterior.mean.shape[1:]))
    nll_B = model.vae.decoder.token_nll(z0, tokens_BL).double().sum(1)
    log_q_B = posterior.log_density(z0).double().sum(1)
    # The density of z0, not of what the prior sees of it (model.md, Eq. 18).
    border = torch.tensor(config.scaling_factor).double().log() * z0[0].numel()
    scale = noise_scale(config.log_snr, config.scaling_factor)
    return Encoded("text", model.dit, model.to_dit(z0), scale, nll_B + log_q_B - border)


def encoded_images(model: PairModel, images: Tensor, stream: Stream) -> Encoded:
    """The images of a batch."""
    posterior = Posterior(*model.image_vae.encoder(images))
    z0 = posterior.sample(stream.normal("image_posterior", *posterior.mean.shape[1:]))
    nll_B = model.image_vae.decoder.pixel_nll(z0, images).double().sum((1, 2, 3))
    log_q_B = posterior.log_density(z0).double().sum(1)
    return Encoded("image", model.image_dit, z0, noise_scale(None, 1.0), nll_B + log_q_B)


def nll_behind(
    before: Encoded | None, own: Encoded, settings: LikelihoodSpec, *, stream: Stream
) -> Tensor:
    """A bound of -log p(own | before) in nats, (B,) float64; `before` None: of its own alone."""
    start = 0 if before is None else before.z_Bnd.shape[1]
    parts = [] if before is None else [CleanPart(before.dit, before.z_Bnd)]
    with torch.no_grad():
        history = joint_history([*parts, CleanPart(own.dit, own.z_Bnd)])

    def velocity(z_Bnd: Tensor, t: float) -> Tensor:
        part = NoisyPart(own.dit, z_Bnd, z_Bnd.new_full((len(z_Bnd), 1), t), start)
        return noisy_velocities([part], history)[0].float()

    latents, width = own.z_Bnd.shape[1:]
    probe = trace_probe(settings.probe, f"{own.name}_probe", (latents, width), stream=stream)
    density = flow_density_by_block(
        velocity,
        own.z_Bnd,
        settings.ode_steps,
        divergence=settings.divergence,
        probe_Bnd=probe,
        block=own.dit.config.block_size,
        scale=own.scale,
    )
    return own.beside_B - density.extrapolated.sum(1)


@torch.no_grad()
def pair_nats(
    model: PairModel,
    tokens_BL: Tensor,
    images: Tensor,
    settings: LikelihoodSpec,
    *,
    stream: Stream,
) -> dict[str, float]:
    """Means over a batch of the bounds of all four: of images a level, of texts a token."""
    text, image = encoded_text(model, tokens_BL, stream), encoded_images(model, images, stream)
    levels, tokens = images[0].numel(), tokens_BL.shape[1]
    found = {
        "image_nats_per_level/alone": nll_behind(None, image, settings, stream=stream) / levels,
        "image_nats_per_level/behind_text": nll_behind(text, image, settings, stream=stream)
        / levels,
        "text_nats_per_token/alone": nll_behind(None, text, settings, stream=stream) / tokens,
        "text_nats_per_token/behind_image": nll_behind(image, text, settings, stream=stream)
        / tokens,
    }
    return {name: float(value_B.mean()) for name, value_B in found.items()}
