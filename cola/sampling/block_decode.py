"""Generation of Cola DLM block by block (model.md, Eqs. 19 to 22), and infilling.

Encode the prompt; then make a block of latents behind the clean prefix, decode it, commit it.
Shapes: B batch, s latents a block, d latent width, P tokens a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.models.kv_cache import rounded_up
from cola.models.latents.latent_model import LatentModel
from cola.models.onednn import for_generation
from cola.sampling import static_step
from cola.sampling.block_samplers import block_sampler
from cola.sampling.first_block import (
    UNKNOWN,
    KnownBlock,
    Prompts,
    complete_patches,
    encode_known,
)
from cola.sampling.tokens import sample_tokens, seen_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

# By which the caches that a block sees grow where shapes are fixed, in latents: a chosen value.
COLUMNS = 512
Draw = Callable[[int], Tensor]  # number of the block -> its random numbers, of all rows


@dataclass(frozen=True)
class Block:
    """One generated block: latents (B, s, d) in the DiT's normalisation, token ids (B, P), and the
    logits (B, P, V) that they are chosen by, which hold until the next block is made."""

    latents: Tensor
    tokens: Tensor
    logits: Tensor


class BlockDecoder:
    """Makes and decodes one block at a time for rows that each have a clean prefix.

    Rows may be added and dropped between two blocks. The caches hold at most `rows` rows of
    `capacity` latents.
    """

    def __init__(
        self, model: LatentModel, settings: GenerationSpec, rows: int, *, capacity: int
    ) -> None:
        self.model, self._settings = model, settings
        self._dit, self._decoder = for_generation(model.dit), model.codec.decoder
        like = torch.zeros(0, device=model.dit.txt_in.proj.weight.device)
        self._sampler = block_sampler(self._dit, settings, like)
        fixed = static_step.fixed_shapes(like.device)
        step = rounded_up(COLUMNS, model.dit.config.block_size) if fixed else None
        self._cache = self._dit.new_cache(rows, capacity, like, step=step)
        self._decoder_cache = self._decoder.new_cache(rows, capacity, like, step=step)
        for cache in (self._cache, self._decoder_cache):
            cache.keep([])
        self._make = static_step.StaticStep(self._made_block, like.device)
        self._commit = static_step.StaticStep(self._committed, like.device)
        # True at all tokens of every row, (B, V), for the repetition penalty.
        self.seen = self._seen_by([])

    def _seen_by(self, rows: Sequence[Sequence[int]]) -> Tensor | None:
        if self._settings.repetition_penalty == 1.0:
            return None
        return seen_tokens(rows, self.model.codec.config.vocab_size, self._cache.length_B.device)

    def add(self, prompts: Prompts, previous: Sequence[Sequence[int]]) -> None:
        """Append rows with these prompts' whole blocks as their prefixes.

        `previous` are all tokens of each row so far, for the repetition penalty.
        """
        added = self._seen_by(previous)
        if self.seen is not None and added is not None:
            self.seen = torch.cat([self.seen, added])
        prefix = prompts.prefix_Bmd
        cache = self._cache.unused(len(prefix))
        decoder_cache = self._decoder_cache.unused(len(prefix))
        self._dit.commit(prefix, cache, prompts.prefix)
        if prefix.shape[1]:
            self._decoder.write_hidden(self.model.from_dit(prefix), decoder_cache)
            decoder_cache.advance(prompts.prefix)
        self._cache.append(cache)
        self._decoder_cache.append(decoder_cache)

    def next(self, known: KnownBlock, noise_Bsd: Tensor, uniform_BP: Tensor | None) -> Block:
        """Generate one more block of every row; call `keep` before the next one."""
        count, rows = len(noise_Bsd), self._cache.rows
        parts = (known.z_Bsd, known.known_Bs, known.tokens_BP) if known.anything else (None,) * 3
        given = static_step.padded(rows, noise_Bsd, uniform_BP, self.seen, *parts)
        key = (rows, self._cache.columns, self._decoder_cache.columns)
        z_Bsd, tokens_BP, logits, *seen = self._make(key, *given)
        self._decoder_cache.advance([z_Bsd.shape[1]] * count)
        if seen:
            self.seen = seen[0][:count].clone()
        return Block(z_Bsd[:count].clone(), tokens_BP[:count].clone(), logits[:count])

    def _made_block(
        self, noise_Bsd: Tensor, uniform_BP: Tensor | None, seen_BV: Tensor | None, *known: Tensor
    ) -> tuple[Tensor, ...]:
        """Latents, token ids, logits and tokens seen of a block of every row: a step of fixed
        shapes."""
        part = KnownBlock(*known, anything=True) if known[0] is not None else None
        z_Bsd = self._sampler(part, noise_Bsd, self._cache)
        logits = self._decoder.write(self.model.from_dit(z_Bsd), self._decoder_cache)
        tokens_BP, seen_BV = decode_tokens(
            logits,
            self._settings,
            None if part is None else part.tokens_BP,
            uniform_BP=uniform_BP,
            seen_BV=seen_BV,
        )
        made = (z_Bsd, tokens_BP, logits)
        return made if seen_BV is None else (*made, seen_BV)

    def keep(self, block: Block, order: list[int]) -> None:
        """Commit the block for these rows, in this order (see `KVCache.keep`); drop the others."""
        index = torch.tensor(order, dtype=torch.long, device=block.latents.device)
        if self.seen is not None:
            self.seen = self.seen[index]
        for cache in (self._cache, self._decoder_cache):
            cache.keep(order)
        if order:
            rows, columns = self._cache.rows, self._cache.columns
            seen_Bsd = self.model.as_history(block.latents[index], block.tokens[index])
            self._commit((rows, columns), *static_step.padded(rows, seen_Bsd))
            self._cache.advance([block.latents.shape[1]] * len(order))

    def _committed(self, z_Bsd: Tensor) -> tuple[Tensor, ...]:
        """Write a block of every row behind its prefix: a step of fixed shapes without outputs."""
        self._dit.write_clean(z_Bsd, self._cache)
        return ()


def blocks(
    model: LatentModel,
    prompts: Prompts,
    settings: GenerationSpec,
    *,
    count: int,
    noise: Draw,
    uniform: Draw | None,
    previous: Sequence[Sequence[int]] = (),
) -> Iterator[Block]:
    """Generate `count` blocks behind the prompts, one at a time.

    `noise(number)` is z1 of a block (B, s, d); `uniform(number)` are the numbers to sample its
    tokens with (B, P) (None: greedy). `previous` are each row's tokens for the repetition penalty:
    it is needed where there is one.
    """
    size, batch = model.dit.config.block_size, len(prompts.prefix_Bmd)
    capacity = prompts.prefix_Bmd.shape[1] + count * size
    decoder = BlockDecoder(model, settings, batch, capacity=capacity)
    decoder.add(prompts, previous)
    for number in range(count):
        known = prompts.block(number, size, model.tokens_per_block)
        uniform_BP = uniform(number) if uniform is not None else None
        block = decoder.next(known, noise(number), uniform_BP)
        yield block
        if number < count - 1:  # nothing is denoised behind the last block
            decoder.keep(block, list(range(batch)))


def decode_tokens(
    logits_BPV: Tensor,
    settings: GenerationSpec,
    known_BP: Tensor | None,
    *,
    uniform_BP: Tensor | None,
    seen_BV: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Token ids (B, P), position by position, as the repetition penalty needs earlier ones.

    Known tokens stay as they are (None: none is known). `seen_BV` has them already; it is returned
    with the new ones.
    """
    if uniform_BP is None and seen_BV is None:  # no position needs another one
        ids_BP = sample_tokens(logits_BPV.flatten(0, 1), settings).view(logits_BPV.shape[:2])
        if known_BP is not None:
            ids_BP = torch.where(known_BP == UNKNOWN, ids_BP, known_BP)
        return ids_BP, None
    columns = []
    for position in range(logits_BPV.shape[1]):
        uniform_B = uniform_BP[:, position] if uniform_BP is not None else None
        ids_B = sample_tokens(logits_BPV[:, position], settings, uniform_B, seen_BV=seen_BV)
        ids_B1, new_B1 = ids_B[:, None], None
        if known_BP is not None:
            known_B1 = known_BP[:, position : position + 1]
            new_B1 = known_B1 == UNKNOWN
            ids_B1 = torch.where(new_B1, ids_B1, known_B1)
        columns.append(ids_B1)
        if seen_BV is not None:
            now_B1 = torch.ones_like(ids_B1, dtype=torch.bool)
            if new_B1 is not None:  # a known token counts where it was seen before
                now_B1 = seen_BV.gather(1, ids_B1) | new_B1
            seen_BV = seen_BV.scatter(1, ids_B1, now_B1)
    return torch.cat(columns, dim=1), seen_BV


class GenerationDraws:
    """Random numbers of a generation, a function of the sample and the block alone."""

    def __init__(self, model: LatentModel, settings: GenerationSpec, stream: Stream) -> None:
        self._shape = (model.dit.config.block_size, model.dit.config.noise_width)
        self._per_block, self._stream = model.tokens_per_block, stream
        self._device = model.dit.txt_in.proj.weight.device
        self.tokens = self.uniform if settings.temperature > 0 else None

    def noise(self, number: int) -> Tensor:
        """Normal numbers that the block of that number is made of, (B, s, d) or more a latent."""
        return self._stream.normal(f"z1/{number}", *self._shape).to(self._device)

    def uniform(self, number: int) -> Tensor:
        """Numbers to sample the block's tokens with, (B, P)."""
        return self._stream.uniform(f"token/{number}", self._per_block).to(self._device)


def infill(
    model: LatentModel,
    lefts: Sequence[Sequence[int]],
    gaps: Sequence[int],
    *,
    rights: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
) -> list[list[int]]:
    """Exactly `gaps[i]` tokens between `lefts[i]` and `rights[i]`.

    The right context is encoded behind [mask] tokens in the gap, and its latents are pinned. The
    prior is causal across blocks, so a generated latent is conditioned on the whole left context
    and on the right context up to the end of its own block, and on nothing in later blocks: the
    right context acts on the gap's last block alone, and not at all when the gap ends a block.
    Right tokens that share a patch with the gap are kept as they are but condition nothing.
    EOS does not end a gap.
    """
    mask = model.codec.config.mask_token_id
    fills = [
        fill if len(fill) <= gap else []
        for fill, gap in zip(
            complete_patches(model, lefts, settings, stream=stream, pad=mask), gaps, strict=True
        )
    ]
    lefts = [[*left, *fill] for left, fill in zip(lefts, fills, strict=True)]
    remaining = [gap - len(fill) for gap, fill in zip(gaps, fills, strict=True)]
    known = encode_known(model, lefts, remaining, rights=rights, pad=mask, gap_token=mask)
    ends = [start + gap for start, gap in zip(known.tail, remaining, strict=True)]
    count = -(-max(ends) // model.tokens_per_block)
    draws = GenerationDraws(model, settings, stream)
    generated: list[list[int]] = [[] for _ in lefts]
    for block in blocks(
        model,
        known,
        settings,
        count=count,
        noise=draws.noise,
        uniform=draws.tokens,
        previous=lefts,
    ):
        for row, tokens in zip(generated, block.tokens.tolist(), strict=True):
            row += tokens
    spans = zip(fills, generated, known.tail, ends, strict=True)
    return [fill + row[start:end] for fill, row, start, end in spans]
