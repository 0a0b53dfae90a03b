"""Block diffusion over masks as a family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cola.errors import SpecError
from cola.families.bd3lm.flops import likelihood_passes, one_order, tokens_by_block
from cola.families.bd3lm.spec import BD3LMModelSpec, BlockMaskedDiffusion
from cola.families.interface.family import Batch, Likelihood, StageModule
from cola.families.interface.masked import MaskedFamily
from cola.families.interface.pretrained import load_pretrained
from cola.likelihood.masked_blocks import (
    block_chain_rule,
    block_samples,
    conditional_bound,
    conditional_chain_rule,
)
from cola.models.block_transformer import BD3LMModel, build_bd3lm
from cola.models.transformer import llama_sizes
from cola.objectives.masked_blocks import block_masked_loss, block_masking_draws
from cola.sampling.masked_blocks import infill, iter_generate, stream_blocks
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


class BD3LMFamily(MaskedFamily):
    """See `Family`."""

    name = "bd3lm"

    def build(self, spec: BD3LMModelSpec) -> BD3LMModel:
        """See `Family.build`."""
        return build_bd3lm(spec, spec.block_size)

    def stage_module(
        self, model: BD3LMModel, objective: BlockMaskedDiffusion, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; the only stage is train."""
        return BlockMaskingStage(model, objective)

    def has_one_order(self, model: BD3LMModel, settings: LikelihoodSpec) -> bool:
        """See `MaskedFamily.has_one_order`: so has a block of one token."""
        return one_order(model.config.block_size, settings)

    def likelihood(
        self, model: BD3LMModel, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `MaskedFamily.likelihood`.

        Raises:
            SpecError: the sequences are no whole blocks.
        """
        length, size = tokens_BL.shape[1], model.config.block_size
        if length % size:
            raise SpecError(
                f"sequences of {length} tokens are no whole blocks of block_size={size}; use a "
                "model whose blocks divide them"
            )
        return super().likelihood(model, tokens_BL, settings, stream=stream)

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
        return sum(settings.passes_of(count) for count in counts)

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

    continuations = staticmethod(iter_generate)
    chain_rule = staticmethod(block_chain_rule)
    bound_samples = staticmethod(block_samples)
    conditional_chain_rule = staticmethod(conditional_chain_rule)
    conditional_bound = staticmethod(conditional_bound)
