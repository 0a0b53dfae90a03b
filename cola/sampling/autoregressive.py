"""Batched AR generation (model.md, Eq. 29) with a KV cache, for prompts of unequal length.

Rows whose continuation has ended are given to waiting prompts. B rows, L tokens of the longest
prompt, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cola.models.kv_cache import KVCache, compact_order, rounded_up
from cola.models.transformer import llama_cache, trunk_hidden
from cola.sampling import static_step
from cola.sampling.continuous_batching import (
    Ended,
    PromptQueue,
    Sample,
    Stop,
    check_rows,
)
from cola.sampling.tokens import sample_tokens, seen_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

# Share of the rows that must be free before they are refilled: prompts are read faster together.
# Chosen for tests/benchmarks/refilling.py.
REFILL_SHARE = 0.25
COLUMNS = 128  # by which the cache that a step sees grows where shapes are fixed, a chosen value


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
    if not prompts:
        return
    check_rows(rows)
    queue = PromptQueue(prompts, stream, Stop(settings.max_new_tokens, eos_token_id, ended))
    rows, longest = min(rows, len(prompts)), max(len(prompt) for prompt in prompts)
    if static_step.fixed_shapes(model.device):
        longest = rounded_up(longest, COLUMNS)
    with static_step.reused(
        model,
        (settings, rows, longest),
        lambda: ActiveBatch(model, settings, rows, longest=longest),
    ) as batch:
        while queue or batch.samples:
            room = rows - len(batch.samples)
            refill = queue and room >= REFILL_SHARE * rows
            finished = batch.join(queue.take(room)[0]) if refill else batch.step()
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
    batch = ActiveBatch(model, settings, 1, longest=len(prompt))
    stop = Stop(settings.max_new_tokens, eos_token_id)
    (sample,), _ = PromptQueue([prompt], stream, stop).take(1)
    batch.join([sample])
    yield sample.take_new_tokens()
    while not sample.done:
        batch.step()
        yield sample.take_new_tokens()


class ActiveBatch:
    """Samples that have not ended, in the order of the cache's rows.

    At most `rows` of them, with prompts of at most `longest` tokens.
    """

    def __init__(
        self, model: LlamaForCausalLM, settings: GenerationSpec, rows: int, *, longest: int
    ) -> None:
        self._model, self._settings = model, settings
        self.samples: list[Sample] = []
        # The start token precedes the prompt; the last new token is never read.
        self._cache = new_cache(model, rows, longest + settings.max_new_tokens)
        self._cache.keep([])
        self._step = static_step.StaticStep(self._next_tokens, model.device)
        # Each sample's latest token (B,), and True at all of its tokens (B, V) for the penalty.
        self._ids = torch.zeros(0, dtype=torch.long, device=model.device)
        self._seen = self._seen_by([])

    def join(self, added: list[Sample]) -> list[Sample]:
        """Read new samples' prompts and generate a token for each; those that end with it."""
        start = self._model.config.bos_token_id
        texts = [[start, *sample.prompt] for sample in added]
        counts = [len(text) for text in texts]
        part = self._cache.unused(len(added))
        hidden_BLC = read(self._model, right_padded(texts, start, self._model.device), part)
        part.advance(counts)
        self._cache.append(part)
        # Entries behind a row's own text are those of padding, which nothing sees.
        last_B = torch.tensor(counts, device=hidden_BLC.device) - 1
        row_B = torch.arange(len(added), device=hidden_BLC.device)
        logits_BV = next_logits(self._model, hidden_BLC[row_B, last_B])
        seen_BV = self._seen_by(added)
        ids_B = sample_tokens(logits_BV, self._settings, self._uniform(added), seen_BV=seen_BV)
        self.samples = [*self.samples, *added]
        self._ids = torch.cat([self._ids, ids_B])
        if self._seen is not None and seen_BV is not None:
            self._seen = torch.cat([self._seen, seen_BV.scatter(1, ids_B[:, None], True)])
        return self._extend(added, ids_B)

    def step(self) -> list[Sample]:
        """Generate a token for every sample; those that end with it."""
        cache, count = self._cache, len(self.samples)
        given = static_step.padded(cache.rows, self._ids, self._uniform(self.samples), self._seen)
        (ids_B,) = self._step((cache.rows, cache.columns), *given)
        self._ids = ids_B[:count].clone()
        cache.advance([1] * count)
        if self._seen is not None:
            self._seen.scatter_(1, self._ids[:, None], True)
        return self._extend(self.samples, self._ids)

    def _next_tokens(
        self, ids_B: Tensor, uniform_B: Tensor | None, seen_BV: Tensor | None
    ) -> tuple[Tensor]:
        """The next token of every row of a pass, (B,): a step of fixed shapes."""
        hidden_BLC = read(self._model, ids_B[:, None], self._cache)
        logits_BV = next_logits(self._model, hidden_BLC[:, 0])
        return (sample_tokens(logits_BV, self._settings, uniform_B, seen_BV=seen_BV),)

    def _uniform(self, samples: list[Sample]) -> Tensor | None:
        """The numbers to draw the samples' next tokens with, (B,)."""
        if self._settings.temperature == 0:
            return None
        own = [sample.stream.uniform(f"token/{len(sample.generated)}") for sample in samples]
        return torch.cat(own)

    def _seen_by(self, samples: list[Sample]) -> Tensor | None:
        if self._settings.repetition_penalty == 1.0:
            return None
        config = self._model.config
        return seen_tokens([s.prompt for s in samples], config.bos_token_id, self._model.device)

    def _extend(self, samples: list[Sample], ids_B: Tensor) -> list[Sample]:
        """Add the tokens to their samples and drop the rows of those that end, and return them."""
        for sample, token in zip(samples, ids_B.tolist(), strict=True):
            sample.extend([token])
        finished = [sample for sample in samples if sample.done]
        if finished:
            kept = [row for row, sample in enumerate(self.samples) if not sample.done]
            order = compact_order(kept)
            self._cache.keep(order)
            self.samples = [self.samples[row] for row in order]
            index = torch.tensor(order, dtype=torch.long, device=ids_B.device)
            self._ids = self._ids[index]
            self._seen = None if self._seen is None else self._seen[index]
        return finished


def new_cache(model: LlamaForCausalLM, rows: int, capacity: int) -> KVCache:
    """An empty cache; its shapes are fixed where the model's device wants that."""
    step = COLUMNS if static_step.fixed_shapes(model.device) else None
    return llama_cache(model, rows, capacity, step=step)


def read(model: LlamaForCausalLM, tokens_BL: Tensor, cache: KVCache) -> Tensor:
    """The last layer's output (B, L, C) for tokens behind the cache.

    Their keys and values are written, for `KVCache.advance` to keep.
    """
    count = tokens_BL.shape[1]
    view, position_BL = cache.view(count, 1), cache.positions(count).view(-1, count)
    # Behind nothing the mask is the causal one, for which there is a kernel.
    mask = None if cache.level and cache.filled == 0 else view.mask
    return trunk_hidden(model.model, tokens_BL, mask=mask, position_BL=position_BL, cache=view)


def next_logits(model: LlamaForCausalLM, hidden_BC: Tensor) -> Tensor:
    """Logits (B, V) of the next token, by the last layer's output."""
    # The start token is an input only: it is never generated.
    logits_BV: Tensor = model.lm_head(model.model.norm(hidden_BC))
    return logits_BV[:, : model.config.bos_token_id]


def right_padded(rows: list[list[int]], pad: int, device: torch.device) -> Tensor:
    """Rows left-aligned in one tensor (B, longest)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
