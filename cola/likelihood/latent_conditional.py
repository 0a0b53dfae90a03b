"""Cola DLM's conditional likelihood of prompts and continuations of any length.

B batch, b blocks of the longest row, K samples of z0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.likelihood.latent_ode import evidence_by_block
from cola.likelihood.rows import RowsStream, joined
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


@torch.no_grad()
def conditional_nll(
    model: ColaDLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    settings: LikelihoodSpec,
    stream: Stream,
    pad: int,
) -> Tensor:
    """-log p(continuation | prompt) as bound(prompt, continuation) - bound(prompt), (B,) float64.

    Both bounds have the same draws, so that the prompt's blocks cancel: all networks are causal.
    With an empty prompt it is a bound; else it estimates the conditional NLL and need not bound it.

    A prompt is padded on the left with `pad` to whole blocks, as generation does with
    `first_block="left_padding"`: the continuation then starts a block, and what is subtracted is
    the bound of the very blocks that condition it. (Were the prompt's last block shared with the
    continuation, the latents behind the prompt would have to be paid for in its bound, and the
    difference would be too small by that.) So the text is conditioned on up to a block of `pad`s
    before it.

    A continuation's last block is filled up with `pad` for the encoder only. These tokens are not
    predicted: leaving out their factor of p(x | z0) marginalises over what follows, and any
    posterior of their latents keeps the bound a bound. It is looser by what these latents cost
    (prior against posterior), so a continuation that fills its last block has an advantage.

    `importance_samples` K > 1 takes the difference of two importance-weighted bounds.
    """
    per_block = model.tokens_per_block
    whole = [[*[pad] * (-len(prompt) % per_block), *prompt] for prompt in prompts]
    device = model.dit.txt_in.proj.weight.device
    rows = joined(whole, continuations, pad, device, multiple=per_block)
    first_B1 = (rows.start_B // per_block)[:, None]
    last_B1 = -(-rows.end_B // per_block)[:, None]
    size = model.dit.config.block_size
    draws = RowsStream(stream, (last_B1[:, 0] * size).tolist())
    block_b = torch.arange(rows.tokens_BL.shape[1] // per_block, device=device)
    together, alone = [], []
    for sample in range(settings.importance_samples):
        parts = evidence_by_block(model, rows.tokens_BL, settings, draws, sample, rows.real())
        log_weight_Bb = -torch.stack(list(parts.values())).sum(0)
        together.append(log_weight_Bb.where(block_b < last_B1, 0.0).sum(1))
        alone.append(log_weight_Bb.where(block_b < first_B1, 0.0).sum(1))
    return torch.stack(alone).logsumexp(0) - torch.stack(together).logsumexp(0)
