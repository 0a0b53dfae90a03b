"""Diffusion over token embeddings as a family."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cola.families.embedding_diffusion.spec import EmbeddingDiffusionModelSpec, EmbeddingFlow
from cola.families.interface.family import Batch, StageModule
from cola.families.interface.latent import LatentFamily
from cola.families.interface.pretrained import load_pretrained
from cola.models.cola_dlm import dit_sizes
from cola.models.latents.embedding_diffusion import (
    EmbeddingDiffusion,
    build_embedding_diffusion,
)
from cola.objectives.embedding_diffusion import embedding_draws, embedding_loss
from cola.spec import GenerationSpec

# Rounding has none of what draws of tokens have.
ROUNDING = {"temperature": 0.0, "top_k": None, "top_p": None, "repetition_penalty": 1.0}


class EmbeddingStage(StageModule):
    """Cross entropy of the tokens of noisy blocks behind clean ones."""

    def __init__(self, model: EmbeddingDiffusion, objective: EmbeddingFlow) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = embedding_draws(
            self.model,
            self._objective,
            batch.tokens_BL,
            stream=batch.stream,
            positions=batch.positions,
            global_size=batch.global_size,
        )
        return {"tokens_BL": batch.tokens_BL, **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return embedding_loss(self.model, tokens_BL, draws)


class EmbeddingDiffusionFamily(LatentFamily):
    """See `Family`."""

    name = "embedding_diffusion"

    def build(self, spec: EmbeddingDiffusionModelSpec) -> EmbeddingDiffusion:
        """See `Family.build`."""
        return build_embedding_diffusion(spec.vocab_size, spec.dit, spec.log_snr)

    def stage_module(
        self, model: EmbeddingDiffusion, objective: EmbeddingFlow, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; the only stage is train."""
        return EmbeddingStage(model, objective)

    def decoding(self, settings: GenerationSpec) -> GenerationSpec:
        """The nearest embedding's token: chances are no matter at the end of the flow."""
        return settings.model_copy(update=ROUNDING)

    def sizes_of(self, model: EmbeddingDiffusion) -> EmbeddingDiffusionModelSpec:
        """See `Family.sizes_of`."""
        config = model.config
        return EmbeddingDiffusionModelSpec(
            vocab_size=config.vocab_size, dit=dit_sizes(config), log_snr=config.log_snr
        )

    def save(self, model: EmbeddingDiffusion, folder: Path) -> None:
        """A Hugging Face folder of model type `cola_embedding_diffusion`."""
        model.save_pretrained(folder)

    def load(self, folder: Path) -> EmbeddingDiffusion:
        """Load what `save` wrote."""
        return load_pretrained(EmbeddingDiffusion, folder)
