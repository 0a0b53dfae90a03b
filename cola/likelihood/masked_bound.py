"""LLaDA's likelihoods: a Monte Carlo bound (model.md, Eq. 32), and the chain rule of one order
(model.md, Eq. 33).

The bound is the mean of the chain rules of all orders of unmasking. B batch, L tokens, S samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.transformer import LLaDAModel
from cola.objectives.masked_diffusion import masked_cross_entropy
from cola.seeding import Stream


def masked_samples(model: LLaDAModel, tokens_BL: Tensor, samples: int, *, stream: Stream) -> Tensor:
    """Samples of the bound by position in nats, (S, B, L) float64, 0 where a token is not masked.

    Mask counts are stratified: sample s draws its count from the s-th of S equal parts of 1..L.
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
    """Mean over the samples and its standard error, (B,) each.

    The error ignores the stratification, which lowers it: it is an upper estimate. NaN for one
    sample.
    """
    if len(samples_SB) == 1:
        return samples_SB[0], torch.full_like(samples_SB[0], torch.nan)
    return samples_SB.mean(0), samples_SB.std(0) / len(samples_SB) ** 0.5


def chain_rule_nll(model: LLaDAModel, tokens_BL: Tensor) -> Tensor:
    """-log p(x_i | x_<i, the rest masked) in nats, (B, L) float64, in L passes.

    The sum is the exact NLL of the sampler that unmasks from left to right, one token a step.
    """
    length = tokens_BL.shape[1]
    position_L = torch.arange(length, device=tokens_BL.device)
    columns = []
    for position in range(length):
        hidden_BL = (position_L >= position).expand_as(tokens_BL)
        ce_BL = masked_cross_entropy(model, tokens_BL, hidden_BL)
        columns.append(ce_BL[:, position].double())
    return torch.stack(columns, dim=1)
