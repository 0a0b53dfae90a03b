"""Cola DLM's draws of the next tokens: latents from the prior, tokens from the decoder.

Given its latents a text's tokens are independent (model.md, Eq. 22), so that the mean over draws of
the decoder's probabilities estimates the model's own without bias.
B prompts of one length L, M draws, R = B M rows, N next tokens, P tokens a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.latents.latent_model import LatentModel
from cola.sampling.block_decode import BlockDecoder
from cola.sampling.first_block import Prompts, encode_prompts, padded_prompts
from cola.sampling.predictive import PredictiveDraws, Tally, normal_rows, uniform_rows
from cola.seeding import Stream
from cola.spec import GenerationSpec


@torch.no_grad()
def block_draws(
    model: LatentModel,
    prompts_BL: Tensor,
    truth_BN: Tensor,
    settings: GenerationSpec,
    *,
    draws: Sequence[int],
    stream: Stream,
    pad: int,
) -> PredictiveDraws:
    """Draws of the blocks that the next tokens lie in, behind the prompt's posterior means.

    No latent stands for half a patch: a prompt loses the first tokens that would make its end
    split one.
    """
    left_out = prompts_BL.shape[1] % model.codec.config.patch_size
    texts = prompts_BL[:, left_out:].tolist()
    per_block, count = model.tokens_per_block, truth_BN.shape[1]
    texts = padded_prompts(texts, settings.first_block, per_block, pad=pad)
    known = _repeated(encode_prompts(model, texts, pad), len(draws))
    tail = known.tail[0]
    size, width = model.dit.config.block_size, model.dit.config.txt_in_channels
    blocks, rows = -(-(tail + count) // per_block), len(known.tail)
    capacity = known.prefix_Bmd.shape[1] + blocks * size
    decoder = BlockDecoder(model, settings, rows, capacity=capacity)
    decoder.add(known, previous=[])
    device = known.prefix_Bmd.device
    tally = Tally(truth_BN, len(draws))
    for number in range(blocks):
        block = decoder.next(
            known.block(number, size, per_block),
            normal_rows(stream, f"z1/{number}", (size, width), draws).to(device),
            uniform_rows(stream, f"token/{number}", per_block, draws).to(device),
        )
        first = number * per_block - tail  # the place that the block's first token has
        for place in range(max(0, first), min(count, first + per_block)):
            tokens_R = block.tokens[:, place - first]
            place_R = torch.full_like(tokens_R, place)
            tally.add(place_R, block.logits[:, place - first].float(), tokens_R)
        if number < blocks - 1:  # nothing is denoised behind the last block
            decoder.keep(block, list(range(rows)))
    return tally.draws(tally.marginal_BMN, left_out=left_out)


def _repeated(known: Prompts, times: int) -> Prompts:
    """Each prompt so many times, side by side."""
    return Prompts(
        known.prefix_Bmd.repeat_interleave(times, 0),
        [count for count in known.prefix for _ in range(times)],
        known.known_Bkd.repeat_interleave(times, 0),
        known.known_Bk.repeat_interleave(times, 0),
        known.known_tokens_BK.repeat_interleave(times, 0),
        [count for count in known.tail for _ in range(times)],
        known.anything,
    )
