"""Block diffusion over masks: the loss of all blocks at once (model.md, Eqs. 41 and 42).

B batch, L tokens, s tokens a block, b blocks, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.block_transformer import BD3LMModel
from cola.models.head import token_nll, weighted_nll
from cola.models.layers import KeysValues
from cola.objectives.masked_diffusion import mask_probabilities
from cola.seeding import Stream
from cola.spec.objectives import MaskRateSpec


def block_masking_draws(
    objective: MaskRateSpec,
    tokens_BL: Tensor,
    block_size: int,
    *,
    stream: Stream,
    positions: Sequence[int],
    global_size: int,
) -> dict[str, Tensor]:
    """Random inputs of `block_masked_loss`.

    p_BL: probability of masking a token, the same for all of a block. mask_BL: True where a token
    is masked.
    """
    length = tokens_BL.shape[1]
    p_Bb = mask_probabilities(
        objective,
        stream,
        positions=positions,
        global_size=global_size,
        blocks=length // block_size,
    )
    p_BL = p_Bb.repeat_interleave(block_size, dim=1)
    return {"p_BL": p_BL, "mask_BL": stream.uniform("mask", length) < p_BL}


def block_masked_loss(
    model: BD3LMModel, tokens_BL: Tensor, draws: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The loss in nats per token (model.md, Eq. 42), and the fraction of tokens masked."""
    mask_BL = draws["mask_BL"]
    weights_BL = mask_BL / (draws["p_BL"] * tokens_BL.numel())
    noisy_BL = masked(model, tokens_BL, mask_BL)
    features_BLC = model.noisy_features(noisy_BL, model.history(tokens_BL))
    loss = weighted_nll(model.lm_head, features_BLC, tokens_BL, weights_BL=weights_BL)
    return {"loss": loss, "masked_fraction": mask_BL.float().mean()}


def masked(model: BD3LMModel, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """The tokens with the mask token where `mask_BL` is True."""
    return torch.masked_fill(tokens_BL, mask_BL, model.config.mask_token_id)


def masked_block_nll(
    model: BD3LMModel, tokens_BL: Tensor, noisy_BL: Tensor, *, history: list[KeysValues]
) -> Tensor:
    """-log p of every token in nats given its noisy block and the clean ones before it, (B, L)."""
    return token_nll(model.lm_head, model.noisy_features(noisy_BL, history), tokens_BL)
