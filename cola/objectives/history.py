"""What the prior takes from the text before a block: its loss with the true history and another's.

Shapes: B batch, L tokens, n latents, d latent width, b blocks, s latents a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.latents.latent_model import LatentModel
from cola.objectives.vae import Posterior
from cola.seeding import Stream

# Chosen times of the flow at which the loss is measured, and part of the measurements' names.
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@torch.no_grad()
def history_gap(model: LatentModel, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
    """Flow-matching loss (model.md, Eq. 9) with another sequence's history less that with the true
    one, by time, with standard errors over sequences; nothing of one sequence or one block.

    The blocks, their noise and their times are the same; the history is that of the next sequence
    of the batch, at the same places. First blocks have none and are left out. `late` gaps are of
    the second half of each block's latents: what order-1 chains pass on to a block is read off its
    first latents, what holds for longer is everywhere. A gap of 0 is of a prior that takes nothing
    from the text before, whether there is nothing to take or it has not learned to.
    """
    block = model.dit.config.block_size
    posterior = Posterior(*model.codec.encoder(tokens_BL))
    latents, width = posterior.mean.shape[1:]
    if len(tokens_BL) < 2 or latents <= block:
        return {}
    noise = stream.normal("posterior", latents, width)
    z0_Bnd, z1_Bnd = model.to_dit(posterior.sample(noise)), stream.normal("z1", latents, width)
    past_Bnd = model.as_history(z0_Bnd, tokens_BL)
    true, other = (model.dit.clean_history(past) for past in (past_Bnd, past_Bnd.roll(1, dims=0)))
    found = {}
    for time in TIMES:
        t_BK = z0_Bnd.new_full((len(z0_Bnd), latents // block), time)
        zt_Bnd = (1 - time) * z0_Bnd + time * z1_Bnd
        losses = [
            (model.dit.noisy_pass(zt_Bnd, t_BK, history).float() - (z1_Bnd - z0_Bnd))
            .double()
            .square()
            .mean(-1)
            for history in (true, other)
        ]
        more_Bbs = (losses[1] - losses[0]).view(len(z0_Bnd), -1, block)[:, 1:]
        for name, part in (("", more_Bbs), ("late_", more_Bbs[..., block // 2 :])):
            gap_B = part.mean((1, 2))
            found[f"{name}history_gap_at_time/{time}"] = float(gap_B.mean())
            error = gap_B.std() / len(gap_B) ** 0.5
            found[f"{name}history_gap_error_at_time/{time}"] = float(error)
    return found


@torch.no_grad()
def block_means(model: LatentModel, tokens_BL: Tensor) -> Tensor:
    """Mean of each block's latents given the text, (B, b, d) float32."""
    mean_Bnd, _ = model.codec.encoder(tokens_BL)
    blocks = mean_Bnd.shape[1] // model.dit.config.block_size
    return mean_Bnd.unflatten(1, (blocks, -1)).mean(2).float()
