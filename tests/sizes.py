"""Sizes and costs of models by their specification, whatever the family."""

from __future__ import annotations

from typing import Any

from cola.compute.flops import Convention, FlopsBreakdown, ParameterCounts
from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.registry import definition_of, definitions
from cola.spec import GenerationSpec, LikelihoodSpec

# Tests that hold for any family go through all of them but those that read images, which have tests
# of their own.
FAMILIES = tuple(f.name for f in definitions() if f.image_shape(f.settings.parse({})) is None)
# Settings of families whose smallest parts are set apart from the size.
SMALL: dict[str, dict[str, int]] = {
    "cola": {"latent_dim": 4, "block_size": 8},
    "bd3lm": {"block_size": 8},
    "embedding_diffusion": {"embedding_dim": 4, "block_size": 8},
}
# Core parameters of tiny models: of Cola DLM with two layers, where of 60,000 the nearest are eight
# narrow ones, whose passes take four times as long.
TINY_CORE = dict.fromkeys(FAMILIES, 60_000) | {"cola": 70_000}

BLOCK_PRICES = ("cola", "embedding_diffusion")  # whose likelihoods price whole blocks


def size_model(family: str, core_parameters: int, vocab_size: int, **settings: Any) -> ModelSpec:
    """The family's model with this many core parameters; `settings` as a study has them."""
    found = definition_of(family)
    return found.size(core_parameters, vocab_size, found.settings.parse(settings))


def parameter_counts(model: ModelSpec) -> ParameterCounts:
    return definition_of(model.family).parameter_counts(model)


def train_flops_per_token(
    model: ModelSpec, objective: ObjectiveSpec, length: int, *, stage: str, convention: Convention
) -> FlopsBreakdown:
    family = definition_of(model.family)
    return family.train_flops_per_token(
        model, objective, length, stage=stage, convention=convention
    )


def likelihood_flops_per_token(
    model: ModelSpec, settings: LikelihoodSpec, length: int
) -> FlopsBreakdown:
    return definition_of(model.family).likelihood_flops_per_token(model, settings, length)


def generation_flops_per_token(
    model: ModelSpec, settings: GenerationSpec, prompt: int, *, batch: int = 1
) -> FlopsBreakdown:
    return definition_of(model.family).generation_flops_per_token(
        model, settings, prompt, batch=batch
    )
