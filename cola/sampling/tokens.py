"""Token ids from logits: temperature, top-k, top-p, penalty (B batch, V vocabulary)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.spec import GenerationSpec


def sample_tokens(
    logits_BV: Tensor,
    settings: GenerationSpec,
    uniform_B: Tensor | None = None,
    *,
    seen_BV: Tensor | None = None,
) -> Tensor:
    """Token ids (B,): the most likely at temperature 0, else by inverse CDF of `uniform_B`.

    `seen_BV` is True at each row's tokens so far (`seen_tokens`), for the repetition penalty.
    Nothing is read back from the device.

    Raises:
        ValueError: when the temperature is above 0 and `uniform_B` is missing.
    """
    logits_BV = logits_BV.float()
    if settings.repetition_penalty != 1.0 and seen_BV is not None:
        logits_BV = penalised(logits_BV, settings.repetition_penalty, seen_BV)
    if settings.temperature == 0.0:
        return logits_BV.argmax(-1)
    if uniform_B is None:
        raise ValueError("sampling at a temperature above 0 needs uniform numbers")
    logits_BV = logits_BV / settings.temperature
    if settings.top_k is not None:
        kth = logits_BV.topk(min(settings.top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth, -torch.inf)
    probability_BV = logits_BV.softmax(-1)
    if settings.top_p is not None:
        probability_BV = nucleus(probability_BV, settings.top_p)
    return drawn(probability_BV, uniform_B)


def nucleus(probability_BV: Tensor, top_p: float) -> Tensor:
    """The probabilities in the smallest set of tokens that reaches `top_p`, and 0 outside of it."""
    sorted_BV, order_BV = probability_BV.sort(dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = sorted_BV * (before_BV < top_p)  # what lies behind those that reach it is dropped
    return torch.zeros_like(probability_BV).scatter(-1, order_BV, kept_BV)


def drawn(weight_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Indices (B,) with probabilities in proportion to weights of at least 0, by inverse CDF.

    The CDF is that in the vocabulary's order: sorted by probability, two tokens that rounding makes
    change places would change the draw.
    """
    cumulative_BV = weight_BV.cumsum(-1)
    threshold_B1 = uniform_B[:, None].to(cumulative_BV) * cumulative_BV[:, -1:]
    index_V = torch.arange(weight_BV.shape[-1], device=weight_BV.device)
    possible_BV = weight_BV > 0
    none = weight_BV.shape[-1]
    first_B = index_V.where(possible_BV & (cumulative_BV > threshold_B1), none).amin(-1)
    # Rounding may take the threshold to the sum itself.
    return first_B.minimum(index_V.where(possible_BV, 0).amax(-1))


def penalised(logits_BV: Tensor, penalty: float, seen_BV: Tensor) -> Tensor:
    """Logits (B, V) with positive values of seen tokens divided by the penalty, others multiplied.

    As in CTRL (arXiv 1909.05858), but lowering negative logits, too.
    """
    lowered_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, lowered_BV, logits_BV)


def seen_tokens(rows: Sequence[Sequence[int]], vocabulary: int, device: torch.device) -> Tensor:
    """(B, V), True at every token of a row."""
    seen_BV = torch.zeros(len(rows), vocabulary, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        seen_BV[row, torch.tensor(list(tokens), dtype=torch.long)] = True
    return seen_BV.to(device)
