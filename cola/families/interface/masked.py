"""What families that unmask tokens have in common: their bound, and one order's chain rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from cola.families.interface.family import Conditional, Likelihood
from cola.families.interface.refilling import RefillingFamily
from cola.likelihood.masked_bound import mean_and_error
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


class MaskedFamily(RefillingFamily):
    """A family of masked diffusion. Its likelihoods are static methods: B texts, L tokens, S
    samples; nats."""

    fills_gaps = True

    # (model, tokens_BL) -> (B, L), -log p of every token along one order.
    chain_rule: ClassVar[Callable[..., Tensor]]
    # (model, tokens_BL, S, stream=) -> (S, B, L), samples of the bound by position.
    bound_samples: ClassVar[Callable[..., Tensor]]
    # (model, prompts, continuations) -> (B,), and whether each is greedy.
    conditional_chain_rule: ClassVar[Callable[..., tuple[Tensor, Tensor]]]
    # (model, prompts, continuations, samples=, stream=) -> (B,).
    conditional_bound: ClassVar[Callable[..., Tensor]]

    def has_one_order(self, model: Any, settings: LikelihoodSpec) -> bool:
        """Whether the likelihood is that of one order of unmasking, exactly."""
        return settings.masked == "chain_rule"

    def likelihood(
        self, model: Any, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `Family.likelihood`: the bound with its Monte Carlo error, or the chain rule."""
        if self.has_one_order(model, settings):
            nll_BL = self.chain_rule(model, tokens_BL)
            return Likelihood(nll_BL.sum(1), by_position_BL=nll_BL)
        samples_SBL = self.bound_samples(model, tokens_BL, settings.mask_samples, stream=stream)
        bound_B, error_B = mean_and_error(samples_SBL.sum(2))
        error = {"monte_carlo_error": error_B / tokens_BL.shape[1]}
        return Likelihood(bound_B, diagnostics=error, by_position_BL=samples_SBL.mean(0))

    def conditional_nll(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: the bound, or the chain rule, which alone knows greedy."""
        if self.has_one_order(model, settings):
            nll_B, greedy_B = self.conditional_chain_rule(model, prompts, continuations)
            return Conditional(nll_B, "exact", greedy_B)
        samples = settings.mask_samples
        nll_B = self.conditional_bound(
            model, prompts, continuations, samples=samples, stream=stream
        )
        return Conditional(nll_B, "bound")
