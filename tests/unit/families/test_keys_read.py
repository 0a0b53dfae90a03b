"""Settings of generation and likelihood: what a family says that it reads is all that it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cola.families.interface.family import Family
from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from tests.sizes import FAMILIES, SMALL, size_model

VOCAB = 60
BASE = {"max_new_tokens": 24, "steps": 4, "temperature": 1.0}
GENERATION: dict[str, Any] = {
    "max_new_tokens": 10,
    "temperature": 0.5,
    "top_k": 2,
    "top_p": 0.3,
    "repetition_penalty": 3.0,
    "steps": 2,
    "guidance_scale": 7.0,
    "solver": "heun",
    "time_grid": "quadratic",
    "first_block": "left_padding",
    "remasking": "random",
    "tokens_per_pass": 3,
    "unmasking_block": 4,
    "unmasking_guidance_scale": 3.0,
    "split_patch": "shift",
    "image_guidance_scale": 3.0,
}
LIKELIHOOD: dict[str, dict[str, Any]] = {
    "masked": {"masked": "chain_rule"},
    "mask_samples": {"mask_samples": 3},
    "ode_steps": {"ode_steps": 3},
    "divergence": {"divergence": "exact"},
    "probe": {"probe": "gaussian"},
    "diffusion_times": {"diffusion_times": 3},
}

# A patch of one token is never split.
PATCHED = {"cola": {"patch_size": 2}}
# Beside what noise says of a token a flat trunk's logits are nothing.
FACTORS = {"cola": 8.0, "embedding_diffusion": 8.0}


def built(name: str) -> tuple[Family, nn.Module]:
    torch.manual_seed(0)
    family = family_of(name)
    sizes = SMALL.get(name, {}) | PATCHED.get(name, {})
    model = family.build(size_model(name, 60_000, VOCAB, **sizes)).eval()
    with torch.no_grad():  # an untrained model's logits are too flat to show a difference
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(FACTORS.get(name, 3.0))
    return family, model


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_generation_depends_on_the_keys_that_the_family_reads_and_no_other(name: str) -> None:
    family, model = built(name)
    prompts = [[5, 6, 7], list(range(17)), [9] * 16, [1, 2, 3, 4, 5]]

    def made(**changes: Any) -> list[list[int]]:
        settings = GenerationSpec.parse(BASE | changes)
        return family.generate(
            model, prompts, settings, stream=Stream(0, 0, range(4)), eos_token_id=None
        )

    before = made()
    changed = {key for key, value in GENERATION.items() if made(**{key: value}) != before}
    assert GENERATION.keys() == GenerationSpec.model_fields.keys()
    assert changed == definition_of(name).generation_keys


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_likelihood_depends_on_the_keys_that_the_family_reads_and_no_other(name: str) -> None:
    family, model = built(name)
    # Two blocks: an exact divergence has a pass for each of their coordinates.
    tokens = torch.randint(0, VOCAB, (2, 16), generator=torch.Generator().manual_seed(1))

    def measured(**changes: Any) -> dict[str, list[float]]:
        settings = LikelihoodSpec.parse({"mask_samples": 2, "ode_steps": 2} | changes)
        found = family.likelihood(model, tokens, settings, stream=Stream(0, 0, range(2)))
        return {
            name: values.tolist()
            for name, values in ({"": found.nll_B} | found.diagnostics).items()
        }

    before = measured()
    found = {key: measured(**changes) for key, changes in LIKELIHOOD.items()}
    changed = {key for key, values in found.items() if values != before}
    if measured(divergence="exact", importance_samples=2) != found["divergence"]:
        changed.add("importance_samples")
    assert changed == definition_of(name).likelihood_keys
