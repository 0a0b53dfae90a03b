"""The autoregressive model's conditional likelihood: exact, by the chain rule.

B batch, N continuation tokens of all rows, V vocabulary with the start token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from cola.likelihood.rows import joined


@torch.no_grad()
def conditional_nll(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """-log p(continuation | start token, prompt) in nats, (B,) float64, and whether it is greedy.

    Greedy, (B,) bool: every token is the most likely of those that generation may make, which are
    all but the start token. Padding is on the right, where a causal model does not look.
    """
    start = model.config.bos_token_id
    rows = joined([[start, *prompt] for prompt in prompts], continuations, start, model.device)
    hidden_BLC = model.model(input_ids=rows.tokens_BL, use_cache=False).last_hidden_state
    row_N, place_N = rows.continuation().nonzero(as_tuple=True)
    logits_NV = model.lm_head(hidden_BLC[row_N, place_N - 1]).float()
    target_N = rows.tokens_BL[row_N, place_N]
    nll_N = F.cross_entropy(logits_NV, target_N, reduction="none").double()
    missed_N = (logits_NV[:, :start].argmax(-1) != target_N).long()
    nll_B = nll_N.new_zeros(len(prompts)).index_add_(0, row_N, nll_N)
    missed_B = missed_N.new_zeros(len(prompts)).index_add_(0, row_N, missed_N)
    return nll_B, missed_B == 0
