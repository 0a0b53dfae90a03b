"""Batched AR generation with a KV cache, for prompts of unequal length (B batch)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cola.sampling.tokens import cut_after_eos, sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec


def generate(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of at most `max_new_tokens` tokens, cut after EOS; see `Family.generate`."""
    device = model.device
    start = model.config.bos_token_id
    inputs, real = left_padded([[start, *prompt] for prompt in prompts], start, device)
    position = (real.cumsum(1) - 1).clamp_min(0)
    previous = [list(prompt) for prompt in prompts]
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    cache, columns = None, []
    for step in range(settings.max_new_tokens):
        output = model(
            input_ids=inputs,
            attention_mask=real,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        drawn = stream.uniform(f"token/{step}") if settings.temperature > 0 else None
        # The start token is an input only: it is never generated.
        ids = sample_tokens(output.logits[:, -1, :start], settings, drawn, previous)
        columns.append(ids)
        for row, token in zip(previous, ids.tolist(), strict=True):
            row.append(token)
        if eos_token_id is not None:
            alive = alive & (ids != eos_token_id)
            if not bool(alive.any()):
                break
        inputs, position = ids[:, None], position[:, -1:] + 1
        real = torch.cat([real, real.new_ones(len(prompts), 1)], dim=1)
    return [cut_after_eos(row, eos_token_id) for row in torch.stack(columns, dim=1).tolist()]


def left_padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows right-aligned in one tensor (B, longest), and 1 where a token is real."""
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), pad, dtype=torch.long, device=device)
    real = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        if row:
            tokens[index, -len(row) :] = torch.tensor(row, device=device)
            real[index, -len(row) :] = 1
    return tokens, real
