"""Continuations of Cola DLM: as many rows in work as there may be, refilled at block borders.

Shapes: B batch, s latents a block, d latent width, P tokens a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from cola.models.cola_dlm import ColaDLM
from cola.models.kv_cache import closed_ranks
from cola.sampling.block_decode import BlockDecoder, Sources
from cola.sampling.each import Ended, Queue, Sample, Stop, in_order
from cola.sampling.first_block import (
    complete_patches,
    encode_prompts,
    nothing_known,
    padded_prompts,
)
from cola.seeding import Stream
from cola.spec import GenerationSpec


def generate(
    model: ColaDLM,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of at most `max_new_tokens` tokens, cut after EOS; see `Family.generate`."""
    return in_order(generate_each(model, prompts, settings, stream, eos_token_id, len(prompts)))


def generate_each(
    model: ColaDLM,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
    rows: int,
    ended: Ended | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """See `Family.generate_each`."""
    stop = Stop(settings.max_new_tokens, eos_token_id, ended)
    for touched in rounds(model, prompts, settings, stream, stop, rows):
        yield from ((sample.index, sample.made) for sample in touched if sample.done)


def stream_blocks(
    model: ColaDLM,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> Iterator[list[list[int]]]:
    """New tokens of every row after each block, until all have ended (EOS kept) or are full.

    What a row got over all blocks is its continuation, of at most `max_new_tokens` tokens.
    """
    stop = Stop(settings.max_new_tokens, eos_token_id)
    for touched in rounds(model, prompts, settings, stream, stop, len(prompts)):
        fresh: list[list[int]] = [[] for _ in prompts]
        for sample in touched:
            fresh[sample.index] = sample.news()
        yield fresh


def rounds(
    model: ColaDLM,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
    stop: Stop,
    rows: int,
) -> Iterator[list[Sample]]:
    """The samples in work after each block, those included that have ended with it."""
    if not prompts:
        return
    per_block = model.tokens_per_block
    longest = max(len(prompt) for prompt in prompts) + settings.max_new_tokens
    # One block more than the tokens fill: padding, or a split patch, may begin another one.
    capacity = (-(-longest // per_block) + 1) * model.dit.config.block_size
    decoder = BlockDecoder(model, settings, min(rows, len(prompts)), capacity)
    queue, pad = Queue(prompts, stream, stop), stop.eos_token_id
    work = Rows(decoder, settings, 0 if pad is None else pad)
    while queue or work.samples:
        over = work.join(*queue.take(rows - len(work.samples)))
        touched = [*over, *work.samples]
        if work.samples:
            work.step()
        yield touched


@dataclass
class Row:
    """A sample that has not ended, and where it stands.

    `skip` tokens of its next block are its prompt's; `previous` is what a repetition penalty looks
    at.
    """

    sample: Sample
    sources: Sources
    skip: int
    previous: list[int]
    blocks: int = 0


class Rows:
    """Samples that have not ended, in the order of the decoder's rows."""

    def __init__(self, decoder: BlockDecoder, settings: GenerationSpec, pad: int) -> None:
        self._decoder, self._settings, self._pad = decoder, settings, pad
        self._rows: list[Row] = []
        self._known = nothing_known(decoder.model, 0)  # of the blocks to come

    @property
    def samples(self) -> list[Sample]:
        """The samples in work."""
        return [row.sample for row in self._rows]

    def join(self, fresh: list[Sample], stream: Stream) -> list[Sample]:
        """Encode the prompts of new samples; those that end with their split patch."""
        if not fresh:
            return []
        model, settings, pad = self._decoder.model, self._settings, self._pad
        texts = [sample.prompt for sample in fresh]
        given = padded_prompts(texts, settings.first_block, model.tokens_per_block, pad)
        fills = complete_patches(model, given, settings, stream, pad)
        for sample, text, fill in zip(fresh, given, fills, strict=True):
            sample.take(fill)
            text += fill
        going = [index for index, sample in enumerate(fresh) if not sample.done]
        if going:
            encoded = encode_prompts(model, [given[index] for index in going], pad)
            self._decoder.add(encoded)
            first = encoded.block(0, model.dit.config.block_size, model.tokens_per_block)
            self._known = self._known.above(first)
            for index, skip in zip(going, encoded.tail, strict=True):
                sources = Sources(model, settings, fresh[index].stream)
                self._rows.append(Row(fresh[index], sources, skip, given[index]))
        return [sample for sample in fresh if sample.done]

    def step(self) -> None:
        """One more block for every sample; those that end with it leave."""
        rows = self._rows
        noise_Bsd = torch.cat([row.sources.noise(row.blocks) for row in rows])
        uniform_BP = None
        if self._settings.temperature > 0:
            uniform_BP = torch.cat([row.sources.uniform(row.blocks) for row in rows])
        looks_back = self._settings.repetition_penalty != 1.0
        previous = [row.previous for row in rows] if looks_back else None
        block = self._decoder.next(self._known, noise_Bsd, uniform_BP, previous)
        for row, tokens in zip(rows, block.tokens.tolist(), strict=True):
            row.sample.take(tokens[row.skip :])
            row.skip, row.blocks = 0, row.blocks + 1
        order = closed_ranks([place for place, row in enumerate(rows) if not row.sample.done])
        self._decoder.keep(block, order)
        self._rows = [rows[place] for place in order]
        # Only the first block behind a prompt holds anything known.
        self._known = nothing_known(self._decoder.model, len(order))
