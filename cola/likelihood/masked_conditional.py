"""LLaDA's conditional likelihoods: the prompt is never masked, only the continuation is.

The same two as of whole sequences (`cola.likelihood.masked_bound`), of p(continuation | prompt).
B batch, L tokens, n tokens of a row's continuation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cola.likelihood.rows import Rows, joined
from cola.models.transformer import LLaDAModel
from cola.objectives.masked_diffusion import masked_cross_entropy
from cola.seeding import Stream


@torch.no_grad()
def conditional_bound(
    model: LLaDAModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    samples: int,
    stream: Stream,
) -> Tensor:
    """Estimate of an upper bound of -log p(continuation | prompt) in nats, (B,) float64.

    E_{k ~ U{1..n}} [ (n / k) sum of CE over k random masked tokens ], the counts stratified over
    the samples. Every row has its own draws, whatever the batch it is in.
    """
    rows = joined(prompts, continuations, 0, model.device)
    real_BL = _real(rows)
    length_B = rows.end_B - rows.start_B
    total_B = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
    for sample in range(samples):
        u_B = stream.uniform(f"count/{sample}", 1)[:, 0].to(model.device)
        count_B = (((sample + u_B) / samples) * length_B).long().minimum(length_B - 1) + 1
        mask_BL = random_masks(rows, count_B, stream, f"mask/{sample}")
        ce_BL = masked_cross_entropy(model, rows.tokens_BL, mask_BL, real_BL).double()
        total_B += ce_BL.sum(1) * length_B / count_B.clamp_min(1)
    return total_B / samples


def random_masks(rows: Rows, count_B: Tensor, stream: Stream, purpose: str) -> Tensor:
    """(B, L): `count_B` random places of each row's continuation."""
    mask_BL = torch.zeros_like(rows.tokens_BL, dtype=torch.bool)
    spans = zip(rows.start_B.tolist(), rows.end_B.tolist(), count_B.tolist(), strict=True)
    for row, (start, end, count) in enumerate(spans):
        drawn_n = stream.of([row]).uniform(purpose, end - start)[0]
        mask_BL[row, start:end] = (drawn_n.argsort().argsort() < count).to(mask_BL.device)
    return mask_BL


@torch.no_grad()
def conditional_chain_rule(
    model: LLaDAModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """-sum_i log p(x_i | prompt, x_<i, the rest masked) in nats, (B,) float64; is it greedy, (B,).

    Exact for unmasking n tokens from left to right, one a step: as many passes as the longest
    continuation has tokens. Greedy: that sampler's most likely choices make the continuation.
    """
    rows = joined(prompts, continuations, 0, model.device)
    real_BL, continuation_BL = _real(rows), rows.continuation()
    place_L = torch.arange(rows.tokens_BL.shape[1], device=model.device)
    row_B = torch.arange(len(prompts), device=model.device)
    nll_B = torch.zeros(len(prompts), dtype=torch.float64, device=model.device)
    greedy_B = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    for step in range(int((rows.end_B - rows.start_B).max())):
        at_B = (rows.start_B + step).clamp_max(len(place_L) - 1)
        left_B = rows.start_B + step < rows.end_B
        hidden_BL = continuation_BL & (place_L >= at_B[:, None])
        text_BL = rows.tokens_BL.masked_fill(hidden_BL, model.config.mask_token_id)
        logits_BV = model(text_BL, real_BL)[row_B, at_B].float()
        target_B = rows.tokens_BL[row_B, at_B]
        nll_B += F.cross_entropy(logits_BV, target_B, reduction="none").double() * left_B
        greedy_B &= (logits_BV.argmax(-1) == target_B) | ~left_B
    return nll_B, greedy_B


def _real(rows: Rows) -> Tensor | None:
    """Where the rows are real; None where all of them are. An empty row sees one padding token."""
    real_BL = rows.real()
    real_BL[:, 0] = True
    return None if bool(real_BL.all()) else real_BL
