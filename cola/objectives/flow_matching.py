"""Flow matching over latents: times, interpolation, loss (sections 1, 3 and 8).

Shapes: B batch, n latents, b blocks, s latents a block, d latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.dit import ColaDiT
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, LogitNormal


def flow_draws(
    objective: JointObjective, shape_Bnd: tuple[int, int, int], block: int, stream: Stream
) -> dict[str, Tensor]:
    """Random inputs of `flow_matching_loss`: z1, times, and which latents are a known prompt."""
    _, latents, width = shape_Bnd
    blocks = latents // block
    count = blocks if objective.timestep_per == "block" else 1
    if isinstance(objective.timestep, LogitNormal):
        distribution = objective.timestep
        normal = stream.normal("timestep", count)
        t_BK = torch.sigmoid(distribution.timestep_loc + distribution.timestep_scale * normal)
    else:
        t_BK = stream.uniform("timestep", count)
    draws = {"z1": stream.normal("z1", latents, width), "t_Bb": t_BK.expand(-1, blocks)}
    if objective.prompt_block_probability > 0:
        chosen = stream.uniform("prompt_block", blocks) < objective.prompt_block_probability
        # 1 .. s - 1 known latents on the left: a block all known would have nothing to learn.
        known = 1 + (stream.uniform("prompt_length", blocks) * (block - 1)).long()
        place = torch.arange(block, device=known.device)
        prompt_Bbs = chosen[..., None] & (place < known[..., None])
        draws["prompt_Bn"] = prompt_Bbs.flatten(1)
    return draws


def flow_matching_loss(
    dit: ColaDiT, z0_Bnd: Tensor, target_z0_Bnd: Tensor, draws: dict[str, Tensor]
) -> Tensor:
    """Mean squared error of the velocity, per latent dimension (Eq. of section 1).

    z_t = (1 - t) z0 + t z1, u = z1 - z0. `z0_Bnd` is the clean history (always detached: sg);
    `target_z0_Bnd` is what z_t and u are made of, detached or not by the gradient mode. Latents of
    a prompt stay clean at timestep 0 and carry no loss; the normaliser does not depend on them.
    """
    z1, t_Bb = draws["z1"], draws["t_Bb"]
    block = dit.config.block_size
    t_Bn1 = t_Bb.repeat_interleave(block, dim=1)[..., None]
    prompt_Bn = draws.get("prompt_Bn")
    if prompt_Bn is not None:
        t_Bn1 = t_Bn1.masked_fill(prompt_Bn[..., None], 0.0)
    zt = (1 - t_Bn1) * target_z0_Bnd + t_Bn1 * z1
    velocity = dit(z0_Bnd.detach(), zt, t_Bb, prompt_Bn)
    square_Bn = (velocity.float() - (z1 - target_z0_Bnd)).square().mean(-1)
    if prompt_Bn is not None:
        square_Bn = square_Bn * ~prompt_Bn
    return square_Bn.mean()
