"""What a model says of the next tokens behind a prompt, from independent draws of them.

B prompts of one length, M draws of each, R = B M rows (the draws of a prompt side by side), N next
tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.seeding import Stream

LISTED = 5  # most probable tokens of a place, as many as OpenAI's interface lists


@dataclass(frozen=True)
class PredictiveDraws:
    """M draws of the N tokens behind each prompt, beside the text's own next tokens.

    tokens_BMN: the drawn tokens. marginal_BMN: log p of the text's token at each place, given what
    that draw had made before. probability_BNV: float64, sums over the draws of the distributions
    behind `marginal_BMN`. joint_BMN: factors of log p of the text's N tokens in each draw, whose
    mean probability over the draws estimates the model's; `in_order` says whether factor i is that
    of token i and the ones before it (else only their sum means something). None: the family
    gives no probabilities. left_out: tokens at the beginning of each prompt that were not read.
    """

    tokens_BMN: Tensor
    marginal_BMN: Tensor | None = None
    probability_BNV: Tensor | None = None
    joint_BMN: Tensor | None = None
    in_order: bool = True
    left_out: int = 0


@dataclass(frozen=True)
class NextTokens:
    """Exact predictions of each of the N tokens from the prompt and the text's tokens before it.

    log_p_BN: float64, of the text's token. brier_BN: 2 p(token) - sum of p(v)^2 over the
    vocabulary. best_BN: the most probable tokens. listed_BNK and listed_log_p_BNK: the `LISTED`
    most probable tokens, the first of them first, with their log p.
    """

    log_p_BN: Tensor
    brier_BN: Tensor
    best_BN: Tensor
    listed_BNK: Tensor
    listed_log_p_BNK: Tensor

    @classmethod
    def of(cls, logits_BNV: Tensor, truth_BN: Tensor) -> NextTokens:
        """The predictions that these logits are."""
        log_p_BNV = logits_BNV.double().log_softmax(-1)
        log_p_BN = log_p_BNV.gather(-1, truth_BN[..., None])[..., 0]
        square_BN = (2 * log_p_BNV).exp().sum(-1)
        listed = log_p_BNV.topk(min(LISTED, log_p_BNV.shape[-1]), dim=-1)
        return cls(
            log_p_BN,
            2 * log_p_BN.exp() - square_BN,
            log_p_BNV.argmax(-1),
            listed.indices,
            listed.values,
        )


class Tally:
    """Gathers draws and their distributions as a sampler makes them."""

    def __init__(self, truth_BN: Tensor, draws: int) -> None:
        batch, tokens = truth_BN.shape
        self._truth, self._draws = truth_BN, draws
        self._batch = torch.arange(batch, device=truth_BN.device)
        shape = (batch, draws, tokens)
        self.tokens_BMN = torch.zeros(shape, dtype=torch.long, device=truth_BN.device)
        self.marginal_BMN = torch.zeros(shape, dtype=torch.float64, device=truth_BN.device)
        self.probability_BNV: Tensor | None = None

    def add(self, place_R: Tensor, logits_RV: Tensor, tokens_R: Tensor) -> None:
        """Each row's token at a place of its own, and the logits that it was drawn from."""
        log_p_BMV = logits_RV.double().log_softmax(-1).unflatten(0, (-1, self._draws))
        place_BM, tokens_BM = (part.view(-1, self._draws) for part in (place_R, tokens_R))
        if self.probability_BNV is None:
            self.probability_BNV = log_p_BMV.new_zeros(*self._truth.shape, log_p_BMV.shape[-1])
        # Draw after draw: a sum in another order would depend on the batch.
        for draw in range(self._draws):
            place_B, log_p_BV = place_BM[:, draw], log_p_BMV[:, draw]
            truth_B = self._truth[self._batch, place_B]
            self.tokens_BMN[self._batch, draw, place_B] = tokens_BM[:, draw]
            self.marginal_BMN[self._batch, draw, place_B] = log_p_BV[self._batch, truth_B]
            self.probability_BNV[self._batch, place_B] += log_p_BV.exp()

    def draws(
        self, joint_BMN: Tensor | None, *, in_order: bool = True, left_out: int = 0
    ) -> PredictiveDraws:
        """All that was gathered."""
        return PredictiveDraws(
            self.tokens_BMN,
            self.marginal_BMN,
            self.probability_BNV,
            joint_BMN,
            in_order,
            left_out,
        )


def uniform_rows(stream: Stream, purpose: str, count: int, draws: Sequence[int]) -> Tensor:
    """U[0, 1) of every draw of every prompt, (R, count)."""
    drawn = [stream.uniform(f"draw/{draw}/{purpose}", count) for draw in draws]
    return torch.stack(drawn, 1).flatten(0, 1)


def normal_rows(stream: Stream, purpose: str, shape: Sequence[int], draws: Sequence[int]) -> Tensor:
    """N(0, 1) of every draw of every prompt, (R, *shape)."""
    drawn = [stream.normal(f"draw/{draw}/{purpose}", *shape) for draw in draws]
    return torch.stack(drawn, 1).flatten(0, 1)
