"""AR's predictions of the next tokens (model.md, Eq. 29): exact ones, and draws.

B prompts of one length L, M draws, R = B M rows, N next tokens, V vocabulary without the start
token, which is never made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from cola.sampling.predictive import NextTokens, PredictiveDraws, Tally, uniform_rows
from cola.sampling.tokens import sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec


@torch.no_grad()
def next_tokens(model: LlamaForCausalLM, prompts_BL: Tensor, truth_BN: Tensor) -> NextTokens:
    """Exact predictions of each token behind the prompt, by one pass over the text."""
    start, count = model.config.bos_token_id, truth_BN.shape[1]
    text = F.pad(torch.cat([prompts_BL, truth_BN[:, :-1]], 1), (1, 0), value=start)
    logits = model(input_ids=text, use_cache=False, logits_to_keep=count).logits
    return NextTokens.of(logits[..., :start], truth_BN)


@torch.no_grad()
def next_token_draws(
    model: LlamaForCausalLM,
    prompts_BL: Tensor,
    truth_BN: Tensor,
    settings: GenerationSpec,
    *,
    draws: Sequence[int],
    stream: Stream,
) -> PredictiveDraws:
    """Draws token by token behind a cache, which the draws of a prompt have in common."""
    start, count = model.config.bos_token_id, truth_BN.shape[1]
    cache = DynamicCache(config=model.config)
    inputs = F.pad(prompts_BL, (1, 0), value=start)
    logits = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    cache.batch_repeat_interleave(len(draws))
    logits = logits.repeat_interleave(len(draws), 0)
    uniform_RN = uniform_rows(stream, "token", count, draws).to(prompts_BL.device)
    tally = Tally(truth_BN, len(draws))
    for place in range(count):
        logits_RV = logits[:, -1, :start].float()
        tokens_R = sample_tokens(logits_RV, settings, uniform_RN[:, place])
        tally.add(torch.full_like(tokens_R, place), logits_RV, tokens_R)
        if place < count - 1:
            inputs = tokens_R[:, None]
            logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits
    return tally.draws(None)
