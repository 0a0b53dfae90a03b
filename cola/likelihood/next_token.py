"""The autoregressive model's conditional likelihood, exact by the chain rule (model.md, Eq. 29).

B batch, L positions, N continuation tokens of all rows, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cola.likelihood.padded_pairs import pad_pairs
from cola.models.head import judged_nll, token_nll


@torch.no_grad()
def conditional_nll(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """-log p(continuation | prompt) in nats, (B,) float64, and whether it is greedy, (B,) bool.

    The start token precedes every prompt. Greedy: every token is the most likely one, the start
    token excluded, as generation never makes it.
    """
    start = model.config.bos_token_id
    texts = [[start, *prompt] for prompt in prompts]
    # Padding is on the right, where a causal model does not look.
    pairs = pad_pairs(texts, continuations, start, device=model.device)
    hidden_BLC = model.model(input_ids=pairs.tokens_BL, use_cache=False).last_hidden_state
    row_N, position_N = pairs.continuation().nonzero(as_tuple=True)
    features_NC, target_N = hidden_BLC[row_N, position_N - 1], pairs.tokens_BL[row_N, position_N]
    nll_N, greedy_N = judged_nll(model.lm_head, features_NC, target_N, candidates=start)
    nll_N, wrong_N = nll_N.double(), (~greedy_N).long()
    nll_B = nll_N.new_zeros(len(prompts)).index_add_(0, row_N, nll_N)
    wrong_B = wrong_N.new_zeros(len(prompts)).index_add_(0, row_N, wrong_N)
    return nll_B, wrong_B == 0


@torch.no_grad()
def judged(
    model: LlamaForCausalLM, rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """-log p of whole texts, none empty, in nats, (B,) float64, and the last hidden state behind
    each one's last token, (B, C) float32."""
    start, longest = model.config.bos_token_id, max(map(len, rows))
    # A causal model does not see what follows, so the padding may be any token.
    padded = [[start, *row, *[start] * (longest - len(row))] for row in rows]
    tokens_BL = torch.tensor(padded, device=device)
    hidden_BLC = model.model(input_ids=tokens_BL, use_cache=False).last_hidden_state
    nll_BL = token_nll(model.lm_head, hidden_BLC[:, :-1], tokens_BL[:, 1:]).double()
    length_B = torch.tensor([len(row) for row in rows], device=device)
    real_BL = torch.arange(longest, device=device) < length_B[:, None]
    place_B = torch.arange(len(rows), device=device)
    features_BC = hidden_BLC[place_B, length_B].float()
    return (nll_BL * real_BL).sum(1), features_BC
