"""Draws of the next tokens of models with latents: latents from the prior, tokens from the decoder.

Given its latents a text's tokens are independent (model.md, Eq. 22), so that the mean over draws of
the decoder's probabilities estimates the model's own without bias. Where blocks see the tokens
before them, the second block on is also drawn behind the text's own tokens, which the estimate
takes.
B prompts of one length L, M draws, R = B M rows, N next tokens, P tokens a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.models.latents.latent_model import LatentModel
from cola.sampling.block_decode import Block, BlockDecoder
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
    tail = len(texts[0]) % per_block
    blocks = -(-(tail + count) // per_block)
    copies = 2 if model.sees_tokens and blocks > 1 else 1  # the draws' own rows come first
    known = _repeated(encode_prompts(model, texts, pad), len(draws), copies)
    rows, size = len(known.tail), model.dit.config.block_size
    capacity = known.prefix_Bmd.shape[1] + blocks * size
    decoder = BlockDecoder(model, settings, rows, capacity=capacity)
    decoder.add(known, previous=[])
    tally, given = Tally(truth_BN, len(draws)), _Given(truth_BN, len(draws))
    for number in range(blocks):
        noise_Rsd, uniform_RP = _numbers(model, number, draws, stream=stream, copies=copies)
        block = decoder.next(known.block(number, size, per_block), noise_Rsd, uniform_RP)
        first = number * per_block - tail  # the place that the block's first token has
        for place in range(max(0, first), min(count, first + per_block)):
            column, own = place - first, slice(rows // copies)
            tokens_R = block.tokens[own, column]
            place_R = torch.full_like(tokens_R, place)
            tally.add(place_R, block.logits[own, column].float(), tokens_R)
            if copies > 1:
                given.add(block, place, column)
        if number < blocks - 1:  # nothing is denoised behind the last block
            decoder.keep(block, list(range(rows)))
    joint_BMN = given.joint() if copies > 1 else tally.marginal_BMN
    return tally.draws(joint_BMN, left_out=left_out)


class _Given:
    """The second copy of the rows: whatever is drawn, they go on with the text's own tokens."""

    def __init__(self, truth_BN: Tensor, draws: int) -> None:
        self._truth_RN, self._draws = truth_BN.repeat_interleave(draws, 0), draws
        self._factors: list[Tensor] = []

    def add(self, block: Block, place: int, column: int) -> None:
        """log p of the text's token at a place, which takes its place in the block."""
        truth_R = self._truth_RN[:, place]
        log_p_RV = block.logits[-len(truth_R) :, column].double().log_softmax(-1)
        self._factors.append(log_p_RV.gather(1, truth_R[:, None])[:, 0])
        block.tokens[-len(truth_R) :, column] = truth_R

    def joint(self) -> Tensor:
        """All factors, in the order of the tokens, (B, M, N)."""
        return torch.stack(self._factors, 1).unflatten(0, (-1, self._draws))


def _numbers(
    model: LatentModel, number: int, draws: Sequence[int], *, stream: Stream, copies: int
) -> tuple[Tensor, Tensor]:
    """z1 (R, s, d) and what a block's tokens are drawn with (R, P), the same in all copies."""
    config, device = model.dit.config, model.dit.txt_in.proj.weight.device
    shape = (config.block_size, config.noise_width)
    noise = normal_rows(stream, f"z1/{number}", shape, draws)
    uniform = uniform_rows(stream, f"token/{number}", model.tokens_per_block, draws)
    return noise.to(device).repeat(copies, 1, 1), uniform.to(device).repeat(copies, 1)


def _repeated(known: Prompts, times: int, copies: int) -> Prompts:
    """Each prompt so many times, side by side, and all of that in so many copies."""

    def rows(part: Tensor) -> Tensor:
        return torch.cat([part.repeat_interleave(times, 0)] * copies)

    def counts(part: list[int]) -> list[int]:
        return [count for count in part for _ in range(times)] * copies

    return Prompts(
        rows(known.prefix_Bmd),
        counts(known.prefix),
        rows(known.known_Bkd),
        rows(known.known_Bk),
        rows(known.known_tokens_BK),
        counts(known.tail),
        known.anything,
    )
