"""Networks of the baselines: `transformers`' Llama, causal for AR, bidirectional for LLaDA.

They predict p(x_i | x_<i) (model.md, Eq. 29) and p(x_i | unmasked tokens) (model.md, Eq. 31).

Embedding tables have vocab_size + 1 rows; the last is AR's start token or the mask token.
`cola.models.block_transformer` has the block-causal one. B batch, L positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from cola.models.execution import emptied, filled, run_block
from cola.models.head import OutputHead, as_output_head
from cola.models.kv_cache import CacheView, KVCache
from cola.models.layers import activation_dtype
from cola.spec import TransformerSpec


class MaskedConfig(LlamaConfig):
    """A Llama configuration whose `vocab_size` counts the mask token (the last row)."""

    @property
    def mask_token_id(self) -> int:
        """The extra row of the embedding table."""
        return int(self.vocab_size) - 1


class FusedRMSNorm(LlamaRMSNorm):
    """A Llama's norm as one kernel on a GPU where nothing is differentiated, in place of six.

    In float32 the numbers are the same to the last bit; in 16 bits they are rounded once, where the
    plain form rounds twice.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        weight = self.weight
        if torch.is_grad_enabled() or hidden_states.dtype != weight.dtype:
            plain: Tensor = super().forward(hidden_states)
            return plain
        return F.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)


def with_fused_norms(trunk: nn.Module) -> None:
    """Make the trunk's norms `FusedRMSNorm`; parameters, their names and hooks stay."""
    for module in trunk.modules():
        if type(module) is LlamaRMSNorm:
            module.__class__ = FusedRMSNorm


class MaskedModel(PreTrainedModel):
    """Llama blocks without causality; the head has no output for the mask token."""

    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = OutputHead(config.hidden_size, config.vocab_size - 1, bias=False)
        with_fused_norms(self.model)
        for layer in self.model.layers:
            layer.self_attn.is_causal = False
        self.post_init()


class LLaDAConfig(MaskedConfig):
    """Sizes of a `LLaDAModel`."""

    model_type = "cola_llada"


class LLaDAModel(MaskedModel):
    """A transformer in which every token sees every other."""

    config_class = LLaDAConfig

    def forward(
        self,
        tokens_BL: Tensor,
        real_BL: Tensor | None = None,
        position_BL: Tensor | None = None,
        *,
        wanted: slice | None = None,
    ) -> Tensor:
        """Logits (B, L, V) of every position, or of those `wanted` alone; see `features`."""
        features = self.features(tokens_BL, real_BL, position_BL)
        if wanted is not None:
            features = features[:, wanted]
        logits: Tensor = self.lm_head(features)
        return logits

    def features(
        self, tokens_BL: Tensor, real_BL: Tensor | None = None, position_BL: Tensor | None = None
    ) -> Tensor:
        """Inputs of the output head, (B, L, C).

        `real_BL` is False at padding, which is hidden from all queries; `position_BL` are the
        rotary positions (default: 0 to L - 1).
        """
        mask = None if real_BL is None else real_BL[:, None, None, :]
        if mask is not None:
            mask = mask.expand(-1, 1, tokens_BL.shape[1], -1)
        return trunk_features(self.model, tokens_BL, mask=mask, position_BL=position_BL)


def trunk_features(
    trunk: LlamaModel,
    tokens_BL: Tensor,
    *,
    mask: Tensor | None = None,
    position_BL: Tensor | None = None,
) -> Tensor:
    """Inputs of the output head, (B, L, C): `trunk_hidden`, normalised."""
    features: Tensor = trunk.norm(
        trunk_hidden(trunk, tokens_BL, mask=mask, position_BL=position_BL)
    )
    return features


def trunk_hidden(
    trunk: LlamaModel,
    tokens_BL: Tensor,
    *,
    mask: Tensor | None = None,
    position_BL: Tensor | None = None,
    cache: CacheView | None = None,
) -> Tensor:
    """The last layer's output, (B, L, C); with a cache the tokens also see its entries, and join
    them.

    `mask` is True at visible keys; None: what the layers' `is_causal` says. See
    `LLaDAModel.features` for positions.
    """
    rows = len(tokens_BL)
    if position_BL is None:
        position_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)[None]
    elif len(position_BL) > 1:
        position_BL = filled(position_BL)
    if mask is not None and len(mask) > 1:
        mask = filled(mask, True)  # a row that sees nothing would be NaN
    hidden: Tensor = filled(trunk.embed_tokens(tokens_BL))
    rotary = trunk.rotary_emb(hidden, position_ids=position_BL)
    for layer in trunk.layers:
        hidden = run_block(
            LlamaDecoderLayer.forward,
            layer,
            hidden,
            attention_mask=mask,
            position_embeddings=rotary,
            past_key_values=cache,
        )
    return emptied(hidden, rows)


def build_ar(spec: TransformerSpec) -> LlamaForCausalLM:
    """A freshly initialised causal Llama; its `bos_token_id` is the start token."""
    return with_output_head(
        LlamaForCausalLM(
            LlamaConfig(**llama_config(spec), bos_token_id=spec.vocab_size, eos_token_id=None)
        )
    )


def with_output_head(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same model, whose `lm_head` is an `OutputHead`, with fused norms."""
    as_output_head(model.lm_head)
    with_fused_norms(model.model)
    return model


def build_llada(spec: TransformerSpec) -> LLaDAModel:
    """A freshly initialised bidirectional Llama of the same blocks."""
    return LLaDAModel(LLaDAConfig(**llama_config(spec)))


def llama_config(spec: TransformerSpec) -> dict[str, Any]:
    """Keys of a `LlamaConfig` of these sizes, whose vocabulary has one more entry."""
    return {
        "vocab_size": spec.vocab_size + 1,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_heads,
        "rope_theta": spec.rope_theta,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_cache": True,
        "attn_implementation": "sdpa",
    }


def llama_cache(model: Any, rows: int, capacity: int, *, step: int | None = None) -> KVCache:
    """An empty cache of a Llama's keys and values for `capacity` tokens a row; see `KVCache`."""
    config = model.config
    return KVCache(
        config.num_hidden_layers,
        rows,
        config.num_key_value_heads,
        capacity=capacity,
        head_dim=config.head_dim,
        device=model.device,
        dtype=activation_dtype(model.lm_head.weight),
        step=step,
    )


def llama_sizes(config: LlamaConfig) -> dict[str, Any]:
    """Sizes of a `TransformerSpec` from the configuration of the model built from it."""
    return {
        "vocab_size": config.vocab_size - 1,
        "hidden_size": config.hidden_size,
        "ffn_size": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
    }


AutoConfig.register(LLaDAConfig.model_type, LLaDAConfig)
AutoModel.register(LLaDAConfig, LLaDAModel)
