"""Likelihoods of block diffusion over masks: a Monte Carlo bound (model.md, Eq. 43), and the chain
rule of one order (model.md, Eq. 44).

They are LLaDA's, block by block behind the clean blocks, which are read once. In blocks of one
token there is one order alone, and both are the exact likelihood.
B batch, L tokens, s tokens a block, b blocks, S samples, N tokens that are scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.likelihood.padded_pairs import PaddedPairs, RaggedStream, pad_pairs
from cola.models.block_transformer import BD3LMModel
from cola.models.head import judged_nll
from cola.models.layers import KeysValues
from cola.objectives.masked_blocks import masked, masked_block_nll
from cola.seeding import Stream


def block_samples(model: BD3LMModel, tokens_BL: Tensor, samples: int, *, stream: Stream) -> Tensor:
    """Samples of the bound by position in nats, (S, B, L) float64, 0 where a token is not masked.

    Mask counts are stratified in each block: sample i draws its count from the i-th of S equal
    parts of 1..s. With as many samples as a block has tokens every count comes once.
    """
    history, size = model.history(tokens_BL), model.config.block_size
    wanted_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    found = []
    for sample in range(samples):
        mask_BL, weight_BL = _masking(wanted_BL, size, (sample, samples), stream=stream)
        noisy_BL = masked(model, tokens_BL, mask_BL)
        nll_BL = masked_block_nll(model, tokens_BL, noisy_BL, history=history)
        found.append((nll_BL * mask_BL).double() * weight_BL)
    return torch.stack(found)


def block_chain_rule(model: BD3LMModel, tokens_BL: Tensor) -> Tensor:
    """-log p(x_i | blocks before its own, its own one's tokens before it), (B, L) float64.

    The sum is the exact NLL of the sampler that unmasks each block from left to right. Takes s
    passes of the noisy copy.
    """
    history, size = model.history(tokens_BL), model.config.block_size
    place_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) % size
    nll_BL = torch.zeros(tokens_BL.shape, dtype=torch.float64, device=tokens_BL.device)
    for step in range(size):
        noisy_BL = masked(model, tokens_BL, (place_L >= step).expand_as(tokens_BL))
        each_BL = masked_block_nll(model, tokens_BL, noisy_BL, history=history)
        nll_BL += each_BL.double() * (place_L == step)
    return nll_BL


@torch.no_grad()
def conditional_bound(
    model: BD3LMModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    samples: int,
    stream: Stream,
) -> Tensor:
    """Estimate of an upper bound of -log p(continuation | prompt) in nats, (B,) float64.

    The prompt's tokens are never masked, and places behind a continuation always are: it is the
    bound of what `cola.sampling.masked_blocks` draws. A row's draws do not depend on its batch.
    """
    text = _Pairs.of(model, prompts, continuations)
    total_B = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
    for sample in range(samples):
        mask_BL, weight_BL = _masking(
            text.wanted_BL, text.size, (sample, samples), stream=text.stream(stream)
        )
        noisy_BL = masked(model, text.tokens_BL, mask_BL | text.behind_BL)
        nll_BL = masked_block_nll(model, text.tokens_BL, noisy_BL, history=text.history)
        total_B += ((nll_BL * mask_BL).double() * weight_BL).sum(1)
    return total_B / samples


@torch.no_grad()
def conditional_chain_rule(
    model: BD3LMModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """-log p(continuation | prompt) in nats, (B,) float64, and whether it is greedy, (B,) bool.

    Exact for the sampler that unmasks the continuation from left to right, one token a step; greedy
    is what it generates by always taking the most likely token.
    """
    text = _Pairs.of(model, prompts, continuations)
    place_BL = (_by_block(text.wanted_BL, text.size).cumsum(-1) - 1).flatten(1)
    nll_B = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
    wrong_B = torch.zeros(len(prompts), dtype=torch.long, device=model.device)
    for step in range(text.size):
        hidden_BL = text.behind_BL | (text.wanted_BL & (place_BL >= step))
        features_BLC = model.noisy_features(masked(model, text.tokens_BL, hidden_BL), text.history)
        row_N, position_N = (text.wanted_BL & (place_BL == step)).nonzero(as_tuple=True)
        nll_N, likeliest_N = judged_nll(
            model.lm_head,
            features_BLC[row_N, position_N],
            text.tokens_BL[row_N, position_N],
            candidates=model.config.mask_token_id,
        )
        nll_B.index_add_(0, row_N, nll_N.double())
        wrong_B.index_add_(0, row_N, (~likeliest_N).long())
    return nll_B, wrong_B == 0


class _Pairs:
    """Prompts and continuations in whole blocks, and the clean copy of them.

    wanted_BL: True at continuations. behind_BL: True at places behind them.
    """

    def __init__(self, pairs: PaddedPairs, history: list[KeysValues], size: int) -> None:
        self.tokens_BL, self.history, self.size = pairs.tokens_BL, history, size
        self.wanted_BL, self.behind_BL = pairs.continuation(), ~pairs.real()
        self._blocks = (-(-pairs.end_B // size)).tolist()

    @classmethod
    def of(
        cls,
        model: BD3LMModel,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
    ) -> _Pairs:
        """The texts as one batch. What a shorter one is padded with lies in blocks behind its own,
        which see it alone."""
        size = model.config.block_size
        pairs = pad_pairs(prompts, continuations, 0, device=model.device, multiple=size)
        return cls(pairs, model.history(pairs.tokens_BL), size)

    def stream(self, stream: Stream) -> Stream:
        """Draws of which each row has those that it would get alone."""
        return RaggedStream(stream, [count * self.size for count in self._blocks])


def _masking(
    wanted_BL: Tensor, size: int, stratum: tuple[int, int], *, stream: Stream
) -> tuple[Tensor, Tensor]:
    """Random masks of one sample (model.md, Eq. 43), True at masked tokens, and their weights.

    Of the n wanted tokens of a block, k are masked with weight n / k: (B, L) bool and float64.
    """
    sample, samples = stratum
    length = wanted_BL.shape[1]
    count_Bb = _by_block(wanted_BL, size).sum(-1)
    # A number a token, of which a block reads its first: rows of any length then draw alike.
    u_Bb = stream.uniform(f"count/{sample}", length)[:, ::size].to(wanted_BL.device)
    masked_Bb = (((sample + u_Bb) / samples) * count_Bb).long().minimum(count_Bb - 1) + 1
    order_BL = stream.uniform(f"mask/{sample}", length).to(wanted_BL.device)
    order_Bbs = _by_block(order_BL.masked_fill(~wanted_BL, 2.0), size)
    rank_Bbs = order_Bbs.argsort(-1).argsort(-1)
    mask_BL = (rank_Bbs < masked_Bb[..., None]).flatten(1) & wanted_BL
    weight_Bb = count_Bb.double() / masked_Bb.clamp_min(1)
    return mask_BL, weight_Bb.repeat_interleave(size, dim=1)


def _by_block(x_BL: Tensor, size: int) -> Tensor:
    """(B, L) -> (B, b, s)."""
    return x_BL.unflatten(1, (-1, size))
