"""Blocks of Cola DLM, one at a time (section 4), and gaps filled with them.

Encode the prompt, denoise one block of latents behind the clean prefix, decode it, commit it.
Shapes: B batch, s latents a block, d latent width, P tokens a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.models.adaln import KeptTimes, Times, TimeTable
from cola.models.cola_dlm import ColaDLM
from cola.models.dit import ColaDiT
from cola.models.kv_cache import KVCache
from cola.models.packed import for_generation
from cola.sampling.first_block import (
    UNKNOWN,
    KnownBlock,
    Prompts,
    complete_patches,
    encode_known,
)
from cola.sampling.ode import evaluation_times, integrate, time_grid
from cola.sampling.tokens import sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

Noise = Callable[[int], Tensor]  # block number -> (B, s, d)


@dataclass(frozen=True)
class Block:
    """One generated block: latents (B, s, d) in the DiT's normalisation, token ids (B, P)."""

    latents: Tensor
    tokens: Tensor


class BlockDecoder:
    """Rows behind their clean prefixes, which are denoised and decoded one block at a time.

    Rows may come and go between two blocks. `rows` and `capacity` (latents a row) are the most
    that the caches hold.
    """

    def __init__(self, model: ColaDLM, settings: GenerationSpec, rows: int, capacity: int) -> None:
        self.model, self._settings = model, settings
        self._dit, self._decoder = for_generation(model.dit), model.vae.decoder
        like = torch.zeros(0, device=model.dit.txt_in.proj.weight.device)
        self._clock = Clock(self._dit, settings, like)
        self._cache = self._dit.new_cache(rows, capacity, like)
        self._decoder_cache = self._decoder.new_cache(rows, capacity, like)
        for cache in (self._cache, self._decoder_cache):
            cache.keep([])

    def add(self, prompts: Prompts) -> None:
        """New rows behind those that are there."""
        prefix = prompts.prefix_Bmd
        cache, decoder_cache = (
            each.unused(len(prefix)) for each in (self._cache, self._decoder_cache)
        )
        self._dit.commit(prefix, cache, prompts.prefix)
        if prefix.shape[1]:
            self._decoder.extend_hidden(self.model.to_vae(prefix), decoder_cache, prompts.prefix)
        self._cache.append(cache)
        self._decoder_cache.append(decoder_cache)

    def next(
        self,
        known: KnownBlock,
        noise_Bsd: Tensor,
        uniform_BP: Tensor | None,
        previous: list[list[int]] | None,
    ) -> Block:
        """One more block of every row; `keep` must follow before the next one."""
        z_Bsd = denoise_block(self._dit, known, self._settings, noise_Bsd, self._cache, self._clock)
        added = [z_Bsd.shape[1]] * len(z_Bsd)
        logits = self._decoder.extend(self.model.to_vae(z_Bsd), self._decoder_cache, added)
        tokens = decode_tokens(logits, self._settings, uniform_BP, previous, known.tokens_BP)
        return Block(z_Bsd, tokens)

    def keep(self, block: Block, order: list[int]) -> None:
        """Go on with these rows, in this order (see `KVCache.keep`), behind their last block."""
        for cache in (self._cache, self._decoder_cache):
            cache.keep(order)
        if order:
            z_Bsd = block.latents[order]
            self._dit.commit(z_Bsd, self._cache, [z_Bsd.shape[1]] * len(order))


def blocks(
    model: ColaDLM,
    prompts: Prompts,
    settings: GenerationSpec,
    count: int,
    noise: Noise,
    uniform: Noise | None,
    previous: list[list[int]] | None = None,
) -> Iterator[Block]:
    """Generate `count` blocks behind the prompts, one at a time.

    `uniform(block)` gives (B, P) numbers for sampling tokens (None: greedy). `previous` holds each
    row's tokens for the repetition penalty and grows as blocks are yielded.
    """
    size, batch = model.dit.config.block_size, len(prompts.prefix_Bmd)
    decoder = BlockDecoder(model, settings, batch, prompts.prefix_Bmd.shape[1] + count * size)
    decoder.add(prompts)
    for number in range(count):
        known = prompts.block(number, size, model.tokens_per_block)
        drawn = uniform(number) if uniform is not None else None
        block = decoder.next(known, noise(number), drawn, previous)
        yield block
        if number < count - 1:  # nothing is denoised behind the last block
            decoder.keep(block, list(range(batch)))


class Clock:
    """Embedded times of a generation: every block passes the same ones, so they are kept."""

    def __init__(self, dit: ColaDiT, settings: GenerationSpec, like: Tensor) -> None:
        self._dit, self._like = dit, like
        self.grid = time_grid(settings.time_grid, settings.steps)
        passed = sorted(set(evaluation_times(self.grid, settings.solver)))
        table = TimeTable(dit.embed_times(like.new_tensor([passed])))
        self._kept = {t: KeptTimes(table, index) for index, t in enumerate(passed)}

    def at(self, t: float) -> Times:
        """All latents at time t, one of those that the solver passes."""
        return self._kept[t]

    def with_clean(self, t: float, clean_Bs: Tensor) -> Times:
        """Latents at time t but for the clean ones, which are at 0."""
        return self._dit.times(self._like.new_full((1, 1), t), clean_Bs)


def denoise_block(
    dit: ColaDiT,
    known: KnownBlock,
    settings: GenerationSpec,
    z1_Bsd: Tensor,
    cache: KVCache,
    clock: Clock,
) -> Tensor:
    """Integrate one block from noise to data, with CFG, known latents held in place.

    v = v_uncond + guidance_scale (v_cond - v_uncond). Clean repaint pins the known latents at
    timestep 0 in every evaluation; partial repaint sets them to their own noisy z_t, at time t.
    Where the prefix is empty, conditional and unconditional pass are the same.
    """
    guided = settings.guidance_scale != 1.0
    repaint = bool(known.known_Bs.any())
    clean = settings.first_block != "partial_repaint"
    known_Bs1 = known.known_Bs[..., None]
    turns = dit.block_turns(cache)

    def pinned(z: Tensor, t: float) -> Tensor:
        held = known.z_Bsd if clean else (1 - t) * known.z_Bsd + t * z1_Bsd
        return torch.where(known_Bs1, held, z)

    def velocity(z: Tensor, t: float) -> Tensor:
        if repaint:
            z = pinned(z, t)
        times = clock.with_clean(t, known.known_Bs) if repaint and clean else clock.at(t)
        conditional, alone = dit.denoise(z, times, turns, cache, guided)
        return alone + settings.guidance_scale * (conditional - alone) if guided else conditional

    z = integrate(velocity, z1_Bsd, clock.grid, settings.solver)
    return pinned(z, 0.0) if repaint else z


def decode_tokens(
    logits_BPV: Tensor,
    settings: GenerationSpec,
    uniform_BP: Tensor | None,
    previous: list[list[int]] | None,
    known_BP: Tensor,
) -> Tensor:
    """Token ids (B, P), one position after the other where the penalty looks back.

    Known tokens stay as they are. They are in `previous` already, which only takes up new ones.
    """
    columns = []
    for position in range(logits_BPV.shape[1]):
        drawn = uniform_BP[:, position] if uniform_BP is not None else None
        ids = sample_tokens(logits_BPV[:, position], settings, drawn, previous)
        known_B = known_BP[:, position]
        new_B = known_B == UNKNOWN
        columns.append(torch.where(new_B, ids, known_B))
        if previous is not None:
            for row, token, new in zip(previous, ids.tolist(), new_B.tolist(), strict=True):
                if new:
                    row.append(token)
    return torch.stack(columns, dim=1)


class Sources:
    """The random numbers of a generation, each sample's own whatever its batch."""

    def __init__(self, model: ColaDLM, settings: GenerationSpec, stream: Stream) -> None:
        self._shape = (model.dit.config.block_size, model.dit.config.txt_in_channels)
        self._per_block, self._stream = model.tokens_per_block, stream
        self._device = model.dit.txt_in.proj.weight.device
        self.tokens = self.uniform if settings.temperature > 0 else None

    def noise(self, block: int) -> Tensor:
        """z1 of a block."""
        return self._stream.normal(f"z1/{block}", *self._shape).to(self._device)

    def uniform(self, block: int) -> Tensor:
        """Numbers to sample a block's tokens with."""
        return self._stream.uniform(f"token/{block}", self._per_block).to(self._device)


def infill(
    model: ColaDLM,
    lefts: Sequence[Sequence[int]],
    gaps: Sequence[int],
    rights: Sequence[Sequence[int]],
    settings: GenerationSpec,
    stream: Stream,
) -> list[list[int]]:
    """Exactly `gaps[i]` tokens to stand between `lefts[i]` and `rights[i]`.

    The right context is encoded behind [mask] tokens in the gap, and its latents are pinned. The
    prior is causal across blocks, so a generated latent is conditioned on the whole left context
    and on the right context up to the end of its own block, and on nothing in later blocks: the
    right context acts on the gap's last block alone, and not at all when the gap ends a block.
    Right tokens that share a patch with the gap are kept as they are but condition nothing.
    EOS does not end a gap.
    """
    mask = model.vae.config.mask_token_id
    fills = [
        fill if len(fill) <= gap else []
        for fill, gap in zip(
            complete_patches(model, lefts, settings, stream, mask), gaps, strict=True
        )
    ]
    lefts = [[*left, *fill] for left, fill in zip(lefts, fills, strict=True)]
    left_over = [gap - len(fill) for gap, fill in zip(gaps, fills, strict=True)]
    known = encode_known(model, lefts, left_over, rights, mask, mask)
    ends = [start + gap for start, gap in zip(known.tail, left_over, strict=True)]
    count = -(-max(ends) // model.tokens_per_block)
    sources = Sources(model, settings, stream)
    previous = [list(left) for left in lefts] if settings.repetition_penalty != 1.0 else None
    made = blocks(model, known, settings, count, sources.noise, sources.tokens, previous)
    found: list[list[int]] = [[] for _ in lefts]
    for block in made:
        for row, tokens in zip(found, block.tokens.tolist(), strict=True):
            row += tokens
    spans = zip(fills, found, known.tail, ends, strict=True)
    return [fill + row[start:end] for fill, row, start, end in spans]
