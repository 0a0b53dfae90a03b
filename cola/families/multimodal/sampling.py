"""Images behind texts, and texts behind images (model.md, Eqs. 19 to 22 and 70), with one cache of
keys and values for both modalities.

Shapes: B batch, L tokens, c channels, S pixels a side, n latents, s latents a block,
d latent width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cola.models.dit import ColaDiT
from cola.models.kv_cache import KVCache
from cola.models.pairs.pair_model import PairModel
from cola.sampling.block_decode import GenerationDraws, decode_tokens
from cola.sampling.block_samplers import SolverTimesteps, denoise_block
from cola.seeding import Stream
from cola.spec import GenerationSpec


@torch.no_grad()
def draw_images(
    model: PairModel, tokens_BL: Tensor, settings: GenerationSpec, *, stream: Stream
) -> Tensor:
    """An image behind each text, (B, c, S, S) uint8; L a multiple of an image's latents."""
    latents_Bnd = model.text_latents(tokens_BL)
    rows, count = len(tokens_BL), model.image_vae.config.latents
    cache = model.dit.new_cache(rows, latents_Bnd.shape[1] + count, latents_Bnd)
    model.dit.commit(latents_Bnd, cache, [latents_Bnd.shape[1]] * rows)
    size, width = model.dit.config.block_size, model.dit.config.txt_in_channels

    def noise(number: int) -> Tensor:
        return stream.normal(f"image_z1/{number}", size, width).to(latents_Bnd.device)

    made = drawn_blocks(model.image_dit, cache, settings, count=count // size, noise=noise)
    return model.image_vae.decoder.images(torch.cat(list(made), dim=1))


@torch.no_grad()
def describe_images(
    model: PairModel, images: Tensor, length: int, *, settings: GenerationSpec, stream: Stream
) -> Tensor:
    """`length` tokens behind each image, (B, L), whole blocks; what stands behind an end of text is
    no part of it. A repetition penalty has no effect."""
    latents_Bnd = model.image_latents(images)
    rows, before = len(images), latents_Bnd.shape[1]
    cache = model.dit.new_cache(rows, before + length, latents_Bnd)
    model.image_dit.commit(latents_Bnd, cache, [before] * rows)
    decoder, draws = model.vae.decoder, GenerationDraws(model, settings, stream)
    decoder_cache = decoder.new_cache(rows, length, latents_Bnd)
    tokens = []
    made = drawn_blocks(
        model.dit, cache, settings, count=length // model.tokens_per_block, noise=draws.noise
    )
    for number, z_Bsd in enumerate(made):
        logits = decoder.write(model.from_dit(z_Bsd), decoder_cache)
        decoder_cache.advance([z_Bsd.shape[1]] * rows)
        uniform_BP = None if draws.tokens is None else draws.tokens(number)
        tokens.append(decode_tokens(logits, settings, None, uniform_BP=uniform_BP, seen_BV=None)[0])
    return torch.cat(tokens, dim=1)


def drawn_blocks(
    dit: ColaDiT,
    cache: KVCache,
    settings: GenerationSpec,
    *,
    count: int,
    noise: Callable[[int], Tensor],
) -> Iterator[Tensor]:
    """`count` blocks of latents (B, s, d) of one modality behind what the cache holds, of whichever
    it is; each joins the cache before the next is drawn."""
    timesteps = SolverTimesteps(dit, settings, noise(0))
    for number in range(count):
        z_Bsd = denoise_block(
            dit,
            None,
            settings,
            z1_Bsd=noise(number),
            cache=cache,
            solver_timesteps=timesteps,
        )
        yield z_Bsd
        if number < count - 1:
            dit.commit(z_Bsd, cache, [z_Bsd.shape[1]] * len(z_Bsd))
