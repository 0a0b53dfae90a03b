"""The network of block diffusion over masks: Llama blocks on [clean | noisy] tokens.

It predicts p(x_i | unmasked tokens of its block, all of the blocks before it) (model.md, Eq. 41)
for all blocks in one pass; clean and noisy copy see each other as in model.md, Eq. 8.
B batch, L positions, s positions a block, C width, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoConfig, AutoModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half

from cola.models.execution import emptied, filled, run_block
from cola.models.flex import attend_flex, block_causal_layout, noisy_layout
from cola.models.kv_cache import KVCache
from cola.models.layers import (
    KeysValues,
    attend,
    attend_in_chunks,
    merge_heads,
)
from cola.models.masks import QueryChunk, block_causal_mask, noisy_chunks
from cola.models.transformer import MaskedConfig, MaskedModel, llama_cache, llama_config
from cola.spec import TransformerSpec

Rotary = tuple[Tensor, Tensor]  # cosines and sines, (1 or B, L, D) each


class BD3LMConfig(MaskedConfig):
    """Sizes of a `BD3LMModel`."""

    model_type = "cola_bd3lm"
    block_size: int = 0  # not given: no model has it


class BD3LMModel(MaskedModel):
    """A transformer that predicts the masked tokens of a block behind clean blocks."""

    config_class = BD3LMConfig

    def __init__(self, config: BD3LMConfig) -> None:
        size: object = config.block_size
        if type(size) is not int or size < 1:
            raise ValueError(f"block_size is {size!r}, not a whole number from 1 on")
        super().__init__(config)

    def forward(self, tokens_BL: Tensor, noisy_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of all positions of the noisy copy."""
        features = self.noisy_features(noisy_BL, self.history(tokens_BL))
        logits: Tensor = self.lm_head(features)
        return logits

    @property
    def layers(self) -> list[LlamaDecoderLayer]:
        """The blocks of the trunk in order."""
        return [cast(LlamaDecoderLayer, layer) for layer in self.model.layers]

    def uses_flex(self, device: torch.device) -> bool:
        """Whether the training pass uses FlexAttention."""
        return device.type == "cuda"

    def history(self, tokens_BL: Tensor) -> list[KeysValues]:
        """Keys and values (B, H, L - s, D) of the clean copy, per layer.

        Clean tokens see clean ones alone. The last block and the last layer's output are never
        read, and are left out. Rows are filled up for `noisy_features` (`execution.filled`).
        """
        size, device = self.config.block_size, tokens_BL.device
        length = tokens_BL.shape[1] - size
        hidden, rotary = self._embedded(tokens_BL[:, :length], torch.arange(length, device=device))
        hidden = filled(hidden)
        flex = self.uses_flex(device) and length > 0
        layout = block_causal_layout(length, size, device) if flex else None
        mask = block_causal_mask(length, size, device) if layout is None else None
        history: list[KeysValues] = []
        for layer in self.layers[:-1] if length else ():
            hidden, k, v = run_block(clean_layer, layer, hidden, rotary, mask=mask, layout=layout)
            history.append((k, v))
        for layer in self.layers[len(history) :]:
            history.append(run_block(keys_values, layer, hidden, rotary))
        return history

    def noisy_features(self, noisy_BL: Tensor, history: list[KeysValues]) -> Tensor:
        """Inputs of the output head, (B, L, C), of every noisy block behind the clean ones.

        `history` is what `history` returns of the clean tokens.
        """
        size, (length, device) = self.config.block_size, (noisy_BL.shape[1], noisy_BL.device)
        hidden, rotary = self._embedded(noisy_BL, torch.arange(length, device=device))
        hidden = filled(hidden)
        layout = noisy_layout(length, size, device) if self.uses_flex(device) else None
        chunks = noisy_chunks(length, size, device) if layout is None else ()
        for layer, past in zip(self.layers, history, strict=True):
            hidden = run_block(
                noisy_layer, layer, hidden, past, rotary, chunks=chunks, layout=layout
            )
        return self._normed(emptied(hidden, len(noisy_BL)))

    def block_features(self, noisy_Bs: Tensor, cache: KVCache) -> Tensor:
        """`noisy_features` of one block behind the cached clean ones, (B, s, C)."""
        return self._normed(self._through(noisy_Bs, cache, last=True))

    def write_clean(self, tokens_BT: Tensor, cache: KVCache) -> None:
        """Write clean tokens behind the cached ones, for `KVCache.advance` to keep."""
        self._through(tokens_BT, cache, last=False)

    def new_cache(self, rows: int, capacity: int, *, step: int | None = None) -> KVCache:
        """An empty cache for `capacity` tokens a row."""
        return llama_cache(self, rows, capacity, step=step)

    def _through(self, tokens_BT: Tensor, cache: KVCache, *, last: bool) -> Tensor:
        """The last layer's output (B, T, C) behind the cache; not `last`: the one before's."""
        count = tokens_BT.shape[1]
        hidden, rotary = self._embedded(tokens_BT, cache.positions(count))
        view = cache.view(count, self.config.block_size)
        for index, layer in enumerate(self.layers):
            if not last and index == len(self.layers) - 1:  # nobody reads its output
                view.update(*keys_values(layer, hidden, rotary), index)
                break
            q, k, v = queries_keys_values(layer, hidden, rotary)
            seen_k, seen_v = view.update(k, v, index)
            attended = attend(q, seen_k.to(q.dtype), seen_v.to(q.dtype), mask=view.mask)
            hidden = with_attention(layer, hidden, attended)
        return hidden

    def _embedded(self, tokens_BL: Tensor, position: Tensor) -> tuple[Tensor, Rotary]:
        """(B, L, C), and the rotary embedding of positions (L,) or (B, L)."""
        hidden: Tensor = self.model.embed_tokens(tokens_BL)
        position_BL = position if position.dim() == 2 else position[None]
        rotary: Rotary = self.model.rotary_emb(hidden, position_ids=position_BL)
        return hidden, rotary

    def _normed(self, hidden_BLC: Tensor) -> Tensor:
        features: Tensor = self.model.norm(hidden_BLC)
        return features


def clean_layer(
    layer: LlamaDecoderLayer,
    hidden_BLC: Tensor,
    rotary: Rotary,
    *,
    mask: Tensor | None,
    layout: BlockMask | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer on the clean copy: its output (B, L, C), its keys and its values.

    One of mask and layout says which tokens see which.
    """
    q, k, v = queries_keys_values(layer, hidden_BLC, rotary)
    seen = attend(q, k, v, mask=mask) if layout is None else attend_flex(q, k, v, layout=layout)
    return with_attention(layer, hidden_BLC, seen), k, v


def noisy_layer(
    layer: LlamaDecoderLayer,
    hidden_BLC: Tensor,
    past: KeysValues,
    rotary: Rotary,
    *,
    chunks: Sequence[QueryChunk],
    layout: BlockMask | None,
) -> Tensor:
    """The layer on the noisy copy, (B, L, C); `past` are the clean copy's keys and values.

    The layout, or where there is none the chunks, say which tokens see which.
    """
    q, k, v = queries_keys_values(layer, hidden_BLC, rotary)
    if layout is None:
        seen = attend_in_chunks(q, past, (k, v), chunks=chunks)
    else:
        keys, values = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        seen = attend_flex(q, keys, values, layout=layout)
    return with_attention(layer, hidden_BLC, seen)


def queries_keys_values(
    layer: LlamaDecoderLayer, hidden_BLC: Tensor, rotary: Rotary
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a layer's attention, (B, H, L, D) each."""
    attention, normed = layer.self_attn, layer.input_layernorm(hidden_BLC)
    q, k, v = (
        project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return rotated(q, rotary), rotated(k, rotary), v


def keys_values(layer: LlamaDecoderLayer, hidden_BLC: Tensor, rotary: Rotary) -> KeysValues:
    """Keys and values alone, of a layer whose output nobody reads."""
    attention, normed = layer.self_attn, layer.input_layernorm(hidden_BLC)
    k, v = (
        project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.k_proj, attention.v_proj)
    )
    return rotated(k, rotary), v


def with_attention(layer: LlamaDecoderLayer, hidden_BLC: Tensor, seen_BHLD: Tensor) -> Tensor:
    """The layer's output (B, L, C) from what its attention has gathered."""
    hidden_BLC = hidden_BLC + layer.self_attn.o_proj(merge_heads(seen_BHLD))
    output: Tensor = hidden_BLC + layer.mlp(layer.post_attention_layernorm(hidden_BLC))
    return output


def rotated(x_BHLD: Tensor, rotary: Rotary) -> Tensor:
    """Rotary embedding of the channel pairs (i, i + D/2), as in `transformers`' Llama."""
    cos, sin = (part.unsqueeze(1) for part in rotary)
    turned: Tensor = x_BHLD * cos + rotate_half(x_BHLD) * sin
    return turned


def build_bd3lm(spec: TransformerSpec, block_size: int) -> BD3LMModel:
    """A freshly initialised model of these sizes."""
    return BD3LMModel(BD3LMConfig(**llama_config(spec), block_size=block_size))


AutoConfig.register(BD3LMConfig.model_type, BD3LMConfig)
AutoModel.register(BD3LMConfig, BD3LMModel)
