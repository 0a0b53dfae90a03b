"""The LLaDA objective (model.md, Eqs. 30 and 31).

B batch, L tokens, b blocks that are masked each with a probability of its own, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.head import token_nll, weighted_nll
from cola.models.transformer import LLaDAModel
from cola.objectives.stratified_times import stratified_times
from cola.seeding import Stream
from cola.spec.objectives import MaskingSpec, MaskRateSpec


def mask_probabilities(
    objective: MaskRateSpec,
    stream: Stream,
    *,
    positions: Sequence[int],
    global_size: int,
    blocks: int = 1,
) -> Tensor:
    """Probabilities of masking a token (model.md, Eq. 30), one a block, (B, b).

    For stratified times see `stratified_times`.
    """
    if objective.stratified:
        t_Bb = stratified_times(stream, positions=positions, global_size=global_size, blocks=blocks)
    else:
        t_Bb = stream.uniform("timestep", blocks)
    low, high = objective.min_mask_probability, objective.max_mask_probability
    return (high - low) * t_Bb + low


def masked_diffusion_draws(
    objective: MaskingSpec,
    tokens_BL: Tensor,
    stream: Stream,
    *,
    positions: Sequence[int],
    global_size: int,
) -> dict[str, Tensor]:
    """Random inputs of `masked_diffusion_loss`.

    p_B1: probability of masking a token. mask_BL: True where a token is masked. real_BL (absent
    where no sequence is shortened): False behind the end of shortened ones.
    """
    length = tokens_BL.shape[1]
    p_B1 = mask_probabilities(objective, stream, positions=positions, global_size=global_size)
    draws = {"p_B1": p_B1, "mask_BL": stream.uniform("mask", length) < p_B1}
    if objective.random_length_fraction > 0:
        cut = stream.uniform("is_cut", 1) < objective.random_length_fraction
        kept = 1 + (stream.uniform("length", 1) * length).long().clamp_max(length - 1)
        position_L = torch.arange(length, device=tokens_BL.device)
        real_BL = (position_L < kept) | ~cut
        # Decided here, where draws are on the host: the loss would wait for its device to ask.
        if not bool(real_BL.all()):
            draws["real_BL"] = real_BL
    return draws


def masked_diffusion_loss(
    model: LLaDAModel, tokens_BL: Tensor, draws: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The loss in nats per token (model.md, Eq. 31), and the fraction of tokens masked."""
    mask_BL, real_BL = draws["mask_BL"], draws.get("real_BL")
    lengths_B1 = tokens_BL.new_full((len(tokens_BL), 1), tokens_BL.shape[1])
    if real_BL is not None:
        mask_BL = mask_BL & real_BL
        lengths_B1 = real_BL.sum(1, keepdim=True)
    weights_BL = mask_BL / (draws["p_B1"] * lengths_B1 * len(tokens_BL))
    features_BLC = masked_features(model, tokens_BL, mask_BL, real_BL=real_BL)
    loss = weighted_nll(model.lm_head, features_BLC, tokens_BL, weights_BL=weights_BL)
    return {"loss": loss, "masked_fraction": mask_BL.float().mean()}


def masked_cross_entropy(
    model: LLaDAModel, tokens_BL: Tensor, mask_BL: Tensor, *, real_BL: Tensor | None = None
) -> Tensor:
    """-log p(x_i | unmasked tokens) in nats where masked, 0 elsewhere: (B, L)."""
    features_BLC = masked_features(model, tokens_BL, mask_BL, real_BL=real_BL)
    return token_nll(model.lm_head, features_BLC, tokens_BL) * mask_BL


def masked_features(
    model: LLaDAModel, tokens_BL: Tensor, mask_BL: Tensor, *, real_BL: Tensor | None
) -> Tensor:
    """Inputs of the output head, (B, L, C), where the mask's tokens are hidden."""
    return model.features(tokens_BL.masked_fill(mask_BL, model.config.mask_token_id), real_BL)
