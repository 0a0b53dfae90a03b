"""The masked-diffusion baseline as a family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from cola.families.interface.family import Batch, StageModule
from cola.families.interface.masked import MaskedFamily
from cola.families.interface.pretrained import load_pretrained
from cola.families.llada.spec import LLaDAModelSpec, MaskedDiffusion
from cola.likelihood.masked_bound import chain_rule_nll, masked_samples
from cola.likelihood.masked_conditional import conditional_bound, conditional_chain_rule
from cola.models.transformer import LLaDAModel, build_llada, llama_sizes
from cola.objectives.masked_diffusion import masked_diffusion_draws, masked_diffusion_loss
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


class LLaDAFamily(MaskedFamily):
    """See `Family`."""

    name = "llada"

    def build(self, spec: LLaDAModelSpec) -> LLaDAModel:
        """See `Family.build`."""
        return build_llada(spec)

    def stage_module(
        self, model: LLaDAModel, objective: MaskedDiffusion, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; the only stage is train."""
        return MaskedDiffusionStage(model, objective)

    def likelihood_evaluations(
        self, model: LLaDAModel, settings: LikelihoodSpec, length: int
    ) -> int:
        """See `Family.likelihood_evaluations`."""
        return length if self.has_one_order(model, settings) else settings.mask_samples

    def generation_evaluations(
        self, model: LLaDAModel, settings: GenerationSpec, prompt: int
    ) -> int:
        """See `Family.generation_evaluations`: one a pass of unmasking, two with guidance."""
        guided = 1 if settings.unmasking_guidance_scale == 1.0 else 2
        return guided * settings.unmasking_passes(settings.max_new_tokens)

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

    continuations = staticmethod(iter_generate)
    chain_rule = staticmethod(chain_rule_nll)
    bound_samples = staticmethod(masked_samples)
    conditional_chain_rule = staticmethod(conditional_chain_rule)
    conditional_bound = staticmethod(conditional_bound)
