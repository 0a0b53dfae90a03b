"""Continuations of block diffusion over masks (model.md, Eqs. 34 and 41): block after block.

A block is unmasked behind the cached clean ones, in passes of its own tokens alone, and joins them.
Places that a continuation does not need stay masked; of a gap's they have its right context.
B rows, s tokens a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.models.block_transformer import BD3LMModel
from cola.models.kv_cache import compact_order, rounded_up
from cola.sampling import static_step
from cola.sampling.autoregressive import right_padded
from cola.sampling.continuous_batching import (
    Ended,
    PromptQueue,
    Sample,
    Stop,
    check_rows,
)
from cola.sampling.iterative_unmasking import predictions, unmask
from cola.seeding import Stream
from cola.spec import GenerationSpec

# By which the cache that a block sees grows where shapes are fixed, in tokens: a chosen value.
COLUMNS = 512


def iter_generate(
    model: BD3LMModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
    rows: int,
    ended: Ended | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(index of the prompt, continuation) as continuations end; see `Family.iter_generate`."""
    stop = Stop(settings.max_new_tokens, eos_token_id, ended)
    for active in iter_blocks(model, prompts, settings, stream=stream, stop=stop, rows=rows):
        yield from ((sample.index, sample.generated) for sample in active if sample.done)


def stream_blocks(
    model: BD3LMModel,
    prompt: Sequence[int],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
) -> Iterator[list[int]]:
    """The continuation of one prompt, block by block; see `Family.stream`."""
    stop = Stop(settings.max_new_tokens, eos_token_id)
    for (sample,) in iter_blocks(model, [prompt], settings, stream=stream, stop=stop, rows=1):
        yield sample.take_new_tokens()


def iter_blocks(
    model: BD3LMModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    stop: Stop,
    rows: int,
) -> Iterator[list[Sample]]:
    """After each block, the samples that it extended (those that ended with it included)."""
    if not prompts:
        return
    check_rows(rows)
    size = model.config.block_size
    longest = max(len(prompt) for prompt in prompts) + settings.max_new_tokens
    fixed = static_step.fixed_shapes(model.device)
    step = rounded_up(COLUMNS, size) if fixed else None
    capacity = rounded_up(longest, step or size)
    queue, rows = PromptQueue(prompts, stream, stop), min(rows, len(prompts))
    with static_step.reused(
        model,
        (settings, rows, capacity),
        lambda: ActiveBatch(model, settings, rows, capacity=capacity, step=step),
    ) as batch:
        while queue or batch.rows:
            batch.join(queue.take(rows - len(batch.rows))[0])
            active = [row.sample for row in batch.rows]
            batch.step()
            yield active


def infill(
    model: BD3LMModel,
    lefts: Sequence[Sequence[int]],
    gaps: Sequence[int],
    *,
    rights: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
) -> list[list[int]]:
    """Exactly `gaps[i]` tokens between `lefts[i]` and `rights[i]`.

    Blocks see those before them alone: the right context acts on the gap's last block, as far as it
    shares it, and not at all where the gap ends a block. EOS does not end a gap.
    """
    samples = [
        Sample(row, left, stream.of([row]), stop=Stop(gap, None))
        for row, (left, gap) in enumerate(zip(lefts, gaps, strict=True))
    ]
    size, filled = model.config.block_size, [sample for sample in samples if sample.left]
    longest = max((len(sample.prompt) + sample.left for sample in filled), default=0)
    batch = ActiveBatch(model, settings, len(filled), capacity=rounded_up(longest, size), step=None)
    batch.join(filled, [rights[sample.index] for sample in filled])
    while batch.rows:
        batch.step()
    return [sample.generated for sample in samples]


@dataclass
class ActiveRow:
    """A sample that has not ended: the prompt's tokens in its next block, those behind the last one
    that is made, and the number of blocks that were made."""

    sample: Sample
    known: list[int]
    behind: Sequence[int] = ()
    blocks: int = 0


class ActiveBatch:
    """Samples that have not ended, in the order of the cache's rows.

    At most `rows` of them, of at most `capacity` tokens.
    """

    def __init__(
        self,
        model: BD3LMModel,
        settings: GenerationSpec,
        rows: int,
        *,
        capacity: int,
        step: int | None,
    ) -> None:
        self._model, self._settings = model, settings
        self._size = model.config.block_size
        self.rows: list[ActiveRow] = []
        self._cache = model.new_cache(rows, capacity, step=step)
        self._cache.keep([])
        self._unmask = static_step.StaticStep(self._unmasked, model.device)
        self._commit = static_step.StaticStep(self._committed, model.device)

    def join(self, added: list[Sample], behind: Sequence[Sequence[int]] | None = None) -> None:
        """Read the whole blocks of new samples' prompts; `behind` are tokens behind their gaps."""
        if not added:
            return
        prompts = [list(sample.prompt) for sample in added]
        whole = [len(prompt) // self._size * self._size for prompt in prompts]
        part = self._cache.unused(len(added))
        if max(whole):
            texts = [prompt[:count] for prompt, count in zip(prompts, whole, strict=True)]
            self._model.write_clean(right_padded(texts, 0, self._model.device), part)
            part.advance(whole)
        self._cache.append(part)
        rows = zip(added, prompts, whole, behind or [()] * len(added), strict=True)
        self.rows += [ActiveRow(sample, text[count:], right) for sample, text, count, right in rows]

    def step(self) -> None:
        """Generate one more block of every sample; drop those that end with it."""
        rows, size = self.rows, self._size
        ends = [min(size, len(row.known) + row.sample.left) for row in rows]
        block_Bs = self._block(ends)
        for row, tokens, end in zip(rows, block_Bs.tolist(), ends, strict=True):
            row.sample.extend(tokens[len(row.known) : end])
            row.known, row.blocks = [], row.blocks + 1
        order = compact_order([index for index, row in enumerate(rows) if not row.sample.done])
        self.rows = [rows[index] for index in order]
        self._cache.keep(order)
        if order:  # a sample that has not ended has filled its block
            index = torch.tensor(order, dtype=torch.long, device=block_Bs.device)
            given = static_step.padded(self._cache.rows, block_Bs[index])
            self._commit((self._cache.rows, self._cache.columns), *given)
            self._cache.advance([size] * len(order))

    def _block(self, ends: list[int]) -> Tensor:
        """The next block of every row (B, s), unmasked up to the column in `ends`."""
        cache, mask = self._cache, self._model.config.mask_token_id
        starts = [len(row.known) for row in self.rows]
        blocks = [self._size * [mask] for _ in self.rows]
        for block, row, start, end in zip(blocks, self.rows, starts, ends, strict=True):
            right = row.behind[: self._size - end]
            block[:start], block[end : end + len(right)] = row.known, right
        block_Bs = torch.tensor(blocks, device=self._model.device)
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        passes = [self._settings.passes_of(count) for count in counts]
        for number in range(max(passes)):
            unmasked = [
                round(count * min(number + 1, last) / last)
                for count, last in zip(counts, passes, strict=True)
            ]
            given = static_step.padded(
                cache.rows,
                block_Bs,
                self._plan(starts, ends, unmasked, first=number == 0),
                self._numbers("token", number) if self._settings.temperature > 0 else None,
                self._numbers("order", number) if self._settings.remasking == "random" else None,
            )
            (made_Bs,) = self._unmask((cache.rows, cache.columns), *given)
            block_Bs = made_Bs[: len(self.rows)].clone()
        return block_Bs

    def _plan(
        self, starts: list[int], ends: list[int], unmasked: list[int], *, first: bool
    ) -> Tensor:
        """What `unmask` is to do in a pass, (B, 3), of which the `first` one sees masks alone."""
        if first and self._settings.remasking == "low_confidence":
            # Behind nothing all masks are alike, and rounding would choose: the first ones are it.
            lengths = zip(self._cache.lengths, starts, ends, unmasked, strict=True)
            ends = [count if before + start == 0 else end for before, start, end, count in lengths]
        plan = list(zip(starts, ends, unmasked, strict=True))
        return torch.tensor(plan, device=self._model.device)

    def _numbers(self, purpose: str, number: int) -> Tensor:
        """A number for every token of the rows' blocks in a pass, (B, s)."""
        drawn = [
            row.sample.stream.uniform(f"{purpose}/{row.blocks}/{number}", self._size)
            for row in self.rows
        ]
        return torch.cat(drawn).to(self._model.device)

    def _unmasked(
        self, block_Bs: Tensor, plan_B3: Tensor, token_Bs: Tensor | None, order_Bs: Tensor | None
    ) -> tuple[Tensor]:
        """The blocks with a pass's tokens unmasked: a step of fixed shapes."""
        features = self._model.block_features(block_Bs, self._cache)
        logits = self._model.lm_head(features).float()
        ids, confidence = predictions(logits, self._settings, token_Bs, order_Bs)
        masked = block_Bs == self._model.config.mask_token_id
        return (unmask(block_Bs, ids, confidence, masked=masked, plan_B3=plan_B3),)

    def _committed(self, block_Bs: Tensor) -> tuple[Tensor, ...]:
        """Write a block of every row behind its prefix: a step of fixed shapes without outputs."""
        self._model.write_clean(block_Bs, self._cache)
        return ()
