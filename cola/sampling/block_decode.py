"""Generation of Cola DLM, block by block (section 4).

Encode the prompt, denoise one block of latents behind the clean prefix, decode it, commit it.
Shapes: B batch, s latents a block, d latent width, P tokens a block, m prefix latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.kv_cache import KVCache
from cola.sampling.ode import integrate, time_grid
from cola.sampling.tokens import cut_after_eos, sample_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

Noise = Callable[[int], Tensor]  # block number -> (B, s, d)


@dataclass(frozen=True)
class Prompts:
    """Prompts as the model sees them.

    prefix_Bmd: latents of the whole blocks (padded), `prefix_B` of them real; known_Bsd and
    known_Bs: latents of a part-filled first block and which of them are known; `tail`: tokens of
    the prompt inside the first generated block.
    """

    prefix_Bmd: Tensor
    prefix_B: Tensor
    known_Bsd: Tensor
    known_Bs: Tensor
    tail: list[int]


@dataclass(frozen=True)
class Block:
    """One generated block: latents (B, s, d) in the DiT's normalisation, token ids (B, P)."""

    latents: Tensor
    tokens: Tensor


def padded_prompts(
    prompts: Sequence[Sequence[int]], strategy: str, tokens_per_block: int, pad: int
) -> list[list[int]]:
    """Prompts whose first block needs no repainting under the padding strategies."""
    if strategy not in ("left_padding", "right_padding"):
        return [list(prompt) for prompt in prompts]
    padded = []
    for prompt in prompts:
        filler = [pad] * (-len(prompt) % tokens_per_block)
        padded.append(
            filler + list(prompt) if strategy == "left_padding" else list(prompt) + filler
        )
    return padded


def encode_prompts(model: ColaDLM, prompts: Sequence[Sequence[int]], pad: int) -> Prompts:
    """Posterior means of the prompts; the tail's block is padded to its end before encoding.

    Latents whose patch the prompt fills only in part are left to be generated.
    """
    device = model.dit.txt_in.proj.weight.device
    size, per_block = model.dit.config.block_size, model.tokens_per_block
    patch = model.vae.config.patch_size
    longest = max(len(prompt) for prompt in prompts)
    length = max(per_block, -(-longest // per_block) * per_block)
    tokens_BL = torch.full((len(prompts), length), pad, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, : len(prompt)] = torch.tensor(list(prompt), device=device)
    mean, _ = model.vae.encoder(tokens_BL)
    z_Bmd = model.to_dit(mean)
    whole = [len(prompt) // per_block for prompt in prompts]
    tail = [len(prompt) % per_block for prompt in prompts]
    start = torch.tensor(whole, device=device) * size
    place = (start[:, None] + torch.arange(size, device=device)).clamp_max(z_Bmd.shape[1] - 1)
    known_Bsd = z_Bmd.gather(1, place[..., None].expand(-1, -1, z_Bmd.shape[-1]))
    known = torch.tensor([count // patch for count in tail], device=device)
    known_Bs = torch.arange(size, device=device) < known[:, None]
    return Prompts(z_Bmd[:, : max(whole) * size], start, known_Bsd, known_Bs, tail)


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
    batch, size = prompts.known_Bs.shape
    filled = prompts.prefix_Bmd.shape[1]
    capacity = filled + count * size
    cache = model.dit.new_cache(batch, capacity, prompts.prefix_Bmd)
    decoder_cache = model.vae.decoder.new_cache(batch, capacity, prompts.prefix_Bmd)
    model.dit.prefill(prompts.prefix_Bmd, cache, prompts.prefix_B)
    if filled:
        z_vae = model.to_vae(prompts.prefix_Bmd)
        model.vae.decoder.extend(z_vae, decoder_cache, prompts.prefix_B, filled)
    known_Bs = prompts.known_Bs
    for number in range(count):
        place = torch.arange(size, device=known_Bs.device)
        position_Bs = cache.length_B[:, None] + place
        z_Bsd = denoise_block(model, prompts, known_Bs, settings, noise(number), position_Bs, cache)
        filled += size
        model.dit.commit(z_Bsd, position_Bs, cache, filled)
        logits = model.vae.decoder.extend(
            model.to_vae(z_Bsd), decoder_cache, torch.full_like(prompts.prefix_B, size), filled
        )
        drawn = uniform(number) if uniform is not None else None
        tokens = decode_tokens(logits, settings, drawn, previous)
        yield Block(z_Bsd, tokens)
        known_Bs = torch.zeros_like(known_Bs)


def denoise_block(
    model: ColaDLM,
    prompts: Prompts,
    known_Bs: Tensor,
    settings: GenerationSpec,
    z1_Bsd: Tensor,
    position_Bs: Tensor,
    cache: KVCache,
) -> Tensor:
    """Integrate one block from noise to data, with CFG, known latents held in place.

    v = v_uncond + guidance_scale (v_cond - v_uncond). Clean repaint pins the known latents at
    timestep 0 in every evaluation; partial repaint sets them to their own noisy z_t, at time t.
    Where the prefix is empty, conditional and unconditional pass are the same.
    """
    guided = settings.guidance_scale != 1.0
    repaint = bool(known_Bs.any())
    clean = settings.first_block != "partial_repaint"
    known_Bs1 = known_Bs[..., None]

    def pinned(z: Tensor, t: float) -> Tensor:
        held = prompts.known_Bsd if clean else (1 - t) * prompts.known_Bsd + t * z1_Bsd
        return torch.where(known_Bs1, held, z)

    def velocity(z: Tensor, t: float) -> Tensor:
        t_BK = z.new_full((len(z), 1), t)
        if repaint:
            z = pinned(z, t)
            if clean:
                t_BK = torch.where(known_Bs, 0.0, t_BK)
        conditional, alone = model.dit.denoise(z, t_BK, position_Bs, cache, guided)
        return alone + settings.guidance_scale * (conditional - alone) if guided else conditional

    times = time_grid(settings.time_grid, settings.steps)
    z = integrate(velocity, z1_Bsd, times, settings.solver)
    return pinned(z, 0.0) if repaint else z


def decode_tokens(
    logits_BPV: Tensor,
    settings: GenerationSpec,
    uniform_BP: Tensor | None,
    previous: list[list[int]] | None,
) -> Tensor:
    """Token ids (B, P), one position after the other where the penalty looks back."""
    columns = []
    for position in range(logits_BPV.shape[1]):
        drawn = uniform_BP[:, position] if uniform_BP is not None else None
        ids = sample_tokens(logits_BPV[:, position], settings, drawn, previous)
        columns.append(ids)
        if previous is not None:
            for row, token in zip(previous, ids.tolist(), strict=True):
                row.append(token)
    return torch.stack(columns, dim=1)


def generate(
    model: ColaDLM,
    prompts: list[list[int]],
    settings: GenerationSpec,
    stream: Stream,
    eos_token_id: int | None,
) -> list[list[int]]:
    """Continuations of at most `max_new_tokens` tokens, cut after EOS; see `Family.generate`."""
    per_block = model.tokens_per_block
    pad = eos_token_id if eos_token_id is not None else 0
    given = padded_prompts(prompts, settings.first_block, per_block, pad)
    encoded = encode_prompts(model, given, pad)
    count = -(-(max(encoded.tail) + settings.max_new_tokens) // per_block)
    size, width = encoded.known_Bsd.shape[1:]

    def noise(number: int) -> Tensor:
        return stream.normal(f"z1/{number}", size, width).to(encoded.known_Bsd.device)

    def uniform(number: int) -> Tensor:
        return stream.uniform(f"token/{number}", per_block).to(encoded.known_Bsd.device)

    penalised = settings.repetition_penalty != 1.0
    previous = [list(prompt) for prompt in given] if penalised else None
    draws = uniform if settings.temperature > 0 else None
    found: list[list[int]] = [[] for _ in prompts]
    for block in blocks(model, encoded, settings, count, noise, draws, previous):
        for row, tokens in enumerate(block.tokens.tolist()):
            found[row] += tokens
        texts = [
            cut_after_eos(row[tail:], eos_token_id)[: settings.max_new_tokens]
            for row, tail in zip(found, encoded.tail, strict=True)
        ]
        if all(_finished(text, settings, eos_token_id) for text in texts):
            break
    return texts


def _finished(text: list[int], settings: GenerationSpec, eos_token_id: int | None) -> bool:
    ended = bool(text) and text[-1] == eos_token_id
    return ended or len(text) >= settings.max_new_tokens
