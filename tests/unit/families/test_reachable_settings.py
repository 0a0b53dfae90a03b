"""Settings of the families reach the built model, and its counts, bounds and costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cola.compute.flops import vae_forward
from cola.errors import SpecError
from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch, count_parameters
from cola.families.interface.specs import ModelSpec
from cola.families.registry import definition_of, family_of
from cola.models.masks import block_causal_mask
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec, TextVAESpec
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from tests.sizes import parameter_counts, size_model, train_flops_per_token
from tests.unit.orchestration.planning.test_plan import saved_bytes
from tests.unit.test_flops import counted

VOCAB, LENGTH = 60, 32
SMALL = {"latent_dim": 4, "block_size": 8}
BLOCKS = {"vae_attention": "block_causal", "vae_block_size": 4}
COLA: list[dict[str, Any]] = [
    BLOCKS,
    {"vae_qk_norm": False},
    {"vae_post_norm": False},
    {"vae_rope_theta": 10.0},
    {"dit_mlp_ratio": 2},
    {"dit_mlp_ratio": 8},
    {"dit_qk_bias": True},
    {"latent_scaling": 3.0, "latent_shift": 0.5},
    {"adaln_rank": 8, "objective": {"stage2": {"self_conditioning": 0.5}}},
]
EVERY = [("ar", {"rope_theta": 10.0}), ("llada", {"rope_theta": 10.0})]
EVERY += [("cola", settings) for settings in COLA]


def spec_of(family: str, settings: dict[str, Any], core: int = 100_000) -> ModelSpec:
    return size_model(family, core, VOCAB, **(SMALL if family == "cola" else {}), **settings)


def built(spec: ModelSpec) -> nn.Module:
    """Weights that do not depend on what is not a size."""
    torch.manual_seed(0)
    model: nn.Module = family_of(spec.family).build(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return model


def nll(spec: ModelSpec) -> torch.Tensor:
    tokens = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    settings, stream = LikelihoodSpec(mask_samples=2, ode_steps=2), Stream(0, 0, range(2))
    return family_of(spec.family).likelihood(built(spec), tokens, settings, stream=stream).nll_B


@pytest.mark.parametrize(("family", "settings"), EVERY)
def test_a_setting_of_the_study_reaches_the_network(family: str, settings: dict[str, Any]) -> None:
    changed = spec_of(family, settings)
    assert changed != spec_of(family, {})
    assert not torch.equal(nll(changed), nll(spec_of(family, {})))


@pytest.mark.parametrize(("family", "settings"), EVERY)
def test_the_papers_row_has_the_settings_too(family: str, settings: dict[str, Any]) -> None:
    found = definition_of(family)
    row = found.paper_row(1000, found.settings.parse(settings))
    assert row != found.paper_row(1000, found.settings.parse({}))


@pytest.mark.parametrize(("family", "settings"), EVERY)
def test_parameters_are_those_of_the_built_model(family: str, settings: dict[str, Any]) -> None:
    spec = spec_of(family, settings)
    assert count_parameters(family_of(family).build(spec)) == parameter_counts(spec).total
    assert parameter_counts(spec).core == pytest.approx(100_000, rel=0.015)


@pytest.mark.parametrize("settings", COLA)
@pytest.mark.parametrize("stage", ["vae", "joint"])
def test_executed_flops_agree_with_torch(settings: dict[str, Any], stage: str) -> None:
    spec, objective = spec_of("cola", settings), ColaObjective()
    ours = train_flops_per_token(spec, objective, 64, stage=stage, convention="executed")
    scores = sum(v for name, v in ours.components.items() if name.endswith("attention_scores"))
    outside, inside = counted(spec, objective, stage, 64)
    spread = ours.components.get("dit_adaln_spread", 0.0)
    assert ours.total - scores - spread == pytest.approx(outside, rel=0.01)
    assert scores + spread <= inside * (1 + 1e-9)  # torch multiplies hidden pairs too


@pytest.mark.parametrize("block", [1, 4, 8])
def test_visible_pairs_of_the_vae_are_counted_one_by_one(block: int) -> None:
    vae = TextVAESpec(
        vocab_size=50, hidden_size=32, ffn_size=64, num_heads=2, encoder_layers=3,
        decoder_layers=1, attention="block_causal", block_size=block,
    )  # fmt: skip
    pairs = int(block_causal_mask(24, block, torch.device("cpu")).sum())
    parts = vae_forward(vae, 24)
    assert parts["vae_encoder_attention_scores"] == 3 * 4 * 32 * pairs
    assert parts["vae_decoder_attention_scores"] == 4 * 32 * pairs


@pytest.mark.parametrize("settings", [{}, *COLA])
@pytest.mark.parametrize("core", [400_000, 2_000_000])
def test_activations_are_estimated_from_above(settings: dict[str, Any], core: int) -> None:
    spec, found = spec_of("cola", settings, core), definition_of("cola")
    family, objective = family_of("cola"), ColaObjective()
    module = family.stage_module(family.build(spec), objective, "joint")
    batch = Batch(torch.zeros(4, 64, dtype=torch.long), Stream(0, 0, range(4)), range(4), 4)
    kept = saved_bytes(module, module.draw(batch)) / batch.tokens_BL.numel()
    assert kept < found.activation_bytes(spec, objective, "float32") < 3 * kept


@pytest.mark.parametrize("settings", COLA)
@torch.no_grad()
def test_generation_does_not_depend_on_the_batch(settings: dict[str, Any]) -> None:
    spec, family = spec_of("cola", settings), family_of("cola")
    model, prompts = built(spec), [[5, 6, 7], list(range(17)), [], [9] * 16]
    how = GenerationSpec(max_new_tokens=12, steps=3)
    together = family.generate(model, prompts, how, stream=Stream(0, 0, range(4)), eos_token_id=0)
    for index, prompt in enumerate(prompts):
        assert family.generate(
            model, [prompt], how, stream=Stream(0, 0, [index]), eos_token_id=0
        ) == [together[index]]


@torch.no_grad()
def test_the_likelihood_of_a_block_causal_vae_is_the_sum_over_blocks_that_see_the_past() -> None:
    spec, family = spec_of("cola", BLOCKS), family_of("cola")
    tokens = torch.randint(0, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    later = tokens.clone()
    later[:, 16:] = 3
    settings, model = LikelihoodSpec(ode_steps=2), built(spec)
    first, second = (
        family.likelihood(model, rows, settings, stream=Stream(0, 0, [0])).by_position_BL
        for rows in (tokens, later)
    )
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first[:, :16], second[:, :16])
    assert not torch.allclose(first[:, 16:], second[:, 16:])


def test_a_collapse_is_judged_at_the_latents_scale() -> None:
    family, objective = family_of("cola"), ColaObjective()
    points = [{"log_snr": 4.5, "fm": 0.2}] * 16
    plain, scaled = (spec_of("cola", {"latent_scaling": scale}) for scale in (1.0, 10.0))
    assert family.collapse(points, plain, objective) is None
    assert "fm 0.2" in str(family.collapse(points, scaled, objective))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vae_block_size": 4}, "vae_block_size=4 has no effect with vae_attention='causal'"),
        (
            {"vae_attention": "block_causal", "vae_block_size": 5},
            "vae_block_size=5 must divide block_size=16",
        ),
        ({"latent_scaling": 0.0}, "latent_scaling"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        definition_of("cola").settings.parse(settings)


def test_defaults_leave_run_keys_as_they_were() -> None:
    """Pinned: another key would train finished runs once more."""
    study = {
        "name": "pinned",
        "families": {"ar": {}, "llada": {}, "cola": {"log_snr": 3.0, **SMALL}},
        "ladder": [{"budget": 2.0e10, "core_parameters": 60_000}],
        "data": {
            "corpus": {"source": "files", "paths": ["corpus.txt"]},
            "tokenizer": {"kind": "bpe", "vocab_size": 320},
            "sequence_length": 32,
            "validation_fraction": 0.1,
        },
        "training": {
            "batch_sequences": 8,
            "precision": "float32",
            "optimizer": {"learning_rate": 1.0e-3},
        },
        "evaluation": {
            "validation_sequences": 8,
            "samples": 2,
            "prompt_tokens": 8,
            "generation": {"max_new_tokens": 16, "steps": 4},
            "likelihood": {"mask_samples": 4, "ode_steps": 4},
        },
        "max_epochs": 100,
    }
    runs = plan_study(StudySpec.parse(study), fingerprint="0" * 64)
    assert {run.spec.family: run.key[:16] for run in runs} == {
        "ar": "15c519985d1e43b6",
        "llada": "75301b37d9c5670c",
        "cola": "791c0dc853ab413d",
    }
