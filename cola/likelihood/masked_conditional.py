"""LLaDA's conditional likelihoods (model.md, Eqs. 32 and 33), where the prompt is never masked.

`cola.likelihood.masked_bound` has the same two for whole sequences. B batch, L tokens, n tokens of
a row's continuation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.likelihood.padded_pairs import PaddedPairs, pad_pairs
from cola.models.head import judged_nll
from cola.models.transformer import LLaDAModel
from cola.objectives.masked_diffusion import masked_cross_entropy
from cola.seeding import Stream


@torch.no_grad()
def conditional_bound(
    model: LLaDAModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    samples: int,
    stream: Stream,
) -> Tensor:
    """Estimate of an upper bound of -log p(continuation | prompt) in nats, (B,) float64.

    The counts of masked tokens are stratified over the `samples`. A row's draws do not depend on
    its batch.
    """
    pairs = pad_pairs(prompts, continuations, 0, device=model.device)
    real_BL = _real(pairs)
    length_B = pairs.end_B - pairs.start_B
    total_B = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
    for sample in range(samples):
        u_B = stream.uniform(f"count/{sample}", 1)[:, 0].to(model.device)
        count_B = (((sample + u_B) / samples) * length_B).long().minimum(length_B - 1) + 1
        mask_BL = random_masks(pairs, count_B, stream, purpose=f"mask/{sample}")
        ce_BL = masked_cross_entropy(model, pairs.tokens_BL, mask_BL, real_BL=real_BL).double()
        total_B += ce_BL.sum(1) * length_B / count_B.clamp_min(1)
    return total_B / samples


def random_masks(pairs: PaddedPairs, count_B: Tensor, stream: Stream, *, purpose: str) -> Tensor:
    """(B, L), True at `count_B` random positions of each row's continuation."""
    mask_BL = torch.zeros_like(pairs.tokens_BL, dtype=torch.bool)
    spans = zip(pairs.start_B.tolist(), pairs.end_B.tolist(), count_B.tolist(), strict=True)
    for row, (start, end, count) in enumerate(spans):
        order_n = stream.of([row]).uniform(purpose, end - start)[0]
        mask_BL[row, start:end] = (order_n.argsort().argsort() < count).to(mask_BL.device)
    return mask_BL


@torch.no_grad()
def conditional_chain_rule(
    model: LLaDAModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """-log p(continuation | prompt) in nats, (B,) float64, and whether it is greedy, (B,) bool.

    Exact for the sampler that unmasks the continuation from left to right, one token a step; greedy
    is what it generates by always taking the most likely token. Runs one pass per token of the
    longest continuation.
    """
    pairs = pad_pairs(prompts, continuations, 0, device=model.device)
    real_BL, continuation_BL = _real(pairs), pairs.continuation()
    position_L = torch.arange(pairs.tokens_BL.shape[1], device=model.device)
    row_B = torch.arange(len(prompts), device=model.device)
    nll_B = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
    greedy_B = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    for step in range(int((pairs.end_B - pairs.start_B).max())):
        next_B = (pairs.start_B + step).clamp_max(len(position_L) - 1)
        active_B = pairs.start_B + step < pairs.end_B
        hidden_BL = continuation_BL & (position_L >= next_B[:, None])
        text_BL = pairs.tokens_BL.masked_fill(hidden_BL, model.config.mask_token_id)
        features_BC = model.features(text_BL, real_BL)[row_B, next_B]
        target_B = pairs.tokens_BL[row_B, next_B]
        own_B, likeliest_B = judged_nll(
            model.lm_head, features_BC, target_B, candidates=model.config.mask_token_id
        )
        nll_B += own_B.double() * active_B
        greedy_B &= likeliest_B | ~active_B
    return nll_B, greedy_B


def _real(pairs: PaddedPairs) -> Tensor | None:
    """(B, L), False at padding; None where there is none."""
    real_BL = pairs.real()
    real_BL[:, 0] = True  # attention of an empty row needs a visible key
    return None if bool(real_BL.all()) else real_BL
