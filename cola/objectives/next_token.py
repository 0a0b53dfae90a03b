"""The AR objective (model.md, Eq. 29): cross entropy of all L tokens.

B batch, L tokens, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cola.models import head
from cola.models.transformer import trunk_features


def token_nll(model: LlamaForCausalLM, tokens_BL: Tensor) -> Tensor:
    """-log p(x_i | x_<i) in nats, (B, L); a start token precedes the first."""
    return head.token_nll(model.lm_head, features(model, tokens_BL), tokens_BL)


def next_token_loss(model: LlamaForCausalLM, tokens_BL: Tensor) -> Tensor:
    """The mean of `token_nll`, a scalar."""
    return head.mean_nll(model.lm_head, features(model, tokens_BL), tokens_BL)


def features(model: LlamaForCausalLM, tokens_BL: Tensor) -> Tensor:
    """Inputs of the output head where it predicts each of the tokens, (B, L, C)."""
    start = tokens_BL.new_full((len(tokens_BL), 1), model.config.bos_token_id)
    inputs_BL = torch.cat([start, tokens_BL[:, :-1]], dim=1)
    return trunk_features(model.model, inputs_BL)
