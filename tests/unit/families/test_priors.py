"""Kinds of priors of Cola DLM: sizes, costs, what they read, and what they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import family_in
from cola.families.cola.spec import ColaObjective, ColaSettings
from cola.families.interface.family import Batch, count_parameters
from cola.families.registry import definition_of, family_of
from cola.records import Metric
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from cola.study import StudySpec
from sweeps.space.metrics import check_ranked
from tests.factories import tiny_model
from tests.sizes import (
    generation_flops_per_token,
    likelihood_flops_per_token,
    parameter_counts,
    size_model,
    train_flops_per_token,
)
from tests.unit.families.test_keys_read import BASE, GENERATION, LIKELIHOOD
from tests.unit.orchestration.planning.test_plan import saved_bytes
from tests.unit.test_flops import counted
from tests.unit.test_inference_flops import counted as counted_call
from tests.unit.test_inference_flops import split

VOCAB, LENGTH, BATCH = 60, 64, 3
SMALL: dict[str, Any] = {"latent_dim": 4, "block_size": 8}
PRIORS: dict[str, dict[str, Any]] = {
    "mixture": {"kind": "mixture", "components": 3},
    "drifting": {"kind": "drifting"},
}
COLA, DEFINITION = family_of("cola"), definition_of("cola")
KINDS = list(PRIORS)
# What is logged of the prior, and how far it falls in 25 steps.
LOSSES = {"mixture": ("prior_nll", 0.1), "drifting": ("energy_score", 0.02)}


def spec_of(kind: str, core: int = 100_000, **settings: Any) -> Any:
    return size_model("cola", core, VOCAB, prior=PRIORS[kind], **SMALL | settings)


def built(kind: str, factor: float = 8.0, **settings: Any) -> Any:
    found = SMALL | settings | {"prior": PRIORS[kind]}
    return tiny_model("cola", 100_000, VOCAB, factor, **found)[1]


def tokens(rows: int = BATCH) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


def test_a_flow_is_written_nowhere() -> None:
    plain, named = ColaSettings(), ColaSettings.parse({"prior": {"kind": "flow"}})
    assert plain.content_hash() == named.content_hash()
    assert "prior" not in plain.model_dump(mode="json")
    model = size_model("cola", 100_000, VOCAB, **SMALL)
    assert "prior" not in model.model_dump(mode="json")
    assert "output_dim" not in model.model_dump(mode="json")["dit"]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_built_model_and_are_read_off_it(kind: str, tmp_path: Path) -> None:
    spec = spec_of(kind)
    model = COLA.build(spec)
    assert count_parameters(model) == parameter_counts(spec).total
    assert parameter_counts(spec).core == pytest.approx(100_000, rel=0.015)
    COLA.save(model, tmp_path)
    assert COLA.sizes_of(model) == COLA.sizes_in(tmp_path) == spec
    assert family_in(tmp_path) == "cola"
    again = COLA.load(tmp_path)
    for (name, one), (_, other) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_executed_flops_agree_with_torch(kind: str) -> None:
    spec, settings = spec_of(kind), LikelihoodSpec()
    objective = ColaSettings.parse({"prior": PRIORS[kind]}).objective
    ours = train_flops_per_token(spec, objective, LENGTH, stage="joint", convention="executed")
    scores = sum(v for name, v in ours.components.items() if name.endswith("attention_scores"))
    spread = ours.components.get("dit_adaln_spread", 0.0)
    outside, inside = counted(spec, objective, "joint", LENGTH)
    assert ours.total - scores - spread == pytest.approx(outside, rel=0.01)
    assert 0.3 * inside < scores + spread <= inside * (1 + 1e-9)
    model, text, stream = built(kind, 1.0), tokens(), Stream(0, 0, range(BATCH))
    how = GenerationSpec(max_new_tokens=32)

    def generate() -> None:
        with torch.no_grad():
            COLA.generate(model, text[:, :32].tolist(), how, stream=stream, eos_token_id=None)

    expected = generation_flops_per_token(spec, how, 32, batch=BATCH)
    check_split(expected, BATCH * 32, counted_call(generate))
    if DEFINITION.nll_kind(spec, settings) is not None:
        found = counted_call(lambda: COLA.likelihood(model, text, settings, stream=stream))
        check_split(likelihood_flops_per_token(spec, settings, LENGTH), BATCH * LENGTH, found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("core", [100_000, 400_000])
def test_activations_are_estimated_from_above(kind: str, core: int) -> None:
    spec = spec_of(kind, core)
    objective = ColaSettings.parse({"prior": PRIORS[kind]}).objective
    module = COLA.stage_module(COLA.build(spec), objective, "joint")
    batch = Batch(tokens(4), Stream(0, 0, range(4)), range(4), 4)
    kept = saved_bytes(module, module.draw(batch)) / batch.tokens_BL.numel()
    assert kept < DEFINITION.activation_bytes(spec, objective, "float32") < 3 * kept


def check_split(expected: Any, count: int, found: tuple[float, float]) -> None:
    outside, inside = split(expected, count)
    assert outside == pytest.approx(found[0], rel=0.01)
    assert 0.3 * found[1] < inside <= found[1] * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generation_reads_the_keys_that_are_named_and_no_other(kind: str) -> None:
    model = built(kind, patch_size=2)  # which a prompt of three tokens splits
    prompts = [[5, 6, 7], list(range(17)), [9] * 16, [1, 2, 3, 4, 5]]

    def made(**changes: Any) -> list[list[int]]:
        settings = GenerationSpec.parse(BASE | changes)
        return COLA.generate(
            model, prompts, settings, stream=Stream(0, 0, range(4)), eos_token_id=None
        )

    before = made()
    changed = {key for key, value in GENERATION.items() if made(**{key: value}) != before}
    assert changed == DEFINITION.keys_read("generation", spec_of(kind))


@torch.no_grad()
def test_the_likelihood_of_a_mixture_reads_importance_samples_alone() -> None:
    model, text = built("mixture"), tokens()

    def measured(**changes: Any) -> torch.Tensor:
        settings = LikelihoodSpec.parse(changes)
        return COLA.likelihood(model, text, settings, stream=Stream(0, 0, range(BATCH))).nll_B

    before = measured()
    changed = {k for k, value in LIKELIHOOD.items() if not torch.equal(measured(**value), before)}
    assert changed == set()
    tighter = measured(divergence="exact", importance_samples=8)
    assert float(tighter.mean()) < float(before.mean())
    assert DEFINITION.keys_read("likelihood", spec_of("mixture")) == {"importance_samples"}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_made_does_not_depend_on_the_batch(kind: str) -> None:
    model, prompts = built(kind), [[5, 6, 7], list(range(17)), [], [9] * 16]
    how = GenerationSpec(max_new_tokens=12, temperature=1.0)
    together = COLA.generate(model, prompts, how, stream=Stream(0, 0, range(4)), eos_token_id=0)
    for index, prompt in enumerate(prompts):
        alone = COLA.generate(model, [prompt], how, stream=Stream(0, 0, [index]), eos_token_id=0)
        assert alone == [together[index]]


@pytest.mark.parametrize(
    ("prior", "stage2", "words"),
    [
        ("mixture", {"timestep": {"kind": "uniform"}}, "timestep=uniform has no effect"),
        ("mixture", {"prompt_block_probability": 0.5}, "prompt_block_probability=0.5"),
        ("mixture", {"self_conditioning": 0.5}, "self_conditioning=0.5"),
        ("mixture", {"gradient_mode": "joint"}, "detach_target, interval or frozen_vae"),
        ("drifting", {"timestep_per": "sequence"}, "timestep_per=sequence has no effect"),
        ("drifting", {"gradient_mode": "scratch"}, "detach_target, interval or frozen_vae"),
        ("flow", {"drift_samples": 4}, "drift_samples=4 has no effect"),
    ],
)
def test_settings_without_effect_on_a_prior_are_refused(
    prior: str, stage2: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        ColaSettings.parse({"prior": {"kind": prior}, "objective": {"stage2": stage2}})
    assert "\n" not in str(refused.value)


def test_a_generator_has_no_likelihood_and_says_so() -> None:
    spec, settings, model = spec_of("drifting"), LikelihoodSpec(), built("drifting", 1.0)
    assert DEFINITION.nll_kind(spec, settings) is None
    stream = Stream(0, 0, range(BATCH))
    with pytest.raises(SpecError, match=r"has no likelihood.*predictive"):
        COLA.likelihood(model, tokens(), settings, stream=stream)
    found = COLA.measurements(model, tokens(), stream)
    assert found.keys() == {"distortion_nats_per_token", "energy_score"}
    assert all(value.shape == (BATCH,) and value.isfinite().all() for value in found.values())
    half = COLA.measurements(model, tokens()[:1], stream.of([0]))
    torch.testing.assert_close(half["energy_score"], found["energy_score"][:1])
    cost = likelihood_flops_per_token(spec, settings, LENGTH)
    called = counted_call(lambda: COLA.measurements(model, tokens(), stream))
    check_split(cost, BATCH * LENGTH, called)


def test_what_needs_a_likelihood_is_refused_before_anything_is_trained(
    tiny_study: dict[str, Any],
) -> None:
    families = {"ar": {}, "cola": {**SMALL, "prior": {"kind": "drifting"}}}
    study = tiny_study | {"families": families}
    typos = {"typos": {"source": "perturbed"}}
    for asked in ({"tasks": ["likelihood"]}, {"held_out": typos}, {"context_lengths": [128]}):
        with pytest.raises(SpecError, match=r"families\.cola has none.*task predictive"):
            StudySpec.parse(study | {"evaluation": tiny_study["evaluation"] | asked})
    with pytest.raises(SpecError, match=f"{Metric.NLL} needs a likelihood, and families.cola"):
        check_ranked([Metric.NLL], StudySpec.parse(study))
    check_ranked(["continuation/token_accuracy"], StudySpec.parse(study))


def test_an_unknown_kind_names_those_that_there_are() -> None:
    with pytest.raises(SpecError, match="mixture"):
        ColaSettings.parse({"prior": {"kind": "gan"}})


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_learns_and_leaves_the_vae_to_its_own_loss(kind: str) -> None:
    model = built(kind, 1.0, log_snr=4.0).train()
    module = COLA.stage_module(model, ColaObjective(), "joint")
    groups = COLA.parameter_groups(module, ColaObjective(), "joint")
    optimizer = torch.optim.AdamW(groups[0]["params"], lr=3e-3)
    text_BL = tokens(1).expand(8, -1)  # one text: there is something to learn at once
    (name, fall), losses = LOSSES[kind], []
    for step in range(25):
        batch = Batch(text_BL, Stream(0, step, range(8)), range(8), 8, stage_step=step)
        found = module(**module.draw(batch))
        losses.append(float(found[name].detach()))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - fall
    assert "fm" not in found
