"""Training of a generator of one pass by drifting (model.md, Eqs. 65 to 67).

Shapes: B batch, M samples behind one history, n latents, d latent width, b blocks, D = s d numbers
of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.latents.drifting import DriftingDiT
from cola.objectives.vae import Posterior
from cola.records import DISTORTION, ENERGY_SCORE
from cola.seeding import Stream

# Of a distance, so that that of a point from itself divides 0; chosen, far below any other.
LEAST_DISTANCE = 1e-6
MEASURED_SAMPLES = 2  # of a block, the least that an energy score takes


def drifting_loss(
    dit: DriftingDiT, z0_Bnd: Tensor, z1: Tensor, prompt_Bn: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean squared drift a latent dimension (model.md, Eq. 67), and the energy score a block.

    z1 (B, M, n, d) is the samples' noise. Where `prompt_Bn`, latents of a block are known.
    """
    x_BMbD, y_BbD = samples_of(dit, z0_Bnd, z1, prompt_Bn)
    with torch.no_grad():
        drift, score = drift_and_score(x_BMbD, y_BbD)
        target = x_BMbD + drift
    return (x_BMbD - target).square().mean(), score.mean()


def samples_of(
    dit: DriftingDiT, z0_Bnd: Tensor, z1: Tensor, prompt_Bn: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Samples (B, M, b, D) of every block behind the clean ones, and the text's blocks (B, b, D);
    arguments are those of `drifting_loss`."""
    samples = z1.shape[1]
    history = [
        (k.repeat_interleave(samples, 0), v.repeat_interleave(samples, 0))
        for k, v in dit.clean_history(z0_Bnd)
    ]
    clean = None
    if prompt_Bn is not None:
        z1 = torch.where(prompt_Bn[:, None, :, None], z0_Bnd[:, None], z1)
        clean = prompt_Bn.repeat_interleave(samples, 0)
    made = dit.generated(z1.flatten(0, 1), history, clean_Bn=clean).unflatten(0, (-1, samples))
    block = dit.config.block_size
    x_BMbD = made.unflatten(2, (-1, block)).flatten(3)
    return x_BMbD, z0_Bnd.unflatten(1, (-1, block)).flatten(2)


@torch.no_grad()
def measured(model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, Tensor]:
    """Distortion in nats a token, and the energy score of two samples a block, (B,) each, float64.

    The least energy score in the mean is that of the text's own distribution.
    """
    dit = model.dit
    assert isinstance(dit, DriftingDiT)
    posterior = Posterior(*model.vae.encoder(tokens_BL))
    latents, width = posterior.mean.shape[1:]
    z0 = posterior.sample(stream.normal("posterior", latents, width))
    nll_BL = model.vae.decoder.token_nll(z0, tokens_BL)
    z1 = stream.normal("z1", MEASURED_SAMPLES, latents, width)
    x_BMbD, y_BbD = samples_of(dit, model.to_dit(z0), z1)
    return {
        f"{DISTORTION}_nats_per_token": nll_BL.double().mean(1),
        ENERGY_SCORE: drift_and_score(x_BMbD, y_BbD)[1].double(),
    }


def drift_and_score(x_BMbD: Tensor, y_BbD: Tensor) -> tuple[Tensor, Tensor]:
    """V of every sample, (B, M, b, D), and the energy score of each text's blocks in the mean,
    (B,): the distance of samples from the text less half of that from one another."""
    samples = x_BMbD.shape[1]
    toward = y_BbD[:, None] - x_BMbD
    apart = x_BMbD[:, None] - x_BMbD[:, :, None]  # (B, M, M, b, D), to each from each
    far, wide = distance(toward), distance(apart)
    drift = toward / far - (apart / wide).sum(2) / (samples - 1)
    wide_B = wide.sum((1, 2)).mean((1, 2)) / (samples * (samples - 1))
    return drift, far.mean((1, 2, 3)) - wide_B / 2


def distance(way: Tensor) -> Tensor:
    """Root mean square over the last dimension, which is kept."""
    return (way.square().mean(-1, keepdim=True) + LEAST_DISTANCE**2).sqrt()
