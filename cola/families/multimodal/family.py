"""Texts and images as a family: both VAEs' stage, the prior's, generation both ways, export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cola.errors import SpecError
from cola.families.interface.family import Batch, StageModule
from cola.families.interface.latent import LatentFamily
from cola.families.interface.pretrained import load_pretrained
from cola.families.multimodal.likelihood import pair_nats
from cola.families.multimodal.objectives import (
    IMAGE_FIRST,
    IMAGE_NOISE,
    IMAGES,
    image_noise,
    image_vae_loss,
    pair_draws,
    pair_loss,
)
from cola.families.multimodal.sampling import describe_images, draw_images
from cola.families.multimodal.spec import ImageVAESpec, MultimodalModelSpec, MultimodalObjective
from cola.models.cola_dlm import dit_config, dit_sizes, vae_config, vae_sizes
from cola.models.dit import ColaDiT
from cola.models.pairs.image_dit import ImageDiT, ImageDiTConfig
from cola.models.pairs.image_vae import ImageVAE, ImageVAEConfig
from cola.models.pairs.pair_model import PairModel
from cola.models.text_vae import TextVAE
from cola.objectives.vae import stage1_loss, vae_draws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec

FOLDERS = ("text_dit", "text_vae", "image_dit", "image_vae")  # of an exported model


class VAEsStage(StageModule):
    """The first stage optimises both VAEs, each by its own loss."""

    def __init__(self, model: PairModel, objective: MultimodalObjective) -> None:
        super().__init__()
        self.text, self.image, self._objective = model.vae, model.image_vae, objective

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = vae_draws(self.text, self._objective.stage1, batch.tokens_BL, stream=batch.stream)
        noise = image_noise(self.image, batch.stream)
        given = {"tokens_BL": batch.tokens_BL, IMAGES: images_of(batch)}
        return given | {IMAGE_NOISE: noise} | draws

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        objective = self._objective
        images = image_vae_loss(
            self.image, draws[IMAGES], draws[IMAGE_NOISE], beta=objective.image_beta
        )
        texts = stage1_loss(self.text, objective.stage1, tokens_BL, draws=draws)
        loss = texts["loss"] + objective.lambda_image_vae * images["loss"]
        return images | texts | {"loss": loss}


class PriorStage(StageModule):
    """The second stage optimises both halves of the prior; VAEs are at rest."""

    def __init__(self, model: PairModel, objective: MultimodalObjective) -> None:
        super().__init__()
        self.model, self._objective = model, objective
        model.vae.requires_grad_(False)
        model.image_vae.requires_grad_(False)

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        tokens_BL, objective = batch.tokens_BL, self._objective
        draws = pair_draws(
            self.model,
            (objective.text_flow, objective.image_flow),
            tokens_BL,
            stream=batch.stream,
            positions=batch.positions,
            global_size=batch.global_size,
        )
        if objective.puts_image_first(batch.stage_step):
            draws[IMAGE_FIRST] = torch.ones(len(tokens_BL), 1, dtype=torch.bool)
        return {"tokens_BL": tokens_BL, IMAGES: images_of(batch), **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        weights = (self._objective.lambda_text, self._objective.lambda_image)
        return pair_loss(self.model, weights, tokens_BL, images=draws[IMAGES], draws=draws)


def images_of(batch: Batch) -> Tensor:
    """The batch's images.

    Raises:
        SpecError: it has none.
    """
    if batch.images is None:
        raise SpecError("the sequences have no images; give a corpus of pairs")
    return batch.images


class MultimodalFamily(LatentFamily):
    """See `Family`. What is done with texts is done without their images."""

    name = "multimodal"

    def build(self, spec: MultimodalModelSpec) -> PairModel:
        """See `Family.build`."""
        text, vae = spec.text, spec.image_vae
        text_vae = TextVAE(vae_config(text.vae, text.scaling_factor, text.shifting_factor))
        dit = ColaDiT(dit_config(text.dit))
        image_vae = ImageVAE(
            ImageVAEConfig(
                channels=vae.channels,
                image_size=vae.image_size,
                patch_size=vae.patch_size,
                dim=vae.hidden_size,
                num_blocks=vae.num_blocks,
                latent_dim=vae.latent_dim,
            )
        )
        own = {k: v for k, v in dit.config.to_dict().items() if k != "model_type"}
        image_dit = ImageDiT(ImageDiTConfig(columns=vae.columns, **own))
        return PairModel(text_vae, dit, image_vae, image_dit)

    def stage_module(
        self, model: PairModel, objective: MultimodalObjective, stage: str
    ) -> StageModule:
        """See `Family.stage_module`; stages are vaes and prior."""
        return VAEsStage(model, objective) if stage == "vaes" else PriorStage(model, objective)

    def pair_diagnostics(
        self,
        model: PairModel,
        tokens_BL: Tensor,
        images: Tensor,
        *,
        settings: LikelihoodSpec,
        stream: Stream,
    ) -> dict[str, float]:
        """See `Family.pair_diagnostics`: bounds by modality, alone and behind the other."""
        return pair_nats(model, tokens_BL, images, settings, stream=stream)

    def draw_images(
        self, model: PairModel, tokens_BL: Tensor, settings: GenerationSpec, *, stream: Stream
    ) -> Tensor:
        """See `Family.draw_images`."""
        return draw_images(model, tokens_BL, settings.of_images(), stream=stream)

    def describe_images(
        self,
        model: PairModel,
        images: Tensor,
        length: int,
        *,
        settings: GenerationSpec,
        stream: Stream,
    ) -> Tensor:
        """See `Family.describe_images`."""
        return describe_images(model, images, length, settings=settings, stream=stream)

    def sizes_of(self, model: PairModel) -> MultimodalModelSpec:
        """See `Family.sizes_of`."""
        config, image = model.vae.config, model.image_vae.config
        text = {
            "vae": vae_sizes(config),
            "dit": dit_sizes(model.dit.config),
            "scaling_factor": config.scaling_factor,
            "shifting_factor": config.shifting_factor,
        }
        image_vae = ImageVAESpec(
            channels=image.channels,
            image_size=image.image_size,
            patch_size=image.patch_size,
            hidden_size=image.dim,
            num_blocks=image.num_blocks,
            latent_dim=image.latent_dim,
        )
        return MultimodalModelSpec.model_validate({"text": text, "image_vae": image_vae})

    def save(self, model: PairModel, folder: Path) -> None:
        """Four Hugging Face folders."""
        text_dit, text_vae, image_dit, image_vae = (folder / name for name in FOLDERS)
        model.dit.save_pretrained(text_dit)
        model.vae.save_pretrained(text_vae)
        model.image_dit.save_pretrained(image_dit)
        model.image_vae.save_pretrained(image_vae)

    def load(self, folder: Path) -> PairModel:
        """Load what `save` wrote."""
        text_dit, text_vae, image_dit, image_vae = (folder / name for name in FOLDERS)
        return PairModel(
            load_pretrained(TextVAE, text_vae),
            load_pretrained(ColaDiT, text_dit),
            load_pretrained(ImageVAE, image_vae),
            load_pretrained(ImageDiT, image_dit),
        )
