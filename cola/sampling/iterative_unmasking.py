"""LLaDA's generation (model.md, Eqs. 34 and 35): from masks, keep some predictions every step.

A continuation is a gap without a right context. Every pass reads whole texts: what a token sees
changes with every unmasked one, so that keys and values of one pass are no other's and there is no
cache. B rows, G tokens of the longest gap, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cola.models.kv_cache import power_of_two, rounded_up
from cola.models.transformer import LLaDAModel
from cola.sampling import static_step
from cola.sampling.continuous_batching import (
    Ended,
    PromptQueue,
    Sample,
    Stop,
    check_rows,
)
from cola.sampling.tokens import sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

COLUMNS = 64  # to a multiple of which contexts are padded where shapes are fixed, a chosen value


def iter_generate(
    model: LLaDAModel,
    prompts: Sequence[list[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
    rows: int,
    ended: Ended | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(index of the prompt, continuation) as continuations end; see `Family.iter_generate`.

    A continuation can end at the border of an `unmasking_block`: what is left of it is unmasked.
    """
    if not prompts:
        return
    check_rows(rows)
    queue = PromptQueue(prompts, stream, Stop(settings.max_new_tokens, eos_token_id, ended))
    with static_step.reused(
        model, settings, lambda: GapBatch(model, settings, settings.max_new_tokens)
    ) as batch:
        while queue or batch.gaps:
            samples, _ = queue.take(rows - len(batch.gaps))
            batch.join([Gap.behind(sample, settings) for sample in samples])
            finished = batch.step()
            yield from ((sample.index, sample.generated) for sample in finished)


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
    longest = max(gaps, default=0)
    if longest == 0:
        return [[] for _ in gaps]
    batch = GapBatch(model, settings, longest)
    batch.join(
        [
            Gap(left, right, schedule(gap, settings), gap, stream.of([row]))
            for row, (left, gap, right) in enumerate(zip(lefts, gaps, rights, strict=True))
        ]
    )
    for _ in range(max(len(gap.steps) for gap in batch.gaps)):
        batch.step()
    return [row[:count] for row, count in zip(batch.tokens.tolist(), gaps, strict=True)]


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


@dataclass
class Gap:
    """`length` tokens to be filled in between two contexts, by `steps` of which `made` are done.

    Those of a `sample` are its continuation.
    """

    left: list[int]
    right: list[int]
    steps: list[Step]
    length: int
    stream: Stream
    sample: Sample | None = None
    made: int = 0

    @classmethod
    def behind(cls, sample: Sample, settings: GenerationSpec) -> Gap:
        """The gap behind the sample's prompt."""
        count = settings.max_new_tokens
        steps = schedule(count, settings)
        return cls(list(sample.prompt), [], steps, count, sample.stream, sample)

    @property
    def step(self) -> Step:
        """The next step; at the schedule's end the last one, which has nothing left to unmask."""
        return self.steps[min(self.made, len(self.steps) - 1)]

    @property
    def at_border(self) -> bool:
        """Whether the latest step was the last one of its block."""
        return self.made == len(self.steps) or self.steps[self.made].number == 0


class GapBatch:
    """Gaps in work, with at most `longest` tokens each; those of ended samples are dropped."""

    def __init__(self, model: LLaDAModel, settings: GenerationSpec, longest: int) -> None:
        self._model, self._settings, self._longest = model, settings, longest
        self.gaps: list[Gap] = []
        self.tokens = self._masked(0)  # (B, G)
        self._context: Context | None = None
        self._step = static_step.StaticStep(self._unmasked, model.device)

    def _masked(self, rows: int) -> Tensor:
        mask = self._model.config.mask_token_id
        return torch.full((rows, self._longest), mask, device=self._model.device)

    def join(self, added: list[Gap]) -> None:
        """Begin with these gaps, too."""
        if added:
            self.gaps = [*self.gaps, *added]
            self.tokens = torch.cat([self.tokens, self._masked(len(added))])
            self._context = None

    def step(self) -> list[Sample]:
        """A step of every gap; the samples that end with it."""
        context, gaps = self._padded_context(), self.gaps
        steps = [gap.step for gap in gaps]
        plan_B3 = torch.tensor([[s.start, s.end, s.unmasked] for s in steps])
        given = static_step.padded(
            len(context.real),
            self.tokens,
            plan_B3.to(self.tokens.device),
            self._numbers("token") if self._settings.temperature > 0 else None,
            self._numbers("order") if self._settings.remasking == "random" else None,
        )
        known = (context.left, context.right, context.real, context.position)
        (tokens_BG,) = self._step(None, *given, *known)
        self.tokens = tokens_BG[: len(gaps)].clone()
        for gap in gaps:
            gap.made += 1
        return self._finished(steps)

    def _numbers(self, purpose: str) -> Tensor:
        """A number for every token of the gaps at their next steps, (B, G)."""
        numbers = [
            gap.stream.uniform(f"{purpose}/{gap.step.name}", gap.length)[0] for gap in self.gaps
        ]
        return pad_sequence(numbers, batch_first=True).to(self.tokens.device)

    def _unmasked(
        self,
        gap: Tensor,
        plan_B3: Tensor,
        token: Tensor | None,
        order: Tensor | None,
        *known: Tensor,
    ) -> tuple[Tensor]:
        """The gaps with a step's tokens unmasked: a step of fixed shapes."""
        logits = guided_logits(self._model, Context(*known), gap, settings=self._settings)
        ids, confidence = predictions(logits, self._settings, token, order)
        masked = gap == self._model.config.mask_token_id
        return (unmask(gap, ids, confidence, masked=masked, plan_B3=plan_B3),)

    def _padded_context(self) -> Context:
        """The gaps' contexts; where shapes are fixed, with rows and columns of padding."""
        if self._context is None:
            fixed = static_step.fixed_shapes(self._model.device)
            rows = power_of_two(len(self.gaps)) if fixed else len(self.gaps)
            self._context = Context.of(
                self._model,
                self.gaps,
                rows,
                longest=self._longest,
                columns=COLUMNS if fixed else 1,
            )
        return self._context

    def _finished(self, steps: list[Step]) -> list[Sample]:
        """Give the samples at the border of a block its tokens; drop those that end."""
        border = [gap.sample is not None and gap.at_border for gap in self.gaps]
        if not any(border):
            return []
        finished = []
        for gap, step, tokens in zip(self.gaps, steps, self.tokens.tolist(), strict=True):
            if gap.sample is not None and gap.at_border:
                gap.sample.extend(tokens[step.start : step.end])
                if gap.sample.done:
                    finished.append(gap.sample)
        if finished:
            done = [gap.sample is not None and gap.sample.done for gap in self.gaps]
            kept = [row for row, ended in enumerate(done) if not ended]
            self.gaps = [self.gaps[row] for row in kept]
            self.tokens = self.tokens[
                torch.tensor(kept, dtype=torch.long, device=self.tokens.device)
            ]
            self._context = None
        return finished


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
        cls, model: LLaDAModel, gaps: Sequence[Gap], rows: int, *, longest: int, columns: int
    ) -> Context:
        """The contexts of gaps that are padded on their right to the `longest` one.

        Both contexts are padded to multiples of `columns`, and the batch to `rows`.
        """
        mask, device = model.config.mask_token_id, model.device
        none: list[list[int]] = [[] for _ in range(rows - len(gaps))]
        lefts = [*(gap.left for gap in gaps), *none]
        rights = [*(gap.right[::-1] for gap in gaps), *none]
        left, real_left = left_padded(lefts, mask, device, columns=columns)
        right, real_right = left_padded(rights, mask, device, columns=columns)
        counts = [*(gap.length for gap in gaps), *(longest for _ in none)]
        length = torch.tensor(counts, device=device)[:, None]
        real_gap = torch.arange(longest, device=device) < length
        real = torch.cat([real_left, real_gap, real_right.flip(1)], dim=1)
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
        return model(whole, context.real, context.position, wanted=inside).float()
    without = torch.full_like(whole, model.config.mask_token_id)
    without[:, inside] = gap
    both = torch.cat([whole, without])
    real, position = context.real.repeat(2, 1), context.position.repeat(2, 1)
    conditional, unconditional = model(both, real, position, wanted=inside).float().chunk(2)
    return unconditional + scale * (conditional - unconditional)


def predictions(
    logits_BGV: Tensor,
    settings: GenerationSpec,
    token_BG: Tensor | None,
    order_BG: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """A token for every position, drawn by `token_BG` (None: greedy), and its confidence, (B, G).

    The confidence is the token's probability, or `order_BG` where there is one.
    """
    numbers = None if token_BG is None else token_BG.flatten()
    ids = sample_tokens(logits_BGV.flatten(0, 1), settings, numbers).view(logits_BGV.shape[:2])
    if order_BG is not None:
        return ids, order_BG
    return ids, logits_BGV.softmax(-1).gather(-1, ids[..., None])[..., 0]


def unmask(
    gap: Tensor, ids: Tensor, confidence: Tensor, *, masked: Tensor, plan_B3: Tensor
) -> Tensor:
    """The gap (B, G) with each row's most confident masked tokens unmasked.

    plan_B3: a block's start and end, and how many of its tokens are then unmasked (`Step`).
    """
    position = torch.arange(gap.shape[1], device=gap.device)
    start, end, unmasked = (part[:, None] for part in plan_B3.unbind(1))
    inside = (position >= start) & (position < end)
    score = confidence.masked_fill(~(masked & inside), -1.0)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    already = (inside & ~masked).sum(1, keepdim=True)
    return torch.where((rank < unmasked - already) & masked & inside, ids, gap)


def left_padded(
    rows: list[list[int]], pad: int, device: torch.device, *, columns: int
) -> tuple[Tensor, Tensor]:
    """Rows right-aligned in one tensor (B, a multiple of `columns`), and True at real tokens."""
    width = rounded_up(max(len(row) for row in rows), columns)
    tokens = [[pad] * (width - len(row)) + row for row in rows]
    real = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
    return (
        torch.tensor(tokens, dtype=torch.long, device=device),
        torch.tensor(real, dtype=torch.bool, device=device),
    )
