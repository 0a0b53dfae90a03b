"""LLaDA's likelihoods (section 8): a bound by Monte Carlo, and the chain rule of one order.

-log p(x) <= E_{k ~ U{1..L}} [ (L / k) sum of CE over k random masked tokens ], the mean over all
orders of unmasking of their chain rules. B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.transformer import LLaDAModel
from cola.objectives.masked_diffusion import masked_cross_entropy
from cola.seeding import Stream


def masked_samples(model: LLaDAModel, tokens_BL: Tensor, samples: int, stream: Stream) -> Tensor:
    """Samples of the bound by position in nats, (S, B, L) float64: 0 where a token was not masked.

    Mask counts are stratified over the samples: sample s draws k from its own s-th of 1..L.
    """
    length = tokens_BL.shape[1]
    estimates = []
    for sample in range(samples):
        u_B1 = stream.uniform(f"count/{sample}", 1)
        count_B1 = (((sample + u_B1) / samples) * length).long().clamp_max(length - 1) + 1
        rank_BL = stream.uniform(f"mask/{sample}", length).argsort(1).argsort(1)
        ce_BL = masked_cross_entropy(model, tokens_BL, rank_BL < count_B1)
        estimates.append(ce_BL.double() * length / count_B1)
    return torch.stack(estimates)


def mean_and_error(samples_SB: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the samples and its standard error, two of (B,).

    The error ignores that the samples are stratified, so it is an upper estimate (NaN for one).
    """
    if len(samples_SB) == 1:
        return samples_SB[0], torch.full_like(samples_SB[0], torch.nan)
    return samples_SB.mean(0), samples_SB.std(0) / len(samples_SB) ** 0.5


def chain_rule_nll(model: LLaDAModel, tokens_BL: Tensor) -> Tensor:
    """-log p(x_i | x_<i, the rest masked) in nats, (B, L) float64.

    The sum is the exact NLL of the sampler that unmasks from left to right, one token a step: L
    passes.
    """
    length = tokens_BL.shape[1]
    place_L = torch.arange(length, device=tokens_BL.device)
    columns = []
    for place in range(length):
        hidden_BL = (place_L >= place).expand_as(tokens_BL)
        ce_BL = masked_cross_entropy(model, tokens_BL, hidden_BL)
        columns.append(ce_BL[:, place].double())
    return torch.stack(columns, dim=1)
