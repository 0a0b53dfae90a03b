"""Flow matching over latents: interpolation, velocity target, loss (model.md, Eqs. 4 to 9, 52).

Shapes: B batch, n latents, b blocks, s latents a block, d latent width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.dit import ColaDiT
from cola.objectives.flow_times import LikelihoodWeighting, times_at
from cola.objectives.stratified_times import stratified_times
from cola.seeding import Stream
from cola.spec.objectives import FlowSpec, LogitNormal

ESTIMATES = "estimates"  # present where the network is given its own estimate (model.md, Eq. 58)


def flow_draws(
    objective: FlowSpec,
    shape_Bnd: tuple[int, int, int],
    block: int,
    *,
    stream: Stream,
    positions: Sequence[int],
    global_size: int,
    weighting: LikelihoodWeighting | None = None,
) -> dict[str, Tensor]:
    """Random inputs of `flow_matching_loss`.

    z1: (B, n, d). t_Bb: times (model.md, Eq. 6 or 53), one per block or the same for all of a
    sequence's blocks. weight_Bb (present with a `weighting`, which the timestep `likelihood`
    needs): of the squared error. quantile_Bb in place of both where times are learned: what a
    `LearnedSchedule` makes them of. prompt_Bn (absent at probability 0, and in blocks of one
    latent, which have no part to know): True at latents that are a block's known prompt.
    """
    _, latents, width = shape_Bnd
    blocks = latents // block
    count = blocks if objective.timestep_per == "block" else 1
    times = _times(
        objective,
        stream,
        count,
        positions=positions,
        global_size=global_size,
        weighting=weighting,
    )
    draws = {name: value_BK.expand(-1, blocks) for name, value_BK in times.items()}
    draws["z1"] = stream.normal("z1", latents, width)
    return draws | prompt_draws(objective, latents, block, stream=stream)


def prompt_draws(
    objective: FlowSpec, latents: int, block: int, *, stream: Stream
) -> dict[str, Tensor]:
    """prompt_Bn of `flow_draws`, where it has it."""
    if not objective.has_prompts(block):
        return {}
    blocks = latents // block
    is_prompt_Bb = stream.uniform("prompt_block", blocks) < objective.prompt_block_probability
    # 1 to s - 1 known latents on the left: a wholly known block has nothing to learn.
    known_Bb = 1 + (stream.uniform("prompt_length", blocks) * (block - 1)).long()
    position_s = torch.arange(block, device=known_Bb.device)
    prompt_Bbs = is_prompt_Bb[..., None] & (position_s < known_Bb[..., None])
    return {"prompt_Bn": prompt_Bbs.flatten(1)}


def _times(
    objective: FlowSpec,
    stream: Stream,
    count: int,
    *,
    positions: Sequence[int],
    global_size: int,
    weighting: LikelihoodWeighting | None,
) -> dict[str, Tensor]:
    """What `flow_draws` says of `count` times a sequence, (B, K) each."""
    timestep = objective.timestep
    if isinstance(timestep, LogitNormal) and not objective.stratified:
        normal_BK = stream.normal("timestep", count)
        scale = timestep.timestep_scale
        return {"t_Bb": torch.sigmoid(timestep.timestep_loc + scale * normal_BK)}
    if objective.stratified:
        quantile_BK = stratified_times(
            stream, positions=positions, global_size=global_size, blocks=count
        )
    else:
        quantile_BK = stream.uniform("timestep", count)
    if weighting is None:
        return {"t_Bb": times_at(quantile_BK, timestep)}
    if objective.learns_times:
        return {"quantile_Bb": quantile_BK}
    t_BK = weighting.times(quantile_BK)
    return {"t_Bb": t_BK, "weight_Bb": weighting.weights(t_BK)}


def flow_matching_loss(dit: ColaDiT, z0_Bnd: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Mean squared error of the velocity per latent dimension (model.md, Eq. 9); with weights the
    bound's, in nats per latent dimension (model.md, Eq. 52)."""
    return flow_matching_errors(dit, z0_Bnd, draws).mean()


def flow_matching_errors(dit: ColaDiT, z0_Bnd: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """What `flow_matching_loss` is the mean of, (B, n).

    The gradient reaches z0 through z_t and the target velocity (unless the caller detaches it),
    never through the clean history. Prompt latents stay clean at timestep 0 and carry no loss; the
    normaliser counts them all the same.
    """
    block = dit.config.block_size
    zt_Bnd, target_velocity = noisy_latents(z0_Bnd, draws, block)
    prompt_Bn = draws.get("prompt_Bn")
    velocity = dit(
        z0_Bnd.detach(), zt_Bnd, draws["t_Bb"], clean_Bn=prompt_Bn, refined=ESTIMATES in draws
    )
    return squared_errors(velocity, target_velocity, draws, block=block)


def noisy_latents(z0_Bnd: Tensor, draws: dict[str, Tensor], block: int) -> tuple[Tensor, Tensor]:
    """z_t, whose prompt latents are clean, and the target velocity, (B, n, d) each."""
    z1, t_Bn1 = draws["z1"], draws["t_Bb"].repeat_interleave(block, dim=1)[..., None]
    prompt_Bn = draws.get("prompt_Bn")
    if prompt_Bn is not None:
        t_Bn1 = t_Bn1.masked_fill(prompt_Bn[..., None], 0.0)
    zt_Bnd = (1 - t_Bn1) * z0_Bnd + t_Bn1 * z1  # model.md, Eq. 4
    return zt_Bnd, z1 - z0_Bnd  # model.md, Eq. 5


def squared_errors(
    velocity: Tensor, target_velocity: Tensor, draws: dict[str, Tensor], *, block: int
) -> Tensor:
    """Weighted squared errors of a mean dimension, 0 at prompt latents: (B, n)."""
    square_Bn = (velocity.float() - target_velocity).square().mean(-1)
    if "weight_Bb" in draws:
        square_Bn = square_Bn * draws["weight_Bb"].repeat_interleave(block, dim=1)
    prompt_Bn = draws.get("prompt_Bn")
    if prompt_Bn is not None:
        square_Bn = square_Bn * ~prompt_Bn
    return square_Bn
