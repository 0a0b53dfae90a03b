"""The AR objective (model.md, Eq. 29): cross entropy of all L tokens.

B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from cola.models.transformer import trunk_features


def token_nll(model: LlamaForCausalLM, tokens_BL: Tensor) -> Tensor:
    """-log p(x_i | x_<i) in nats, (B, L); a start token precedes the first."""
    start = tokens_BL.new_full((len(tokens_BL), 1), model.config.bos_token_id)
    inputs_BL = torch.cat([start, tokens_BL[:, :-1]], dim=1)
    logits_BLV = model.lm_head(trunk_features(model.model, inputs_BL)).float()
    return F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
