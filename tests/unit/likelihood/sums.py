"""The evidence bound of whole sequences and of what follows a prompt, by its parts."""

from __future__ import annotations

from torch import Tensor

from cola.likelihood.latent_ode import evidence_by_block
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


def evidence_bound(
    model: ColaDLM, tokens_BL: Tensor, settings: LikelihoodSpec, stream: Stream
) -> dict[str, Tensor]:
    """Its parts, summed over the blocks: each (B,)."""
    by_block = evidence_by_block(model, tokens_BL, settings, stream)
    return {name: value_Bb.sum(1) for name, value_Bb in by_block.items()}


def conditional_evidence(
    model: ColaDLM, tokens_BL: Tensor, prompt: int, settings: LikelihoodSpec, stream: Stream
) -> dict[str, Tensor]:
    """What the blocks behind a prompt of whole blocks add to the bound: each (B,)."""
    by_block = evidence_by_block(model, tokens_BL, settings, stream)
    skip = prompt // model.tokens_per_block
    return {name: value_Bb[:, skip:].sum(1) for name, value_Bb in by_block.items()}
