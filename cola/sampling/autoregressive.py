"""Batched AR generation with a KV cache, for prompts of unequal length.

Rows whose continuation has ended are given to prompts that wait. B rows, S cached entries, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from cola.sampling.each import Ended, Queue, Sample, Stop, in_order
from cola.sampling.tokens import sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

# Share of the rows that must be free before they are filled again: dropping and joining rows
# copies the whole cache, and prompts are read faster together.
REFILL_SHARE = 0.25


def generate(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of at most `max_new_tokens` tokens, cut after EOS; see `Family.generate`."""
    return in_order(generate_each(model, prompts, settings, stream, eos_token_id, len(prompts)))


def generate_each(
    model: LlamaForCausalLM,
    prompts: Sequence[list[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
    rows: int,
    ended: Ended | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """See `Family.generate_each`."""
    queue = Queue(prompts, stream, Stop(settings.max_new_tokens, eos_token_id, ended))
    work = Rows(model, settings)
    while queue or work.running:
        room = rows - work.running
        if queue and room >= REFILL_SHARE * rows:
            work.drop_ended()
            over = work.join(queue.take(room)[0])
        else:
            if len(work.samples) - work.running >= REFILL_SHARE * len(work.samples):
                work.drop_ended()
            over = work.step()
        yield from ((sample.index, sample.made) for sample in over)


def stream_tokens(
    model: LlamaForCausalLM,
    prompt: list[int],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> Iterator[list[int]]:
    """See `Family.stream`: token by token."""
    work = Rows(model, settings)
    (sample,), _ = Queue([prompt], stream, Stop(settings.max_new_tokens, eos_token_id)).take(1)
    work.join([sample])
    yield sample.news()
    while not sample.done:
        work.step()
        yield sample.news()


class Rows:
    """Samples in work, right-aligned, with their cache; ended ones stay until they are dropped."""

    def __init__(self, model: LlamaForCausalLM, settings: GenerationSpec) -> None:
        self._model, self._settings = model, settings
        self.samples: list[Sample] = []
        self._clear()

    def _clear(self) -> None:
        self._cache = DynamicCache(config=self._model.config)
        none = torch.zeros(0, 1, dtype=torch.long, device=self._model.device)
        # What the next pass reads, its positions, and 1 where the cache holds a real token (B, S).
        self._inputs, self._position, self._real = none, none, none[:, :0]

    @property
    def running(self) -> int:
        """How many samples have not ended."""
        return sum(not sample.done for sample in self.samples)

    def join(self, fresh: list[Sample]) -> list[Sample]:
        """Read the prompts of new samples and give each its first token; those ended by it."""
        start = self._model.config.bos_token_id
        texts = [[start, *sample.prompt] for sample in fresh]
        inputs, real = left_padded(texts, start, self._model.device)
        position = (real.cumsum(1) - 1).clamp_min(0)
        cache = DynamicCache(config=self._model.config)
        logits_BV = self._pass(inputs, real, position, cache)
        if self.samples:
            join_caches(self._cache, cache)
        else:
            self._cache = cache
        width = max(self._real.shape[1], real.shape[1])
        padded = [F.pad(part, (width - part.shape[1], 0)) for part in (self._real, real)]
        self._real = torch.cat(padded)
        self._position = torch.cat([self._position, position[:, -1:] + 1])
        self._inputs = torch.cat([self._inputs, inputs[:, -1:]])
        first = len(self.samples)
        self.samples = [*self.samples, *fresh]
        return self._choose(logits_BV, list(range(first, len(self.samples))))

    def step(self) -> list[Sample]:
        """One more token for every sample that has not ended; those that end with it."""
        self._real = F.pad(self._real, (0, 1), value=1)
        logits_BV = self._pass(self._inputs, self._real, self._position, self._cache)
        self._position = self._position + 1
        going = [row for row, sample in enumerate(self.samples) if not sample.done]
        return self._choose(logits_BV[going], going)

    def drop_ended(self) -> None:
        """Keep only the rows, and of the cache only the columns, that somebody still needs."""
        going = [row for row, sample in enumerate(self.samples) if not sample.done]
        if len(going) == len(self.samples):
            return
        self.samples = [self.samples[row] for row in going]
        if not going:
            self._clear()
            return
        self._real = self._real[going]
        unused = int(self._real.any(0).long().argmax())
        self._real = self._real[:, unused:]
        self._inputs, self._position = self._inputs[going], self._position[going]
        for layer in self._cache.layers:
            layer.keys = layer.keys[going, :, unused:]
            layer.values = layer.values[going, :, unused:]

    def _pass(self, inputs: Tensor, real: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
        """Logits (B, V) behind the last input; the cache grows by the inputs."""
        output = self._model(
            input_ids=inputs,
            attention_mask=real,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        # The start token is an input only: it is never generated.
        logits_BV: Tensor = output.logits[:, -1, : self._model.config.bos_token_id]
        return logits_BV

    def _choose(self, logits_BV: Tensor, rows: list[int]) -> list[Sample]:
        """Sample a token for each of the rows; the samples that end with it."""
        chosen = [self.samples[row] for row in rows]
        drawn, previous = None, None
        if self._settings.temperature > 0:
            own = [sample.stream.uniform(f"token/{len(sample.made)}") for sample in chosen]
            drawn = torch.cat(own)
        if self._settings.repetition_penalty != 1.0:
            previous = [[*sample.prompt, *sample.made] for sample in chosen]
        ids = sample_tokens(logits_BV, self._settings, drawn, previous)
        self._inputs[rows, 0] = ids
        for sample, token in zip(chosen, ids.tolist(), strict=True):
            sample.take([token])
        return [sample for sample in chosen if sample.done]


def join_caches(cache: DynamicCache, other: DynamicCache) -> None:
    """Add the rows of `other` to `cache`, right-aligned; the shorter one is padded with zeros."""
    for mine, its in zip(cache.layers, other.layers, strict=True):
        missing = its.keys.shape[2] - mine.keys.shape[2]
        for name in ("keys", "values"):
            above = F.pad(getattr(mine, name), (0, 0, max(0, missing), 0))
            below = F.pad(getattr(its, name), (0, 0, max(0, -missing), 0))
            setattr(mine, name, torch.cat([above, below]))


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
