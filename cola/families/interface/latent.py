"""What families that diffuse latents block by block have in common: bounds and texts.

B batch, L tokens, b blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from cola.compute.flow_flops import (
    EVALUATIONS,
    blocks_of,
    bound_evaluations,
    density_evaluations,
)
from cola.families.interface.family import Conditional, Likelihood
from cola.families.interface.latent_use import gaussian_cost
from cola.families.interface.refilling import RefillingFamily
from cola.likelihood.latent_conditional import conditional_nll
from cola.likelihood.latent_ode import (
    evidence_by_block,
    importance_weighted_bound,
    latent_moments,
)
from cola.models.latents.latent_model import LatentModel
from cola.objectives.history import block_means, history_gap
from cola.records import SOLVER_DIFFERENCE, NllKind, nll_kind_of
from cola.sampling import block_continuation
from cola.sampling.block_continuation import stream_blocks
from cola.sampling.block_decode import infill
from cola.sampling.block_draws import block_draws
from cola.sampling.continuous_batching import Ended
from cola.sampling.predictive import PredictiveDraws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec


class LatentFamily(RefillingFamily):
    """A family whose models are `LatentModel`s."""

    fills_gaps = True

    def decoding(self, settings: GenerationSpec) -> GenerationSpec:
        """The settings by which tokens are read off latents."""
        return settings

    def iter_generate(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
        rows: int,
        ended: Ended | None = None,
    ) -> Iterator[tuple[int, list[int]]]:
        """See `Family.iter_generate`."""
        return super().iter_generate(
            model,
            prompts,
            self.decoding(settings),
            stream=stream,
            eos_token_id=eos_token_id,
            rows=rows,
            ended=ended,
        )

    def likelihood(
        self, model: LatentModel, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `Family.likelihood`: the evidence bound with its three parts, or IWAE's bound."""
        if settings.importance_samples > 1:
            found = importance_weighted_bound(model, tokens_BL, settings, stream=stream)
            measured = {
                "effective_samples": found.effective_samples(),
                SOLVER_DIFFERENCE: found.solver_difference_B,
            }
            return Likelihood(found.nll_B, diagnostics=measured)
        evidence = evidence_by_block(
            model, tokens_BL, settings, stream=stream, diffusion_times=settings.diffusion_times
        )
        parts = {name: value_Bb.sum(1) for name, value_Bb in evidence.parts.items()}
        per_block = model.tokens_per_block
        by_position_BL = (evidence.nll / per_block).repeat_interleave(per_block, dim=1)
        return Likelihood(
            evidence.nll.sum(1),
            parts,
            diagnostics=evidence.measurements(tokens_BL.shape[1]),
            pooled=latent_moments(evidence.z0_Bnd),
            by_position_BL=by_position_BL,
        )

    def pooled_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """See `Family.pooled_metrics`: the price of the latents under the Gaussian with their
        moments."""
        return gaussian_cost(means)

    def diagnostics(self, model: Any, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
        """See `Family.diagnostics`: what the prior takes from the text before a block."""
        return history_gap(model, tokens_BL, stream)

    def block_means(self, model: Any, tokens_BL: Tensor) -> Tensor | None:
        """See `Family.block_means`."""
        return block_means(model, tokens_BL)

    def likelihood_evaluations(
        self, model: LatentModel, settings: LikelihoodSpec, length: int
    ) -> int:
        """See `Family.likelihood_evaluations`: those of both solutions of the flow, about half of
        them followed by a backward pass for the divergence, and of the diffusion's bound."""
        solved, _ = density_evaluations(settings.ode_steps)
        return settings.importance_samples * solved + bound_evaluations(settings)

    def generation_evaluations(
        self, model: LatentModel, settings: GenerationSpec, prompt: int
    ) -> int:
        """See `Family.generation_evaluations`: the solver's for every block that is made."""
        passes = 1 if settings.guidance_scale == 1.0 else 2
        _, blocks = blocks_of(settings, prompt, model.tokens_per_block)
        return passes * blocks * settings.steps * EVALUATIONS[settings.solver]

    def conditional_nll(
        self,
        model: LatentModel,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: a difference of bounds, which is a bound where no row has a
        prompt, or where blocks see tokens.

        `greedy_B` is None: decoding starts from sampled latents, so nothing is greedy.
        """
        pad = eos_token_id if eos_token_id is not None else 0
        nll_B, difference_B = conditional_nll(
            model, prompts, continuations, settings=settings, stream=stream, pad=pad
        )
        declared: NllKind = (
            "bound" if model.sees_tokens or not any(map(len, prompts)) else "estimate"
        )
        return Conditional(nll_B, nll_kind_of(declared, float(difference_B.mean())))

    def priced_tokens(self, model: LatentModel, tokens: int) -> int:
        """See `Family.priced_tokens`: those of whole blocks."""
        return -(-tokens // model.tokens_per_block) * model.tokens_per_block

    def stream(
        self,
        model: LatentModel,
        prompt: list[int],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Iterator[list[int]]:
        """See `Family.stream`: block by block."""
        for (piece,) in stream_blocks(
            model, [prompt], self.decoding(settings), stream=stream, eos_token_id=eos_token_id
        ):
            yield piece

    def predictive_draws(
        self,
        model: LatentModel,
        prompts_BL: Tensor,
        truth_BN: Tensor,
        settings: GenerationSpec,
        *,
        draws: Sequence[int],
        stream: Stream,
        eos_token_id: int | None,
    ) -> PredictiveDraws:
        """See `Family.predictive_draws`: latents of the prior, and the decoder's tokens."""
        pad = eos_token_id if eos_token_id is not None else 0
        return block_draws(
            model, prompts_BL, truth_BN, settings, draws=draws, stream=stream, pad=pad
        )

    def infill(
        self,
        model: LatentModel,
        lefts: list[list[int]],
        gaps: list[int],
        *,
        rights: list[list[int]],
        settings: GenerationSpec,
        stream: Stream,
    ) -> list[list[int]]:
        """See `Family.infill`, and `cola.sampling.block_decode.infill` for what conditions it."""
        settings = self.decoding(settings)
        return infill(model, lefts, gaps, rights=rights, settings=settings, stream=stream)

    continuations = staticmethod(block_continuation.iter_generate)
