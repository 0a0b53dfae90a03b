"""Diffusion over token embeddings: the loss of all blocks at once (model.md, Eq. 49).

Shapes: B batch, L tokens, d embedding width, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.head import Scored
from cola.models.latents.embedding_diffusion import EmbeddingDiffusion
from cola.objectives.flow_matching import flow_draws
from cola.seeding import Stream
from cola.spec.objectives import FlowSpec


def embedding_draws(
    model: EmbeddingDiffusion,
    objective: FlowSpec,
    tokens_BL: Tensor,
    *,
    stream: Stream,
    positions: Sequence[int],
    global_size: int,
) -> dict[str, Tensor]:
    """Random inputs of `embedding_loss`; see `flow_draws`."""
    config = model.config
    shape = (*tokens_BL.shape, config.txt_in_channels)
    return flow_draws(
        objective,
        shape,
        config.block_size,
        stream=stream,
        positions=positions,
        global_size=global_size,
    )


def embedding_loss(
    model: EmbeddingDiffusion, tokens_BL: Tensor, draws: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Mean cross entropy of the tokens given their noisy blocks and the text before them, in nats.

    It reaches the embeddings as what is predicted, as what noise is added to and as history. A
    block's prompt is clean, at timestep 0 and without loss; the mean counts it all the same.
    """
    embedded = model.embedded(tokens_BL)
    t_Bn1 = draws["t_Bb"].repeat_interleave(model.config.block_size, dim=1)[..., None]
    left, variance = model.noise(t_Bn1)
    zt_Bnd = left * embedded + variance.sqrt() * draws["z1"]
    prompt_Bn = draws.get("prompt_Bn")
    weights_BL = torch.full_like(draws["z1"][..., 0], 1 / tokens_BL.numel())
    if prompt_Bn is not None:
        zt_Bnd = torch.where(prompt_Bn[..., None], embedded, zt_Bnd)
        weights_BL = weights_BL * ~prompt_Bn
    features_BLC = model.noisy_features(
        zt_Bnd, draws["t_Bb"], model.clean_history(embedded), clean_Bn=prompt_Bn
    )
    evidence_Nd = (left / variance * zt_Bnd).flatten(0, 1)
    scored = Scored(tokens_BL.flatten(), "sum", weights_BL.flatten())
    loss, _ = model.lm_head(features_BLC.flatten(0, 1), scored, (evidence_Nd, model.embeddings()))
    return {"loss": loss}
