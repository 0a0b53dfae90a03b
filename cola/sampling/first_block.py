"""Known parts of the blocks to be generated: prompt tails, split patches, right contexts.

A block is denoised as a whole, but a prompt need not fill whole blocks. Latents whose tokens are
all known are pinned (model.md, Eq. 21; `GenerationSpec.first_block` selects how). A prompt whose
end splits a patch (patch_size > 1) is first completed to the patch's end, see `complete_patches`,
or moved to it (`GenerationSpec.split_patch`), see `aligned_prompts`.
Shapes: B batch, L tokens, s latents a block, d latent width, P tokens a block, m latents of whole
blocks, k latents of the blocks that hold something known, K = k / s * P their tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cola.models.latents.latent_model import LatentModel
from cola.sampling.tokens import sample_tokens, seen_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

UNKNOWN = -1  # in `known_tokens`


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts.

    prefix_Bmd: latents of the prompts' whole blocks, of which the first `prefix[i]` are sample
    i's. known_Bkd: latents of the blocks to be generated, of which those where known_Bk is True
    are known. known_tokens_BK: their token ids, UNKNOWN where they are to be generated. tail[i]:
    number of prompt tokens in sample i's first generated block. anything[b]: whether any sample has
    a known token in the b-th of these blocks, which the host knows without asking the device.
    """

    prefix_Bmd: Tensor
    prefix: list[int]
    known_Bkd: Tensor
    known_Bk: Tensor
    known_tokens_BK: Tensor
    tail: list[int]
    anything: list[bool]

    def block(self, number: int, block_size: int, tokens_per_block: int) -> KnownBlock:
        """Known parts of the generated block of that number (none behind the encoded ones)."""
        start, token = number * block_size, number * tokens_per_block
        if start >= self.known_Bk.shape[1]:
            z_Bsd = torch.zeros_like(self.known_Bkd[:, :block_size])
            known_Bs = torch.zeros_like(self.known_Bk[:, :block_size])
            tokens_BP = torch.full_like(self.known_tokens_BK[:, :tokens_per_block], UNKNOWN)
            return KnownBlock(z_Bsd, known_Bs, tokens_BP, anything=False)
        return KnownBlock(
            self.known_Bkd[:, start : start + block_size],
            self.known_Bk[:, start : start + block_size],
            self.known_tokens_BK[:, token : token + tokens_per_block],
            anything=self.anything[number],
        )


@dataclass(frozen=True)
class KnownBlock:
    """One block of `Prompts`: z_Bsd (B, s, d), known_Bs (B, s), tokens_BP (B, P).

    `anything` is False where no token is known.
    """

    z_Bsd: Tensor
    known_Bs: Tensor
    tokens_BP: Tensor
    _: KW_ONLY
    anything: bool

    def with_rows(self, added: KnownBlock) -> KnownBlock:
        """These rows followed by those of `added`."""
        return KnownBlock(
            torch.cat([self.z_Bsd, added.z_Bsd]),
            torch.cat([self.known_Bs, added.known_Bs]),
            torch.cat([self.tokens_BP, added.tokens_BP]),
            anything=self.anything or added.anything,
        )


def nothing_known(model: LatentModel, rows: int) -> KnownBlock:
    """A block of `rows` rows without known parts."""
    size, device = model.dit.config.block_size, model.dit.txt_in.proj.weight.device
    return KnownBlock(
        torch.zeros(rows, size, model.dit.config.txt_in_channels, device=device),
        torch.zeros(rows, size, dtype=torch.bool, device=device),
        torch.full((rows, model.tokens_per_block), UNKNOWN, device=device),
        anything=False,
    )


def aligned_prompts(prompts: Sequence[Sequence[int]], strategy: str, patch: int) -> list[list[int]]:
    """The prompts, with the strategy `shift` without the first tokens that would make their ends
    split a patch; one that does not fill a patch stays."""
    if strategy != "shift":
        return [list(prompt) for prompt in prompts]
    return [
        list(prompt[len(prompt) % patch :] if len(prompt) > patch else prompt) for prompt in prompts
    ]


def padded_prompts(
    prompts: Sequence[Sequence[int]], strategy: str, tokens_per_block: int, *, pad: int
) -> list[list[int]]:
    """The prompts, padded to whole blocks if the strategy is one of padding."""
    if strategy not in ("left_padding", "right_padding"):
        return [list(prompt) for prompt in prompts]
    padded = []
    for prompt in prompts:
        filler = [pad] * (-len(prompt) % tokens_per_block)
        padded.append(
            filler + list(prompt) if strategy == "left_padding" else list(prompt) + filler
        )
    return padded


def complete_patches(
    model: LatentModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSpec,
    *,
    stream: Stream,
    pad: int,
) -> list[list[int]]:
    """Tokens that complete the patch that each prompt splits (none where it ends with a patch).

    No latent stands for half a patch, and a freely generated one need not agree with the known
    half. A VAE trained with lambda_mask > 0 (model.md, Eq. 12) predicts [mask] tokens from the
    text before them and from their patch: the missing tokens are encoded as [mask], decoded, and
    sampled one after the other.
    """
    patch, mask = model.codec.config.patch_size, model.codec.config.mask_token_id
    missing = [-len(prompt) % patch for prompt in prompts]
    fills: list[list[int]] = [[] for _ in prompts]
    for number in range(max(missing)):
        texts = [[*prompt, *fill] for prompt, fill in zip(prompts, fills, strict=True)]
        masked = [
            text + [mask] * (count - number) for text, count in zip(texts, missing, strict=True)
        ]
        logits_BLV = model.codec(_padded(model, masked, pad))[2]
        row = torch.arange(len(texts), device=logits_BLV.device)
        last = logits_BLV.shape[1] - 1  # a row without a split patch may have no position behind it
        position = torch.tensor([min(len(text), last) for text in texts], device=row.device)
        uniform_B = stream.uniform(f"patch/{number}") if settings.temperature > 0 else None
        logits_BV = logits_BLV[row, position]
        seen_BV = None
        if settings.repetition_penalty != 1.0:
            seen_BV = seen_tokens(texts, logits_BV.shape[1], row.device)
        ids = sample_tokens(logits_BV, settings, uniform_B, seen_BV=seen_BV)
        for fill, token, count in zip(fills, ids.tolist(), missing, strict=True):
            if number < count:
                fill.append(token)
    return fills


def _padded(model: LatentModel, texts: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Token ids (B, L), padded on the right to whole blocks, at least one."""
    per_block = model.tokens_per_block
    longest = max(1, *(len(text) for text in texts))
    tokens_BL = torch.full((len(texts), -(-longest // per_block) * per_block), pad)
    for row, text in enumerate(texts):
        tokens_BL[row, : len(text)] = torch.tensor(list(text), dtype=torch.long)
    return tokens_BL.to(model.dit.txt_in.proj.weight.device)


def encode_prompts(model: LatentModel, prompts: Sequence[Sequence[int]], pad: int) -> Prompts:
    """Posterior means of the prompts, padded to whole blocks before encoding."""
    gaps = [0] * len(prompts)
    rights: list[list[int]] = [[] for _ in prompts]
    return encode_known(model, prompts, gaps, rights=rights, pad=pad, gap_token=pad)


def encode_known(
    model: LatentModel,
    lefts: Sequence[Sequence[int]],
    gaps: Sequence[int],
    *,
    rights: Sequence[Sequence[int]],
    pad: int,
    gap_token: int,
) -> Prompts:
    """Posterior means of [left, gap of `gaps[i]` tokens, right], padded to whole blocks.

    The gap is encoded as `gap_token`s. In a row without a right context, nothing is known behind
    the left one. Latents of partly known patches count as unknown.
    """
    device = model.dit.txt_in.proj.weight.device
    size, per_block = model.dit.config.block_size, model.tokens_per_block
    patch = model.codec.config.patch_size
    whole = [len(left) // per_block for left in lefts]
    tail = [len(left) % per_block for left in lefts]
    # A right context matters up to the end of the block in which its gap ends.
    spans = [
        start + (gap if right else 0) for start, gap, right in zip(tail, gaps, rights, strict=True)
    ]
    count = max(1, *(-(-span // per_block) for span in spans))
    length = (max(whole) + count) * per_block
    texts = [
        [*left, *[gap_token] * (gap if right else 0), *right][:length]
        for left, gap, right in zip(lefts, gaps, rights, strict=True)
    ]
    tokens_BL = _padded(model, texts, pad)
    known_BL = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, (left, gap, text) in enumerate(zip(lefts, gaps, texts, strict=True)):
        known_BL[row, : len(text)] = True
        known_BL[row, len(left) : len(left) + gap] = False
    z_Bmd = model.to_dit(model.codec.encoder(tokens_BL)[0])
    tokens_BL = F.pad(tokens_BL, (0, length - tokens_BL.shape[1]))
    start_B = torch.tensor(whole)
    z_Bmd = F.pad(z_Bmd, (0, 0, 0, length // patch - z_Bmd.shape[1]))
    position_Bk = (start_B[:, None] * size + torch.arange(count * size)).to(device)
    token_BK = start_B[:, None] * per_block + torch.arange(count * per_block)
    known_BK = known_BL.gather(1, token_BK)
    anything = known_BK.unflatten(1, (count, per_block)).any(2).any(0).tolist()
    known_BK, token_BK = known_BK.to(device), token_BK.to(device)
    known_tokens_BK = tokens_BL.gather(1, token_BK).masked_fill(~known_BK, UNKNOWN)
    return Prompts(
        z_Bmd[:, : max(whole) * size],
        [count * size for count in whole],
        z_Bmd.gather(1, position_Bk[..., None].expand(-1, -1, z_Bmd.shape[-1])),
        known_BK.unflatten(1, (-1, patch)).all(-1),
        known_tokens_BK,
        tail,
        anything,
    )
