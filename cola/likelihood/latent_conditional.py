"""Cola DLM's conditional likelihood (model.md, Eq. 27), for texts of any length.

B batch, b blocks of the longest row, K samples of z0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.likelihood.latent_ode import evidence_by_block
from cola.likelihood.padded_pairs import RaggedStream, pad_pairs
from cola.models.latents.latent_model import LatentModel
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


@torch.no_grad()
def conditional_nll(
    model: LatentModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    settings: LikelihoodSpec,
    stream: Stream,
    pad: int,
) -> tuple[Tensor, Tensor]:
    """Estimate of -log p(continuation | prompt) in nats, (B,) float64: a difference of two bounds.

    With it, what finer solutions of the flow take from a row's whole bound, in nats a latent.

    That is bound(prompt, continuation) - bound(prompt), with the same draws, so that the prompt's
    blocks cancel (all networks are causal). With an empty prompt it is a bound; otherwise it need
    not bound the conditional NLL. `importance_samples` K > 1 subtracts importance-weighted bounds.
    Where blocks see the tokens before them (`LatentModel.sees_tokens`), the prompt's blocks are
    given and cost nothing, so that what is left is a bound (model.md, Eq. 51).

    A prompt is padded on the left with `pad` to whole blocks, as generation does with
    `first_block="left_padding"`: the continuation then starts a block, and what is subtracted is
    the bound of exactly the blocks that condition it. (If the prompt's last block were shared with
    the continuation, the prompt's bound would include latents behind the prompt, and the difference
    would be too small by their cost.) The text is thus conditioned on up to a block of `pad`s.

    A continuation's last block is filled up with `pad` for the encoder only. These tokens are not
    predicted: leaving out their factor of p(x | z0) marginalises over the text that follows, and
    any posterior of their latents keeps the bound a bound. It is looser by what these latents cost
    (prior against posterior), so a continuation that fills its last block has an advantage.
    """
    per_block = model.tokens_per_block
    whole = [[*[pad] * (-len(prompt) % per_block), *prompt] for prompt in prompts]
    device = model.dit.txt_in.proj.weight.device
    pairs = pad_pairs(whole, continuations, pad, device=device, multiple=per_block)
    first_B1 = (pairs.start_B // per_block)[:, None]
    last_B1 = -(-pairs.end_B // per_block)[:, None]
    size = model.dit.config.block_size
    draws = RaggedStream(stream, (last_B1[:, 0] * size).tolist())
    block_b = torch.arange(pairs.tokens_BL.shape[1] // per_block, device=device)
    together, alone, differences = [], [], []
    for sample in range(settings.importance_samples):
        evidence = evidence_by_block(
            model, pairs.tokens_BL, settings, stream=draws, sample=sample, real_BL=pairs.real()
        )
        log_weight_Bb = (-evidence.nll).where(block_b < last_B1, 0.0)
        if model.sees_tokens:
            log_weight_Bb = log_weight_Bb.where(block_b >= first_B1, 0.0)
        together.append(log_weight_Bb.sum(1))
        alone.append(log_weight_Bb.where(block_b < first_B1, 0.0).sum(1))
        differences.append(evidence.solver_difference_Bb.where(block_b < last_B1, 0.0).sum(1))
    nll_B = torch.stack(alone).logsumexp(0) - torch.stack(together).logsumexp(0)
    latents_B = (last_B1[:, 0] * size).clamp(min=1)
    return nll_B, torch.stack(differences).mean(0) / latents_B
