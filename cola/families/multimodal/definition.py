"""The family of texts and images without its networks."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cola.compute.activations import Precision, dit_bytes, logit_bytes, vae_bytes
from cola.compute.flops import Convention, FlopsBreakdown, ParameterCounts, dit_parameters
from cola.families.cola.definition import COLA
from cola.families.interface.definition import Look
from cola.families.interface.latent_definition import STRUCTURE, LatentDefinition
from cola.families.interface.latent_use import channel_capacity, latent_problem
from cola.families.multimodal import flops, sizes
from cola.families.multimodal.spec import (
    MultimodalModelSpec,
    MultimodalObjective,
    MultimodalSettings,
)
from cola.spec import GenerationSpec, LikelihoodSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cola.families.interface.family import Family

# Floats that the image VAE keeps of each latent: of a unit of width in a block, and of a pixel of a
# channel in the likelihood (counted in the code, rounded up).
BLOCK_FLOATS, PIXEL_FLOATS = 10, 16


class MultimodalDefinition(LatentDefinition):
    """See `FamilyDefinition`. What is said of texts is of texts without their images."""

    name = "multimodal"
    label = "Text and images"
    look = Look(colour="#882255", line=(0, (3, 1, 1, 1)), marker="P")
    settings, model, objective = MultimodalSettings, MultimodalModelSpec, MultimodalObjective
    folders = MappingProxyType(
        {
            "text_dit": "cola_dit",
            "text_vae": "cola_text_vae",
            "image_dit": "cola_image_dit",
            "image_vae": "cola_image_vae",
        }
    )
    generation_keys = LatentDefinition.generation_keys | {"image_guidance_scale"}
    diagnostics = MappingProxyType(
        STRUCTURE
        | {
            "image_nats_per_level": (
                "bound of a held-out image's NLL over its levels (pixels times channels), alone "
                "and behind its caption"
            ),
            "text_nats_per_token": (
                "bound of a held-out caption's NLL over its tokens, alone and behind its image"
            ),
            "image_accuracy": (
                "of drawn images of held-out captions, by a classifier: quarters rightly taken or "
                "empty (place), things of the caption's colour, kind and size, whole scenes"
            ),
            "caption_accuracy": "the same of texts written for held-out images",
            "judge_accuracy": "the same that the classifier reads off the true images",
            "chance_accuracy": "the same of another caption's scene",
        }
    )
    task_note = (
        "tasks are of texts without images; word nats of the cloze are an estimate, and an answer "
        "is a draw of latents whatever the temperature is."
    )

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from cola.families.multimodal.family import MultimodalFamily

        return MultimodalFamily()

    def image_shape(self, settings: MultimodalSettings) -> tuple[int, int, int]:
        """See `FamilyDefinition.image_shape`."""
        return 3, settings.image_size, settings.image_size

    def paper_row(self, vocab_size: int, settings: MultimodalSettings) -> MultimodalModelSpec:
        """See `FamilyDefinition.paper_row`."""
        return sizes.paper_row(vocab_size, settings)

    def nearest(
        self, core_parameters: int, vocab_size: int, settings: MultimodalSettings
    ) -> MultimodalModelSpec:
        """See `FamilyDefinition.nearest`."""
        return sizes.core_sized(core_parameters, vocab_size, settings)

    def parameter_counts(self, model: MultimodalModelSpec) -> ParameterCounts:
        """Of the texts' part, the image VAE and the second half of the prior."""
        text, image_vae = (
            COLA.parameter_counts(model.text),
            sizes.image_vae_parameters(model.image_vae),
        )
        core = text.core + image_vae + dit_parameters(model.text.dit)
        return ParameterCounts(core, text.embedding, text.head, text.vae_core + image_vae)

    def train_flops_per_token(
        self,
        model: MultimodalModelSpec,
        objective: MultimodalObjective,
        length: int,
        *,
        stage: str,
        convention: Convention,
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.train_flops_per_token`; images are paid for by the tokens."""
        if convention == "nominal":
            return FlopsBreakdown(flops.nominal(model, length, stage=stage))
        return FlopsBreakdown(flops.training(model, objective, length, stage=stage))

    def prior_flops_per_token(
        self,
        model: MultimodalModelSpec,
        objective: MultimodalObjective,
        length: int,
        *,
        stage: str,
    ) -> float:
        """See `FamilyDefinition.prior_flops_per_token`: both halves'."""
        found = flops.training(model, objective, length, stage=stage)
        return sum(value for name, value in found.items() if name.startswith("dit_"))

    def likelihood_flops_per_token(
        self, model: MultimodalModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.likelihood_flops_per_token`."""
        return COLA.likelihood_flops_per_token(model.text, settings, length)

    def generation_flops_per_token(
        self,
        model: MultimodalModelSpec,
        settings: GenerationSpec,
        prompt: int,
        *,
        batch: int = 1,
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.generation_flops_per_token`."""
        return COLA.generation_flops_per_token(model.text, settings, prompt, batch=batch)

    def predictive_flops(
        self, model: MultimodalModelSpec, settings: GenerationSpec, prompt: int, *, draws: int
    ) -> float:
        """See `FamilyDefinition.predictive_flops`."""
        return COLA.predictive_flops(model.text, settings, prompt, draws=draws)

    def activation_bytes(
        self, model: MultimodalModelSpec, objective: MultimodalObjective, precision: Precision
    ) -> float:
        """Of the larger stage. A text has as many latents as an image, or more: a token is counted
        with one of each."""
        terms, vae, image = objective.stage1, model.text.vae, model.image_vae
        masked = terms.lambda_mask > 0
        texts = vae_bytes(vae, precision, 1.0 + masked)
        texts += logit_bytes(vae.vocab_size, precision) * (1 + masked * terms.mask_rate)
        blocks = 2 * image.num_blocks * BLOCK_FLOATS * image.hidden_size
        images = 4.0 * (blocks + PIXEL_FLOATS * image.channels * image.patch_size**2)
        return max(texts + images, 2 * dit_bytes(model.text.dit, precision, 1))

    def head_shares(self, objective: MultimodalObjective) -> tuple[float, ...]:
        """None: it may be the prior's stage, which scores no token, that keeps the most."""
        return ()

    def channel_capacity(self, model: MultimodalModelSpec) -> float | None:
        """See `FamilyDefinition.channel_capacity`: of texts."""
        return channel_capacity(model.text.vae)

    def problem(self, values: Mapping[str, float], unigram: float) -> str | None:
        """See `FamilyDefinition.problem`: of texts."""
        return latent_problem(values, unigram)

    def sequence_multiple(self, settings: MultimodalSettings) -> tuple[int, str]:
        """Whole images' lengths, so that images begin at multiples of theirs."""
        return settings.image_latents, "(image_size / image_patch)^2"

    def deciding(
        self, model: MultimodalModelSpec, objective: MultimodalObjective, stage: str
    ) -> dict[str, Any]:
        """The first stage knows the VAEs alone; its share is in its number of steps already."""
        if stage == "vaes":
            kept = {"stage1", "image_beta", "lambda_image_vae"}
            return {
                "vae": model.text.vae.model_dump(mode="json"),
                "image_vae": model.image_vae.model_dump(mode="json"),
                "objective": objective.model_dump(mode="json", include=kept),
            }
        whole = objective.model_dump(mode="json", exclude={"stage1_share"})
        return {"model": model.model_dump(mode="json"), "objective": whole}


MULTIMODAL = MultimodalDefinition()
