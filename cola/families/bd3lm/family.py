"""Block diffusion over masks as a family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cola.errors import SpecError
from cola.families.bd3lm.flops import likelihood_passes, tokens_by_block
from cola.families.bd3lm.spec import BD3LMModelSpec, BlockMaskedDiffusion
from cola.families.interface.family import Batch, Conditional, Likelihood, StageModule
from cola.families.interface.pretrained import load_pretrained
from cola.families.interface.refilling import RefillingFamily
from cola.likelihood.masked_blocks import (
    block_chain_rule,
    block_samples,
    conditional_bound,
    conditional_chain_rule,
)
from cola.likelihood.masked_bound import mean_and_error
from cola.models.block_transformer import BD3LMModel, build_bd3lm
from cola.models.transformer import llama_sizes
from cola.objectives.masked_blocks import block_masked_loss, block_masking_draws
from cola.sampling.continuous_batching import Ended
from cola.sampling.masked_blocks import (
    block_passes,
    infill,
    iter_generate,
    stream_blocks,
)
from cola.sampling.predictive import PredictiveDraws
from cola.sampling.unmasking_draws import masked_block_draws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec


class BlockMaskingStage(StageModule):
    """The weighted cross entropy of masked tokens, block by block behind clean ones."""

    def __init__(self, model: BD3LMModel, objective: BlockMaskedDiffusion) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = block_masking_draws(
            self._objective,
            batch.tokens_BL,
            self.model.config.block_size,
            stream=batch.stream,
            positions=batch.positions,
            global_size=batch.global_size,
        )
        return {"tokens_BL": batch.tokens_BL, **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return block_masked_loss(self.model, tokens_BL, draws)


class BD3LMFamily(RefillingFamily):
    """See `Family`."""

    name = "bd3lm"
    fills_gaps = True

    def build(self, spec: BD3LMModelSpec) -> BD3LMModel:
        """See `Family.build`."""
        return build_bd3lm(spec, spec.block_size)

    def stage_module(
        self, model: BD3LMModel, objective: BlockMaskedDiffusion, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; the only stage is train."""
        return BlockMaskingStage(model, objective)

    def likelihood(
        self, model: BD3LMModel, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `Family.likelihood`: the bound with its Monte Carlo error, or the chain rule.

        Raises:
            SpecError: the sequences are no whole blocks.
        """
        length, size = tokens_BL.shape[1], model.config.block_size
        if length % size:
            raise SpecError(
                f"sequences of {length} tokens are no whole blocks of block_size={size}; use a "
                "model whose blocks divide them"
            )
        if _has_one_order(model, settings):
            nll_BL = block_chain_rule(model, tokens_BL)
            return Likelihood(nll_BL.sum(1), by_position_BL=nll_BL)
        samples_SBL = block_samples(model, tokens_BL, settings.mask_samples, stream=stream)
        bound_B, error_B = mean_and_error(samples_SBL.sum(2))
        error = {"monte_carlo_error": error_B / tokens_BL.shape[1]}
        return Likelihood(bound_B, diagnostics=error, by_position_BL=samples_SBL.mean(0))

    def likelihood_evaluations(
        self, model: BD3LMModel, settings: LikelihoodSpec, length: int
    ) -> int:
        """See `Family.likelihood_evaluations`: passes of the noisy copy."""
        return likelihood_passes(settings, model.config.block_size)

    def generation_evaluations(
        self, model: BD3LMModel, settings: GenerationSpec, prompt: int
    ) -> int:
        """See `Family.generation_evaluations`: one a pass over a block."""
        size = model.config.block_size
        counts = tokens_by_block(size, settings.max_new_tokens, prompt % size)
        return sum(block_passes(count, settings) for count in counts)

    def conditional_nll(
        self,
        model: BD3LMModel,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: the bound, or the chain rule, which alone knows greedy."""
        if _has_one_order(model, settings):
            nll_B, greedy_B = conditional_chain_rule(model, prompts, continuations)
            return Conditional(nll_B, "exact", greedy_B)
        samples = settings.mask_samples
        nll_B = conditional_bound(model, prompts, continuations, samples=samples, stream=stream)
        return Conditional(nll_B, "bound")

    def iter_generate(
        self,
        model: BD3LMModel,
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

    def stream(
        self,
        model: BD3LMModel,
        prompt: list[int],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Iterator[list[int]]:
        """See `Family.stream`: block by block."""
        return stream_blocks(model, prompt, settings, stream=stream, eos_token_id=eos_token_id)

    def predictive_draws(
        self,
        model: BD3LMModel,
        prompts_BL: Tensor,
        truth_BN: Tensor,
        settings: GenerationSpec,
        *,
        draws: Sequence[int],
        stream: Stream,
        eos_token_id: int | None,
    ) -> PredictiveDraws:
        """See `Family.predictive_draws`: a token a pass, in random order within each block."""
        return masked_block_draws(model, prompts_BL, truth_BN, settings, draws=draws, stream=stream)

    def infill(
        self,
        model: BD3LMModel,
        lefts: list[list[int]],
        gaps: list[int],
        *,
        rights: list[list[int]],
        settings: GenerationSpec,
        stream: Stream,
    ) -> list[list[int]]:
        """See `Family.infill`, and `cola.sampling.masked_blocks.infill` for what conditions it."""
        return infill(model, lefts, gaps, rights=rights, settings=settings, stream=stream)

    def sizes_of(self, model: BD3LMModel) -> BD3LMModelSpec:
        """See `Family.sizes_of`."""
        sizes = llama_sizes(model.config)
        return BD3LMModelSpec(**sizes, block_size=model.config.block_size)

    def save(self, model: BD3LMModel, folder: Path) -> None:
        """A Hugging Face folder of model type `cola_bd3lm`."""
        model.save_pretrained(folder)

    def load(self, folder: Path) -> BD3LMModel:
        """Load what `save` wrote."""
        return load_pretrained(BD3LMModel, folder)


def _has_one_order(model: BD3LMModel, settings: LikelihoodSpec) -> bool:
    """Whether the likelihood is that of one order of unmasking, exactly."""
    return settings.masked == "chain_rule" or model.config.block_size == 1
