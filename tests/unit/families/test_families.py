"""What every family promises, whatever it is."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from cola.errors import SpecError
from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch, Family, count_parameters
from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.llada.spec import MaskedDiffusion
from cola.families.registry import definitions, family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from tests.sizes import FAMILIES, SMALL, parameter_counts, size_model

VOCAB, LENGTH = 60, 32
OBJECTIVES: dict[str, ObjectiveSpec] = {
    family.name: family.settings.parse({}).objective for family in definitions()
} | {"llada": MaskedDiffusion(random_length_fraction=0.3)}
CASES = [(name, stage) for name in FAMILIES for stage in OBJECTIVES[name].stage_shares()]
PROMPTS = [[5, 6, 7], list(range(17)), [], [9] * 16, [1, 2, 3, 4, 5]]


def spec_of(name: str) -> ModelSpec:
    return size_model(name, 100_000, VOCAB, **SMALL.get(name, {}))


def built(name: str) -> tuple[Family, nn.Module]:
    torch.manual_seed(0)
    family = family_of(name)
    model = family.build(spec_of(name)).eval()
    with torch.no_grad():  # an untrained model's logits are too flat to show a difference
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return family, model


def tokens(batch: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_what_the_plan_says(name: str) -> None:
    counts = parameter_counts(spec_of(name))
    assert count_parameters(built(name)[1]) == counts.total
    assert counts.core == pytest.approx(100_000, rel=0.015)


@pytest.mark.parametrize(("name", "stage"), CASES)
@pytest.mark.parametrize("workers", [2, 4])
def test_the_mean_over_workers_is_the_global_loss(name: str, stage: str, workers: int) -> None:
    family, model = built(name)
    module = family.stage_module(model, OBJECTIVES[name], stage)

    def loss(rows: range) -> torch.Tensor:
        stream = Stream(3, 11, list(rows))
        batch = Batch(tokens(8)[rows.start : rows.stop], stream, list(rows), global_size=8)
        result: torch.Tensor = module(**module.draw(batch))["loss"]
        return result

    size = 8 // workers
    parts = [loss(range(size * rank, size * (rank + 1))) for rank in range(workers)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(range(8)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_every_trained_parameter_gets_a_gradient(name: str, stage: str) -> None:
    family, model = built(name)
    module = family.stage_module(model, OBJECTIVES[name], stage)
    groups = family.parameter_groups(module, OBJECTIVES[name], stage)
    batch = Batch(tokens(4), Stream(0, 0, range(4)), list(range(4)), 4)
    module(**module.draw(batch))["loss"].backward()
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    without = [key for key, p in module.named_parameters() if id(p) in grouped and p.grad is None]
    # The last clean block is left out, and the last layer's clean output, so all else is used.
    assert without == []
    assert sum(len(group["params"]) for group in groups) == len(grouped)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_likelihood_does_not_depend_on_the_batch(name: str) -> None:
    family, model = built(name)
    settings = LikelihoodSpec(mask_samples=4, ode_steps=2)
    whole = family.likelihood(model, tokens(4), settings, stream=Stream(0, 0, range(4))).nll_B
    alone = [
        family.likelihood(model, tokens(4)[i : i + 1], settings, stream=Stream(0, 0, [i])).nll_B
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), whole, atol=1e-3, rtol=1e-5)
    assert whole.dtype == torch.float64
    assert (whole > 0).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@torch.no_grad()
def test_generation_does_not_depend_on_the_batch(name: str, temperature: float) -> None:
    family, model = built(name)
    settings = GenerationSpec(max_new_tokens=12, steps=4, temperature=temperature, top_p=0.95)
    together = family.generate(
        model, PROMPTS, settings, stream=Stream(0, 0, range(len(PROMPTS))), eos_token_id=0
    )
    for index, prompt in enumerate(PROMPTS):
        alone = family.generate(
            model, [prompt], settings, stream=Stream(0, 0, [index]), eos_token_id=0
        )
        assert alone == [together[index]]
    assert all(0 < len(row) <= 12 for row in together)
    assert all(0 not in row[:-1] for row in together)
    assert all(token < VOCAB for row in together for token in row)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_an_exported_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    family, model = built(name)
    family.save(model, tmp_path)
    again = family.load(tmp_path).eval()
    settings, stream = LikelihoodSpec(mask_samples=2, ode_steps=2), Stream(0, 0, range(2))
    before = family.likelihood(model, tokens(2), settings, stream=stream).nll_B
    after = family.likelihood(again, tokens(2), settings, stream=stream).nll_B
    torch.testing.assert_close(after, before, atol=0, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_stream_is_the_generation_in_pieces(name: str) -> None:
    family, model = built(name)
    settings, prompt = GenerationSpec(max_new_tokens=40, steps=3), list(range(9))
    pieces = list(
        family.stream(model, prompt, settings, stream=Stream(0, 0, [0]), eos_token_id=None)
    )
    (whole,) = family.generate(
        model, [prompt], settings, stream=Stream(0, 0, [0]), eos_token_id=None
    )
    assert [token for piece in pieces for token in piece] == whole
    expected = {
        "ar": 40,
        "cola": 6,
        "bd3lm": 6,
        "embedding_diffusion": 6,
    }  # 7 beside the prompt's, 4 x 8, 1
    assert len(pieces) == expected.get(name, 1)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_gap_is_filled_or_refused(name: str) -> None:
    family, model = built(name)
    settings = GenerationSpec(steps=3)
    infill = functools.partial(
        family.infill,
        model,
        [[1, 2, 3]],
        [5],
        rights=[[4, 5]],
        settings=settings,
        stream=Stream(0, 0, [0]),
    )
    if family.fills_gaps:
        assert [len(row) for row in infill()] == [5]
    else:
        with pytest.raises(SpecError, match=f"{name} models cannot fill a gap"):
            infill()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), CASES)
def test_a_compiled_stage_has_the_same_loss_and_gradients(name: str, stage: str) -> None:
    """The graph that torch.compile takes, without code generation (which needs a compiler)."""
    found = []
    for compiled in (False, True):
        family, model = built(name)
        module = family.stage_module(model, OBJECTIVES[name], stage)
        if compiled:
            module.compile(backend="aot_eager")
        ids = tokens(4)
        batch = Batch(ids, Stream(0, 0, range(4)), list(range(4)), 4)
        loss = module(**module.draw(batch))["loss"]
        loss.backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        found.append(torch.cat([loss.detach()[None], *gradients]))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_trained_cola_dlm_continues_a_pattern() -> None:
    """Steps of 1, 2 or 3 round a circle of 12 tokens: both stages, then greedy continuations.

    Guessing is right for one token in 12; about 8 s of training are right for 19 in 20.
    """
    torch.manual_seed(0)
    family, vocabulary, length, batch = family_of("cola"), 12, 40, 16
    model = family.build(size_model("cola", 100_000, vocabulary, latent_dim=4, block_size=8))

    def rows(seed: int, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocabulary, (count, 1), generator=generator)
        stride = torch.randint(1, 4, (count, 1), generator=generator)
        return (start + stride * torch.arange(length)) % vocabulary

    step = 0
    for stage, steps in (("vae", 150), ("joint", 180)):
        module = family.stage_module(model, ColaObjective(), stage)
        optimizer = torch.optim.AdamW(family.parameter_groups(module, ColaObjective(), stage))
        for index in range(steps):
            places = list(range(batch))
            given = Batch(rows(step, batch), Stream(0, step, places), places, batch)
            loss = module(**module.draw(given))["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 8e-3 * min(1, (index + 1) / 20) * (1 - 0.9 * index / steps)
            optimizer.step()
            step += 1
    test = rows(10**6, 64)
    settings = GenerationSpec(max_new_tokens=16, steps=16, guidance_scale=3.0)
    for prompt in (16, 20):  # whole blocks, and a block that the prompt fills in half
        found = family.generate(
            model.eval(),
            test[:, :prompt].tolist(),
            settings,
            stream=Stream(0, 0, range(64)),
            eos_token_id=None,
        )
        right = (torch.tensor(found) == test[:, prompt : prompt + 16]).float()
        assert right.mean() > 0.7


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(SpecError, match="unknown family 'gpt'; valid: ar, llada, cola"):
        family_of("gpt")
