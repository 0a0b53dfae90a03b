"""Batched AR generation (model.md, Eq. 29) with a KV cache, for prompts of unequal length.

Rows whose continuation has ended are given to waiting prompts. B rows, S cached entries, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from cola.sampling.continuous_batching import Ended, PromptQueue, Sample, Stop, in_order
from cola.sampling.tokens import sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

# Share of the rows that must be free before they are refilled: dropping and joining rows copies the
# whole cache, and prompts are read faster together. Chosen for tests/benchmarks/refilling.py.
REFILL_SHARE = 0.25


def generate(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of at most `max_new_tokens` tokens, cut after EOS; see `Family.generate`."""
    return in_order(
        iter_generate(
            model, prompts, settings, stream=stream, eos_token_id=eos_token_id, rows=len(prompts)
        )
    )


def iter_generate(
    model: LlamaForCausalLM,
    prompts: Sequence[list[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
    rows: int,
    ended: Ended | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(index of the prompt, continuation) as continuations end; see `Family.iter_generate`."""
    queue = PromptQueue(prompts, stream, Stop(settings.max_new_tokens, eos_token_id, ended))
    batch = ActiveBatch(model, settings)
    while queue or batch.running:
        room = rows - batch.running
        if queue and room >= REFILL_SHARE * rows:
            batch.drop_ended()
            finished = batch.join(queue.take(room)[0])
        else:
            if len(batch.samples) - batch.running >= REFILL_SHARE * len(batch.samples):
                batch.drop_ended()
            finished = batch.step()
        yield from ((sample.index, sample.generated) for sample in finished)


def stream_tokens(
    model: LlamaForCausalLM,
    prompt: list[int],
    settings: GenerationSpec,
    *,
    stream: Stream,
    eos_token_id: int | None,
) -> Iterator[list[int]]:
    """The continuation of one prompt, token by token; see `Family.stream`."""
    batch = ActiveBatch(model, settings)
    stop = Stop(settings.max_new_tokens, eos_token_id)
    (sample,), _ = PromptQueue([prompt], stream, stop).take(1)
    batch.join([sample])
    yield sample.take_new_tokens()
    while not sample.done:
        batch.step()
        yield sample.take_new_tokens()


class ActiveBatch:
    """Samples in work, right-aligned, with their cache; ended ones stay until `drop_ended`."""

    def __init__(self, model: LlamaForCausalLM, settings: GenerationSpec) -> None:
        self._model, self._settings = model, settings
        self.samples: list[Sample] = []
        self._clear()

    def _clear(self) -> None:
        self._cache = DynamicCache(config=self._model.config)
        empty = torch.zeros(0, 1, dtype=torch.long, device=self._model.device)
        # The next pass's input tokens and positions (B, 1), and 1 where the cache holds a real
        # token, (B, S).
        self._inputs, self._position, self._real = empty, empty, empty[:, :0]

    @property
    def running(self) -> int:
        """Number of samples that have not ended."""
        return sum(not sample.done for sample in self.samples)

    def join(self, added: list[Sample]) -> list[Sample]:
        """Read new samples' prompts and generate a token for each; those that end with it."""
        start = self._model.config.bos_token_id
        texts = [[start, *sample.prompt] for sample in added]
        inputs, real = left_padded(texts, start, self._model.device)
        position = (real.cumsum(1) - 1).clamp_min(0)
        cache = DynamicCache(config=self._model.config)
        logits_BV = self._pass(inputs, real, position, cache=cache)
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
        self.samples = [*self.samples, *added]
        return self._choose(logits_BV, list(range(first, len(self.samples))))

    def step(self) -> list[Sample]:
        """Generate a token for every sample that has not ended; those that end with it."""
        self._real = F.pad(self._real, (0, 1), value=1)
        logits_BV = self._pass(self._inputs, self._real, self._position, cache=self._cache)
        self._position = self._position + 1
        kept = [row for row, sample in enumerate(self.samples) if not sample.done]
        return self._choose(logits_BV[kept], kept)

    def drop_ended(self) -> None:
        """Drop the rows of ended samples, and the cache's columns that are then all padding."""
        kept = [row for row, sample in enumerate(self.samples) if not sample.done]
        if len(kept) == len(self.samples):
            return
        self.samples = [self.samples[row] for row in kept]
        if not kept:
            self._clear()
            return
        self._real = self._real[kept]
        unused = int(self._real.any(0).long().argmax())
        self._real = self._real[:, unused:]
        self._inputs, self._position = self._inputs[kept], self._position[kept]
        for layer in self._cache.layers:
            layer.keys = layer.keys[kept, :, unused:]
            layer.values = layer.values[kept, :, unused:]

    def _pass(
        self, inputs: Tensor, real: Tensor, position: Tensor, *, cache: DynamicCache
    ) -> Tensor:
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
        samples = [self.samples[row] for row in rows]
        uniform_B, previous = None, None
        if self._settings.temperature > 0:
            own = [sample.stream.uniform(f"token/{len(sample.generated)}") for sample in samples]
            uniform_B = torch.cat(own)
        if self._settings.repetition_penalty != 1.0:
            previous = [[*sample.prompt, *sample.generated] for sample in samples]
        ids = sample_tokens(logits_BV, self._settings, uniform_B, previous=previous)
        self._inputs[rows, 0] = ids
        for sample, token in zip(samples, ids.tolist(), strict=True):
            sample.extend([token])
        return [sample for sample in samples if sample.done]


def join_caches(cache: DynamicCache, other: DynamicCache) -> None:
    """Add the rows of `other` to `cache`, right-aligned; the shorter one is padded with zeros."""
    for layer, added in zip(cache.layers, other.layers, strict=True):
        missing = added.keys.shape[2] - layer.keys.shape[2]
        for name in ("keys", "values"):
            above = F.pad(getattr(layer, name), (0, 0, max(0, missing), 0))
            below = F.pad(getattr(added, name), (0, 0, max(0, -missing), 0))
            setattr(layer, name, torch.cat([above, below]))


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
