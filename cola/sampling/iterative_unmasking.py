"""LLaDA's generation: start from masks, keep some predictions at every step (section 8).

B batch, G new tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.transformer import LLaDAModel
from cola.sampling.autoregressive import left_padded
from cola.sampling.tokens import cut_after_eos, sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec


def generate(
    model: LLaDAModel,
    prompts: list[list[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of `max_new_tokens` tokens, cut after EOS; see `Family.generate`.

    The new tokens are unmasked in blocks of `unmasking_block` from left to right (None: one block),
    each in its share of `steps` steps with linearly growing counts.
    """
    device, length = model.device, settings.max_new_tokens
    prompt, real_prompt = left_padded(prompts, model.config.mask_token_id, device)
    new = torch.full((len(prompts), length), model.config.mask_token_id, device=device)
    real = torch.cat([real_prompt, torch.ones_like(new)], dim=1).bool()
    position = (real.long().cumsum(1) - 1).clamp_min(0)
    size = settings.unmasking_block or length
    starts = list(range(0, length, size))
    steps = max(1, settings.steps // len(starts))
    for start in starts:
        end = min(start + size, length)
        for step in range(steps):
            logits = guided_logits(model, prompt, new, real, position, settings)
            seen = f"{start}/{step}"
            ids, confidence = predictions(logits, settings, stream, seen)
            still = new == model.config.mask_token_id
            wanted = round((end - start) * (step + 1) / steps)
            new = unmasked(new, ids, confidence, still, (start, end), wanted)
    return [cut_after_eos(row, eos_token_id) for row in new.tolist()]


def guided_logits(
    model: LLaDAModel,
    prompt: Tensor,
    new: Tensor,
    real: Tensor,
    position: Tensor,
    settings: GenerationSpec,
) -> Tensor:
    """Logits of the new tokens (B, G, V); CFG masks the prompt for the unconditional pass."""
    scale, width = settings.unmasking_guidance_scale, prompt.shape[1]
    whole = torch.cat([prompt, new], dim=1)
    if scale == 1.0:
        return model(whole, real, position)[:, width:].float()
    without = torch.cat([torch.full_like(prompt, model.config.mask_token_id), new], dim=1)
    logits = model(torch.cat([whole, without]), real.repeat(2, 1), position.repeat(2, 1))[
        :, width:
    ].float()
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def predictions(
    logits_BGV: Tensor, settings: GenerationSpec, stream: Stream, purpose: str
) -> tuple[Tensor, Tensor]:
    """A token for every new position, and how much it deserves to be kept: two of (B, G)."""
    batch, length, _ = logits_BGV.shape
    drawn = None
    if settings.temperature > 0:
        drawn = stream.uniform(f"token/{purpose}", length).to(logits_BGV.device).flatten()
    ids = sample_tokens(logits_BGV.flatten(0, 1), settings, drawn).view(batch, length)
    if settings.remasking == "random":
        return ids, stream.uniform(f"order/{purpose}", length).to(logits_BGV.device)
    probability = logits_BGV.softmax(-1).gather(-1, ids[..., None])[..., 0]
    return ids, probability


def unmasked(
    new: Tensor,
    ids: Tensor,
    confidence: Tensor,
    still: Tensor,
    block: tuple[int, int],
    wanted: int,
) -> Tensor:
    """Reveal the most confident masked tokens of the block until `wanted` are revealed."""
    inside = torch.zeros_like(still)
    inside[:, block[0] : block[1]] = True
    score = confidence.masked_fill(~(still & inside), -1.0)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    revealed = (inside & ~still).sum(1, keepdim=True)
    return torch.where((rank < wanted - revealed) & still & inside, ids, new)
