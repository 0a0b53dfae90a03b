"""LLaDA's generation (model.md, Eqs. 34 and 35): from masks, keep some predictions every step.

A continuation is a gap without a right context. B batch, G tokens of the longest gap, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cola.models.transformer import LLaDAModel
from cola.sampling.autoregressive import left_padded
from cola.sampling.tokens import cut_after_eos, sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec


def generate(
    model: LLaDAModel,
    prompts: list[list[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of `max_new_tokens` tokens, cut after EOS; see `Family.generate`."""
    gaps = [settings.max_new_tokens] * len(prompts)
    rows = infill(
        model, prompts, gaps, rights=[[] for _ in prompts], settings=settings, stream=stream
    )
    return [cut_after_eos(row, eos_token_id) for row in rows]


def infill(
    model: LLaDAModel,
    lefts: list[list[int]],
    gaps: list[int],
    *,
    rights: list[list[int]],
    settings: GenerationSpec,
    stream: Stream,
) -> list[list[int]]:
    """Exactly `gaps[i]` tokens between `lefts[i]` and `rights[i]`.

    Every step sees both contexts and the tokens unmasked so far. A gap is unmasked in blocks of
    `unmasking_block` from left to right (None: one block), `tokens_per_pass` of them a pass
    (`schedule`). EOS does not end a gap.
    """
    if max(gaps, default=0) == 0:
        return [[] for _ in gaps]
    context = Context.of(model, lefts, gaps, rights=rights)
    mask = model.config.mask_token_id
    gap = torch.full((len(gaps), max(gaps)), mask, device=model.device)
    schedules = [schedule(count, settings) for count in gaps]
    own = [stream.of([row]) for row in range(len(gaps))]
    for number in range(max(len(steps) for steps in schedules)):
        # A row at the end of its schedule repeats its last step, which has nothing left to unmask.
        steps = [row[min(number, len(row) - 1)] for row in schedules]
        logits = guided_logits(model, context, gap, settings=settings)
        ids, confidence = predictions(logits, settings, own, gaps=gaps, steps=steps)
        gap = unmask(gap, ids, confidence, masked=gap == mask, steps=steps)
    return [row[:count] for row, count in zip(gap.tolist(), gaps, strict=True)]


@dataclass(frozen=True)
class Step:
    """After it, `unmasked` tokens of the gap's block from `start` to `end` are unmasked."""

    start: int
    end: int
    number: int
    unmasked: int

    @property
    def name(self) -> str:
        """Part of the purpose of its random numbers."""
        return f"{self.start}/{self.number}"


def schedule(gap: int, settings: GenerationSpec) -> list[Step]:
    """The steps that fill a gap of `gap` tokens (model.md, Eq. 34).

    An empty gap has steps, too, which unmask nothing.
    """
    return [
        Step(start, end, number, round((end - start) * (number + 1) / count))
        for start, end, count in settings.unmasking_blocks(gap)
        for number in range(count)
    ]


@dataclass(frozen=True)
class Context:
    """Padded contexts on both sides of the gaps, in columns [left | gap | right].

    `real` is False at padding, which is hidden; `position` counts real tokens.
    """

    left: Tensor
    right: Tensor
    real: Tensor
    position: Tensor

    @classmethod
    def of(
        cls, model: LLaDAModel, lefts: list[list[int]], gaps: list[int], *, rights: list[list[int]]
    ) -> Context:
        """The contexts of a batch. A gap shorter than the longest one is padded on its right."""
        mask, device = model.config.mask_token_id, model.device
        left, real_left = left_padded(lefts, mask, device)
        right, real_right = left_padded([row[::-1] for row in rights], mask, device)
        length = torch.tensor(gaps, device=device)[:, None]
        real_gap = torch.arange(max(gaps), device=device) < length
        real = torch.cat([real_left.bool(), real_gap, real_right.bool().flip(1)], dim=1)
        return cls(left, right.flip(1), real, (real.long().cumsum(1) - 1).clamp_min(0))


def guided_logits(
    model: LLaDAModel, context: Context, gap: Tensor, *, settings: GenerationSpec
) -> Tensor:
    """Logits of the gap's tokens (B, G, V), guided as in model.md, Eq. 35.

    The unconditional pass sees the context masked.
    """
    scale, start = settings.unmasking_guidance_scale, context.left.shape[1]
    inside = slice(start, start + gap.shape[1])
    whole = torch.cat([context.left, gap, context.right], dim=1)
    if scale == 1.0:
        return model(whole, context.real, context.position)[:, inside].float()
    without = torch.full_like(whole, model.config.mask_token_id)
    without[:, inside] = gap
    both = torch.cat([whole, without])
    logits = model(both, context.real.repeat(2, 1), context.position.repeat(2, 1))
    conditional, unconditional = logits[:, inside].float().chunk(2)
    return unconditional + scale * (conditional - unconditional)


def predictions(
    logits_BGV: Tensor,
    settings: GenerationSpec,
    streams: Sequence[Stream],
    *,
    gaps: Sequence[int],
    steps: Sequence[Step],
) -> tuple[Tensor, Tensor]:
    """A token for every position and its confidence, (B, G) each.

    The confidence is the token's probability, or a random number with `remasking="random"`.
    """

    def uniform(purpose: str) -> Tensor:
        rows = zip(streams, gaps, steps, strict=True)
        numbers = [own.uniform(f"{purpose}/{step.name}", gap)[0] for own, gap, step in rows]
        return pad_sequence(numbers, batch_first=True).to(logits_BGV.device)

    numbers = uniform("token").flatten() if settings.temperature > 0 else None
    ids = sample_tokens(logits_BGV.flatten(0, 1), settings, numbers).view(logits_BGV.shape[:2])
    if settings.remasking == "random":
        return ids, uniform("order")
    return ids, logits_BGV.softmax(-1).gather(-1, ids[..., None])[..., 0]


def unmask(
    gap: Tensor, ids: Tensor, confidence: Tensor, *, masked: Tensor, steps: Sequence[Step]
) -> Tensor:
    """The gap (B, G) with each row's most confident masked tokens unmasked, as its step asks."""
    position = torch.arange(gap.shape[1], device=gap.device)
    start, end, unmasked = torch.tensor(
        [[step.start, step.end, step.unmasked] for step in steps], device=gap.device
    ).T[:, :, None]
    inside = (position >= start) & (position < end)
    score = confidence.masked_fill(~(masked & inside), -1.0)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    already = (inside & ~masked).sum(1, keepdim=True)
    return torch.where((rank < unmasked - already) & masked & inside, ids, gap)
