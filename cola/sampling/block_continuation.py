"""Continuations of Cola DLM (model.md, Eqs. 19 to 22), with rows refilled at block borders.

Shapes: B batch, s latents a block, d latent width, P tokens a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from cola.models.kv_cache import compact_order, rounded_up
from cola.models.latents.latent_model import LatentModel
from cola.sampling import static_step
from cola.sampling.block_decode import COLUMNS, BlockDecoder, GenerationDraws
from cola.sampling.continuous_batching import (
    Ended,
    PromptQueue,
    Sample,
    Stop,
    check_rows,
)
from cola.sampling.first_block import (
    aligned_prompts,
    complete_patches,
    encode_prompts,
    nothing_known,
    padded_prompts,
)
from cola.seeding import Stream
from cola.spec import GenerationSpec


def iter_generate(
    model: LatentModel,
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
    model: LatentModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
) -> Iterator[list[list[int]]]:
    """New tokens of every row after each block, until all continuations have ended.

    A row's pieces concatenated are its continuation (EOS included), see `generate`.
    """
    stop = Stop(settings.max_new_tokens, eos_token_id)
    every_row = len(prompts)
    for active in iter_blocks(model, prompts, settings, stream=stream, stop=stop, rows=every_row):
        pieces: list[list[int]] = [[] for _ in prompts]
        for sample in active:
            pieces[sample.index] = sample.take_new_tokens()
        yield pieces


def iter_blocks(
    model: LatentModel,
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
    per_block = model.tokens_per_block
    longest = max(len(prompt) for prompt in prompts) + settings.max_new_tokens
    # One block more than the tokens fill, as padding or a split patch may begin another one.
    capacity = (-(-longest // per_block) + 1) * model.dit.config.block_size
    if static_step.fixed_shapes(model.dit.device):
        capacity = rounded_up(capacity, COLUMNS)
    queue, pad = PromptQueue(prompts, stream, stop), stop.eos_token_id
    rows = min(rows, len(prompts))
    with static_step.reused(
        cast(nn.Module, model),
        (settings, rows, capacity),
        lambda: BlockDecoder(model, settings, rows, capacity=capacity),
    ) as decoder:
        batch = ActiveBatch(decoder, settings, 0 if pad is None else pad)
        while queue or batch.samples:
            finished = batch.join(*queue.take(rows - len(batch.samples)))
            active = [*finished, *batch.samples]
            if batch.samples:
                batch.step()
            yield active


@dataclass
class ActiveRow:
    """A sample that has not ended, and its progress.

    The first `skip` tokens of its next block belong to the prompt; `blocks` counts its generated
    blocks.
    """

    sample: Sample
    draws: GenerationDraws
    skip: int
    blocks: int = 0


class ActiveBatch:
    """Samples that have not ended, in the order of the decoder's rows."""

    def __init__(self, decoder: BlockDecoder, settings: GenerationSpec, pad: int) -> None:
        self._decoder, self._settings, self._pad = decoder, settings, pad
        self._rows: list[ActiveRow] = []
        self._known = nothing_known(decoder.model, 0)  # known parts of the next block

    @property
    def samples(self) -> list[Sample]:
        """The samples in work."""
        return [row.sample for row in self._rows]

    def join(self, added: list[Sample], stream: Stream) -> list[Sample]:
        """Encode the prompts of new samples; those that end with their completed patch."""
        if not added:
            return []
        model, settings, pad = self._decoder.model, self._settings, self._pad
        prompts = [sample.prompt for sample in added]
        patch = model.codec.config.patch_size
        aligned = aligned_prompts(prompts, settings.split_patch, patch)
        texts = padded_prompts(aligned, settings.first_block, model.tokens_per_block, pad=pad)
        fills = complete_patches(model, texts, settings, stream=stream, pad=pad)
        for sample, text, fill in zip(added, texts, fills, strict=True):
            sample.extend(fill)
            text += fill
        kept = [index for index, sample in enumerate(added) if not sample.done]
        if kept:
            encoded = encode_prompts(model, [texts[index] for index in kept], pad)
            self._decoder.add(encoded, [texts[index] for index in kept])
            first = encoded.block(0, model.dit.config.block_size, model.tokens_per_block)
            self._known = self._known.with_rows(first)
            for index, skip in zip(kept, encoded.tail, strict=True):
                draws = GenerationDraws(model, settings, added[index].stream)
                self._rows.append(ActiveRow(added[index], draws, skip))
        return [sample for sample in added if sample.done]

    def step(self) -> None:
        """Generate one more block of every sample; drop those that end with it."""
        rows = self._rows
        noise_Bsd = torch.cat([row.draws.noise(row.blocks) for row in rows])
        uniform_BP = None
        if self._settings.temperature > 0:
            uniform_BP = torch.cat([row.draws.uniform(row.blocks) for row in rows])
        block = self._decoder.next(self._known, noise_Bsd, uniform_BP)
        for row, tokens in zip(rows, block.tokens.tolist(), strict=True):
            row.sample.extend(tokens[row.skip :])
            row.skip, row.blocks = 0, row.blocks + 1
        order = compact_order([index for index, row in enumerate(rows) if not row.sample.done])
        self._decoder.keep(block, order)
        self._rows = [rows[index] for index in order]
        # Only the first block behind a prompt has known parts.
        self._known = nothing_known(self._decoder.model, len(order))
