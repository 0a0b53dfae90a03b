"""LLaDA's bound by Monte Carlo with exact mask counts (section 8).

-log p(x) <= E_{k ~ U{1..L}} [ (L / k) sum of CE over k random masked tokens ]. B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.transformer import LLaDAModel
from cola.objectives.masked_diffusion import masked_cross_entropy
from cola.seeding import Stream


def masked_bound(
    model: LLaDAModel, tokens_BL: Tensor, samples: int, stream: Stream
) -> tuple[Tensor, Tensor]:
    """Estimate of the bound per sequence in nats, and its standard error: two of (B,) float64.

    Mask counts are stratified over the samples: sample s draws k from its own s-th of 1..L. The
    standard error ignores the stratification, so it is an upper estimate (NaN for one sample).
    """
    length = tokens_BL.shape[1]
    estimates = []
    for sample in range(samples):
        u_B1 = stream.uniform(f"count/{sample}", 1)
        count_B1 = (((sample + u_B1) / samples) * length).long().clamp_max(length - 1) + 1
        rank_BL = stream.uniform(f"mask/{sample}", length).argsort(1).argsort(1)
        ce_BL = masked_cross_entropy(model, tokens_BL, rank_BL < count_B1)
        estimates.append((ce_BL.double() * length / count_B1).sum(1))
    stacked = torch.stack(estimates)
    if samples == 1:
        return stacked[0], torch.full_like(stacked[0], torch.nan)
    return stacked.mean(0), stacked.std(0) / samples**0.5
