"""The masked-diffusion baseline as a family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cola.families.interface.family import Batch, Conditional, Likelihood, StageModule
from cola.families.interface.pretrained import load_pretrained
from cola.families.interface.refilling import RefillingFamily
from cola.families.llada.spec import LLaDAModelSpec, MaskedDiffusion
from cola.likelihood.masked_bound import chain_rule_nll, masked_samples, mean_and_error
from cola.likelihood.masked_conditional import conditional_bound, conditional_chain_rule
from cola.models.transformer import LLaDAModel, build_llada, llama_sizes
from cola.objectives.masked_diffusion import masked_diffusion_draws, masked_diffusion_loss
from cola.sampling.continuous_batching import Ended
from cola.sampling.iterative_unmasking import infill, iter_generate
from cola.sampling.predictive import PredictiveDraws
from cola.sampling.unmasking_draws import unmasking_draws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec


class MaskedDiffusionStage(StageModule):
    """LLaDA's weighted cross entropy of masked tokens."""

    def __init__(self, model: LLaDAModel, objective: MaskedDiffusion) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = masked_diffusion_draws(
            self._objective,
            batch.tokens_BL,
            batch.stream,
            positions=batch.positions,
            global_size=batch.global_size,
        )
        return {"tokens_BL": batch.tokens_BL, **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return masked_diffusion_loss(self.model, tokens_BL, draws)


class LLaDAFamily(RefillingFamily):
    """See `Family`."""

    name = "llada"
    fills_gaps = True

    def build(self, spec: LLaDAModelSpec) -> LLaDAModel:
        """See `Family.build`."""
        return build_llada(spec)

    def stage_module(
        self, model: LLaDAModel, objective: MaskedDiffusion, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; the only stage is train."""
        return MaskedDiffusionStage(model, objective)

    def likelihood(
        self, model: LLaDAModel, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `Family.likelihood`: the bound with its Monte Carlo error, or the chain rule."""
        if settings.masked == "chain_rule":
            nll_BL = chain_rule_nll(model, tokens_BL)
            return Likelihood(nll_BL.sum(1), by_position_BL=nll_BL)
        samples_SBL = masked_samples(model, tokens_BL, settings.mask_samples, stream=stream)
        bound_B, error_B = mean_and_error(samples_SBL.sum(2))
        error = {"monte_carlo_error": error_B / tokens_BL.shape[1]}
        return Likelihood(bound_B, diagnostics=error, by_position_BL=samples_SBL.mean(0))

    def likelihood_evaluations(
        self, model: LLaDAModel, settings: LikelihoodSpec, length: int
    ) -> int:
        """See `Family.likelihood_evaluations`."""
        return length if settings.masked == "chain_rule" else settings.mask_samples

    def generation_evaluations(
        self, model: LLaDAModel, settings: GenerationSpec, prompt: int
    ) -> int:
        """See `Family.generation_evaluations`: one a pass of unmasking, two with guidance."""
        guided = 1 if settings.unmasking_guidance_scale == 1.0 else 2
        return guided * settings.unmasking_passes(settings.max_new_tokens)

    def conditional_nll(
        self,
        model: LLaDAModel,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: the bound, or the chain rule, which alone knows greedy."""
        if settings.masked == "chain_rule":
            nll_B, greedy_B = conditional_chain_rule(model, prompts, continuations)
            return Conditional(nll_B, "exact", greedy_B)
        samples = settings.mask_samples
        nll_B = conditional_bound(model, prompts, continuations, samples=samples, stream=stream)
        return Conditional(nll_B, "bound")

    def predictive_draws(
        self,
        model: LLaDAModel,
        prompts_BL: Tensor,
        truth_BN: Tensor,
        settings: GenerationSpec,
        *,
        draws: Sequence[int],
        stream: Stream,
        eos_token_id: int | None,
    ) -> PredictiveDraws:
        """See `Family.predictive_draws`: a token a pass, in random order."""
        return unmasking_draws(model, prompts_BL, truth_BN, settings, draws=draws, stream=stream)

    def iter_generate(
        self,
        model: LLaDAModel,
        prompts: Sequence[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
        rows: int,
        ended: Ended | None = None,
    ) -> Iterator[tuple[int, list[int]]]:
        """See `Family.iter_generate`: freed rows are given to waiting prompts at block borders."""
        return iter_generate(
            model,
            prompts,
            settings,
            stream=stream,
            eos_token_id=eos_token_id,
            rows=rows,
            ended=ended,
        )

    def infill(
        self,
        model: LLaDAModel,
        lefts: list[list[int]],
        gaps: list[int],
        *,
        rights: list[list[int]],
        settings: GenerationSpec,
        stream: Stream,
    ) -> list[list[int]]:
        """See `Family.infill`: the whole context on both sides conditions every token."""
        return infill(model, lefts, gaps, rights=rights, settings=settings, stream=stream)

    def sizes_of(self, model: LLaDAModel) -> LLaDAModelSpec:
        """See `Family.sizes_of`."""
        return LLaDAModelSpec(**llama_sizes(model.config))

    def save(self, model: LLaDAModel, folder: Path) -> None:
        """A Hugging Face folder of model type `cola_llada`."""
        model.save_pretrained(folder)

    def load(self, folder: Path) -> LLaDAModel:
        """Load what `save` wrote."""
        return load_pretrained(LLaDAModel, folder)
