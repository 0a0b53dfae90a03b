"""Losses of pairs of text and image: of the image VAE (model.md, Eq. 69), and of the prior over
both modalities' latents (model.md, Eq. 72).

Shapes: B batch, L tokens, c channels, S pixels a side, n latents, d latent width, b blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cola.models.pairs.image_vae import ImageVAE
from cola.models.pairs.joint_pass import CleanPart, NoisyPart, joint_history, noisy_velocities
from cola.models.pairs.pair_model import PairModel
from cola.objectives.flow_matching import flow_draws, noisy_latents, squared_errors
from cola.objectives.vae import Posterior, kl_to_standard_normal
from cola.seeding import Stream
from cola.spec.objectives import FlowSpec

IMAGE_FIRST = "image_first"  # present where the image stands in front of the text
IMAGES, IMAGE_NOISE = "images", "image_noise"
TEXT, IMAGE = "text/", "image/"  # begin the names of a modality's draws


def image_noise(vae: ImageVAE, stream: Stream) -> Tensor:
    """Noise of a sample of the images' posterior, (B, n, d)."""
    return stream.normal("image_posterior", vae.config.latents, vae.config.latent_dim)


def image_vae_loss(
    vae: ImageVAE, images: Tensor, noise_Bnd: Tensor, *, beta: float
) -> dict[str, Tensor]:
    """-E_q[log p(image | z0)] + beta KL(q || N(0, I)) and its parts, nats a level (a pixel of a
    channel)."""
    posterior = Posterior(*vae.encoder(images))
    reconstruction = vae.decoder.pixel_nll(posterior.sample(noise_Bnd), images).mean()
    kl = kl_to_standard_normal(posterior, 0.0).sum(1).mean() / images[0].numel()
    return {
        "loss": reconstruction + beta * kl,
        "image_reconstruction": reconstruction,
        "image_kl": kl,
        "image_log_snr": posterior.log_snr(),
    }


def pair_draws(
    model: PairModel,
    flows: tuple[FlowSpec, FlowSpec],
    tokens_BL: Tensor,
    *,
    stream: Stream,
    positions: Sequence[int],
    global_size: int,
) -> dict[str, Tensor]:
    """Random inputs of `pair_loss`; `flows` are of texts and of images.

    Both are drawn for the whole sequence of both, of which each modality takes its own part.
    """
    block, width = model.dit.config.block_size, model.dit.config.txt_in_channels
    texts = tokens_BL.shape[1] // model.vae.config.patch_size
    count = texts + model.image_vae.config.latents
    parts = ((TEXT, slice(0, texts)), (IMAGE, slice(texts, count)))
    draws = {
        "posterior_noise": stream.normal("posterior", texts, width),
        IMAGE_NOISE: image_noise(model.image_vae, stream),
    }
    for (name, own), flow in zip(parts, flows, strict=True):
        drawn = flow_draws(
            flow,
            (len(tokens_BL), count, width),
            block,
            stream=stream,
            positions=positions,
            global_size=global_size,
        )
        blocks = slice(own.start // block, own.stop // block)
        for key, value in drawn.items():
            draws[name + key] = value[:, blocks if key.endswith("_Bb") else own].contiguous()
    return draws


def pair_loss(
    model: PairModel,
    weights: tuple[float, float],
    tokens_BL: Tensor,
    *,
    images: Tensor,
    draws: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Flow matching of texts and images in one sequence, weighted, and its parts.

    No gradient reaches the VAEs.
    """
    with torch.no_grad():
        text = Posterior(*model.vae.encoder(tokens_BL))
        image = Posterior(*model.image_vae.encoder(images))
        z_text = model.to_dit(text.sample(draws["posterior_noise"]))
        z_image = image.sample(draws[IMAGE_NOISE])
    found = [(TEXT, model.dit, z_text), (IMAGE, model.image_dit, z_image)]
    if IMAGE_FIRST in draws:
        found.reverse()
    history = joint_history([CleanPart(dit, z0) for _, dit, z0 in found])
    start, block = 0, model.dit.config.block_size
    parts, targets, own_draws = [], [], []
    for name, dit, z0 in found:
        own = {key.removeprefix(name): v for key, v in draws.items() if key.startswith(name)}
        zt_Bnd, target = noisy_latents(z0, own, block)
        parts.append(NoisyPart(dit, zt_Bnd, own["t_Bb"], start, own.get("prompt_Bn")))
        start += z0.shape[1]
        targets.append(target)
        own_draws.append(own)
    velocities = noisy_velocities(parts, history)
    errors = {
        name: squared_errors(velocity, target, own, block=block).mean()
        for (name, *_), velocity, target, own in zip(
            found, velocities, targets, own_draws, strict=True
        )
    }
    loss = weights[0] * errors[TEXT] + weights[1] * errors[IMAGE]
    measured = {"log_snr": text.log_snr(), "image_log_snr": image.log_snr()}
    return {"loss": loss, "text_fm": errors[TEXT], "image_fm": errors[IMAGE], **measured}
