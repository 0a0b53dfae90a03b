"""Draws of the next tokens of LLaDA and of block diffusion over masks: one token a pass, in an
order that is random for each draw (in each block).

The sampler's probability of a text is the mean over its orders of the chain rule along them, so
that the mean over the drawn orders has no bias, and its logarithm is a bound.
B prompts of one length L, M draws, R = B M rows, N next tokens, V vocabulary, s tokens a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.block_transformer import BD3LMModel
from cola.models.kv_cache import KVCache, rounded_up
from cola.models.transformer import LLaDAModel
from cola.sampling.predictive import PredictiveDraws, Tally, uniform_rows
from cola.sampling.tokens import sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec


@torch.no_grad()
def unmasking_draws(
    model: LLaDAModel,
    prompts_BL: Tensor,
    truth_BN: Tensor,
    settings: GenerationSpec,
    *,
    draws: Sequence[int],
    stream: Stream,
) -> PredictiveDraws:
    """Draws, and the text's own tokens along the same orders: 2 N passes of each row."""
    length, count = prompts_BL.shape[1], truth_BN.shape[1]
    order_RN = uniform_rows(stream, "order", count, draws).argsort(1).to(prompts_BL.device)
    uniform_RN = uniform_rows(stream, "token", count, draws).to(prompts_BL.device)
    prompts_RL = prompts_BL.repeat_interleave(len(draws), 0)
    truth_RN = truth_BN.repeat_interleave(len(draws), 0)
    masked = prompts_RL.new_full(truth_RN.shape, model.config.mask_token_id)
    drawn, given = (torch.cat([prompts_RL, masked], 1) for _ in range(2))
    row_R = torch.arange(len(order_RN), device=prompts_BL.device)
    tally, factors = Tally(truth_BN, len(draws)), []
    for place_R in order_RN.T:
        position_R = length + place_R
        logits_RV = _logits(model, drawn, position_R)
        tokens_R = sample_tokens(logits_RV, settings, uniform_RN[row_R, place_R])
        tally.add(place_R, logits_RV, tokens_R)
        drawn[row_R, position_R] = tokens_R
        truth_R = truth_RN[row_R, place_R]
        log_p_RV = _logits(model, given, position_R).double().log_softmax(-1)
        factors.append(log_p_RV[row_R, truth_R])
        given[row_R, position_R] = truth_R
    joint_RN = torch.stack(factors, 1)
    return tally.draws(joint_RN.unflatten(0, (-1, len(draws))), in_order=False)


def _logits(model: LLaDAModel, text: Tensor, position_R: Tensor) -> Tensor:
    """Logits (R, V) at a position of each row, and of no other: texts may be long."""
    row_R = torch.arange(len(text), device=text.device)
    logits_RV: Tensor = model.lm_head(model.features(text)[row_R, position_R])
    return logits_RV.float()


@torch.no_grad()
def masked_block_draws(
    model: BD3LMModel,
    prompts_BL: Tensor,
    truth_BN: Tensor,
    settings: GenerationSpec,
    *,
    draws: Sequence[int],
    stream: Stream,
) -> PredictiveDraws:
    """Draws, and the text's own tokens along the same orders in each block: 2 N passes of a block
    for each row, behind a cache of the blocks before it."""
    size, count = model.config.block_size, truth_BN.shape[1]
    tail = prompts_BL.shape[1] % size
    order_RN = uniform_rows(stream, "order", count, draws).to(prompts_BL.device)
    uniform_RN = uniform_rows(stream, "token", count, draws).to(prompts_BL.device)
    truth_RN = truth_BN.repeat_interleave(len(draws), 0)
    known_RK = prompts_BL[:, prompts_BL.shape[1] - tail :].repeat_interleave(len(draws), 0)
    cache = _cache_of_prompts(model, prompts_BL, rounded_up(tail + count, size), len(draws))
    row_R = torch.arange(len(order_RN), device=prompts_BL.device)
    tally, factors = Tally(truth_BN, len(draws)), []
    for first in range(-tail, count, size):  # the place that the block's first token has
        places = slice(max(0, first), min(count, first + size))
        blocks = known_RK.new_full((2, len(row_R), size), model.config.mask_token_id)
        if first < 0:
            blocks[:, :, :tail] = known_RK
        drawn, given = blocks  # the draws' own tokens, and the text's
        for place_R in (order_RN[:, places].argsort(1) + places.start).T:
            column_R = place_R - first
            features = model.block_features(blocks.flatten(0, 1), cache).unflatten(0, (2, -1))
            logits_RV, log_p_RV = model.lm_head(features[:, row_R, column_R]).float()
            tokens_R = sample_tokens(logits_RV, settings, uniform_RN[row_R, place_R])
            tally.add(place_R, logits_RV, tokens_R)
            drawn[row_R, column_R] = tokens_R
            truth_R = truth_RN[row_R, place_R]
            factors.append(log_p_RV.double().log_softmax(-1)[row_R, truth_R])
            given[row_R, column_R] = truth_R
        if first + size < count:
            model.write_clean(blocks.flatten(0, 1), cache)
            cache.advance([size] * 2 * len(row_R))
    joint_BMN = torch.stack(factors, 1).unflatten(0, (-1, len(draws)))
    return tally.draws(joint_BMN, in_order=size == 1)


def _cache_of_prompts(model: BD3LMModel, prompts_BL: Tensor, more: int, draws: int) -> KVCache:
    """The prompts' whole blocks, read once and held for 2 R rows with room for `more` tokens."""
    batch, length = prompts_BL.shape
    length -= length % model.config.block_size
    read = model.new_cache(batch, length)
    if length:
        model.write_clean(prompts_BL[:, :length], read)
        read.advance([length] * batch)
    cache = model.new_cache(2 * batch * draws, length + more)
    cache.keep([])
    for _ in range(2):
        cache.append_copies(read, draws)
    return cache
