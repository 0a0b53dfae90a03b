"""The family of texts and images: what others promise of texts, it promises of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cola.families.interface.family import Batch, StageModule, count_parameters
from cola.families.multimodal.sampling import describe_images, draw_images, drawn_blocks
from cola.families.multimodal.spec import MultimodalObjective
from cola.families.registry import family_of
from cola.models.pairs.pair_model import PairModel
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from tests.factories import tiny_model
from tests.sizes import parameter_counts, size_model, train_flops_per_token

VOCAB, LENGTH = 60, 32
OBJECTIVE = MultimodalObjective()
STAGES = tuple(OBJECTIVE.stage_shares())
SETTINGS = GenerationSpec(steps=3, guidance_scale=2.0, max_new_tokens=LENGTH)


@pytest.fixture(scope="module")
def model() -> PairModel:
    _, found = tiny_model("multimodal", 100_000, VOCAB, 2.0, latent_dim=4, block_size=8)
    assert isinstance(found, PairModel)
    return found


def pairs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (batch, LENGTH), generator=generator)
    images = torch.randint(0, 256, (batch, 3, 16, 16), generator=generator)
    return tokens, images.to(torch.uint8)


def stage_of(model: PairModel, stage: str) -> StageModule:
    return family_of("multimodal").stage_module(model, OBJECTIVE, stage)


def batch_of(rows: range, size: int, step: int = 0) -> Batch:
    tokens, images = pairs(size)
    own = slice(rows.start, rows.stop)
    return Batch(
        tokens[own], Stream(3, step, list(rows)), list(rows), size, step, images=images[own]
    )


@pytest.mark.parametrize("core", [60_000, 300_000, 2_000_000])
def test_parameters_are_what_the_plan_says(core: int) -> None:
    spec = size_model("multimodal", core, VOCAB)
    counts = parameter_counts(spec)
    assert count_parameters(family_of("multimodal").build(spec)) == counts.total
    assert counts.core == pytest.approx(core, rel=0.015)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("step", [0, 1])  # the text first, the image first
def test_the_mean_over_workers_is_the_global_loss(model: PairModel, stage: str, step: int) -> None:
    module = stage_of(model, stage)

    def loss(rows: range) -> Tensor:
        found: Tensor = module(**module.draw(batch_of(rows, 4, step)))["loss"]
        return found

    parts = torch.stack([loss(range(2)), loss(range(2, 4))])
    torch.testing.assert_close(parts.mean(), loss(range(4)), atol=1e-5, rtol=1e-5)
    assert parts[0] != parts[1]


@pytest.mark.parametrize(("stage", "step"), [(STAGES[0], 0), (STAGES[1], 0), (STAGES[1], 1)])
def test_every_trained_parameter_gets_a_gradient(model: PairModel, stage: str, step: int) -> None:
    module = stage_of(model, stage).requires_grad_(True)
    module = stage_of(model, stage)
    groups = family_of("multimodal").parameter_groups(module, OBJECTIVE, stage)
    module.zero_grad()
    module(**module.draw(batch_of(range(4), 4, step)))["loss"].backward()
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    without = [key for key, p in module.named_parameters() if id(p) in grouped and p.grad is None]
    assert without == []
    if stage == STAGES[1]:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {name.split(".")[0] for name in trained} == {"dit", "image_dit"}


def test_half_of_the_steps_put_the_image_first() -> None:
    first = [OBJECTIVE.puts_image_first(step) for step in range(8)]
    assert first == [False, True] * 4
    quarter = MultimodalObjective(image_first=0.25)
    assert sum(quarter.puts_image_first(step) for step in range(100)) == 25


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("core", "length"), [(100_000, 32), (1_000_000, 16)])
def test_training_flops_agree_with_torch(stage: str, core: int, length: int) -> None:
    spec = size_model("multimodal", core, VOCAB)
    torch.manual_seed(0)
    module = stage_of(family_of("multimodal").build(spec), stage)
    tokens, images = pairs(4)
    batch = Batch(tokens[:, :length], Stream(0, 0, range(4)), list(range(4)), 4, images=images)
    draws = module.draw(batch)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(**draws)["loss"].backward()
    by_operator = counter.get_flop_counts()["Global"]
    inside = sum(count for op, count in by_operator.items() if "bmm" in str(op))
    ours = train_flops_per_token(spec, OBJECTIVE, length, stage=stage, convention="executed")
    scores = sum(
        v for name, v in ours.components.items() if name.endswith(("scores", "adaln_spread"))
    )
    outside = (counter.get_total_flops() - inside) / (4 * length)
    assert ours.total - scores == pytest.approx(outside, rel=0.01)
    assert scores <= inside / (4 * length) * (1 + 1e-9)


def test_drawn_images_and_texts_do_not_depend_on_the_batch(model: PairModel) -> None:
    tokens, images = pairs(3)
    drawn = draw_images(model, tokens, SETTINGS, stream=Stream(0, 0, range(3)))
    said = describe_images(model, images, LENGTH, settings=SETTINGS, stream=Stream(0, 0, range(3)))
    assert drawn.shape == images.shape
    assert drawn.dtype == torch.uint8
    assert said.shape == tokens.shape
    for row in range(3):
        own, stream = slice(row, row + 1), Stream(0, 0, [row])
        alone = draw_images(model, tokens[own], SETTINGS, stream=stream)
        assert (alone[0].int() - drawn[row].int()).abs().max() <= 1  # rounding
        text = describe_images(model, images[own], LENGTH, settings=SETTINGS, stream=stream)
        assert (text[0] == said[row]).float().mean() > 0.95


@torch.no_grad()
def test_an_image_follows_its_text_and_a_text_its_image() -> None:
    _, model = tiny_model("multimodal", 100_000, VOCAB, 4.0, latent_dim=4, block_size=8)
    tokens, images = pairs(2)
    noise = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(2)).expand(2, -1, -1)
    texts, pictures = model.text_latents(tokens), model.image_latents(images)
    for before, latents, after in (
        (model.dit, texts, model.image_dit),
        (model.image_dit, pictures, model.dit),
    ):
        cache = model.dit.new_cache(2, 64, latents)
        before.commit(latents, cache, [latents.shape[1]] * 2)
        (made,) = drawn_blocks(after, cache, SETTINGS, count=1, noise=lambda number: noise)
        assert (made[0] - made[1]).abs().max() > 1e-3  # the noise is the same


def test_bounds_are_of_both_modalities_alone_and_behind_the_other(model: PairModel) -> None:
    tokens, images = (part[:2] for part in pairs(2))
    tokens = tokens[:, :16]
    family, settings = family_of("multimodal"), LikelihoodSpec(ode_steps=1, divergence="exact")
    found = family.pair_diagnostics(
        model, tokens, images, settings=settings, stream=Stream(0, 0, range(2))
    )
    assert sorted(found) == [
        "image_nats_per_level/alone", "image_nats_per_level/behind_text",
        "text_nats_per_token/alone", "text_nats_per_token/behind_image",
    ]  # fmt: skip
    assert all(value > 0 for value in found.values())
    # Of texts alone it is the family's likelihood.
    whole = family.likelihood(model, tokens, settings, stream=Stream(0, 0, range(2)))
    nats = float(whole.nll_B.mean()) / 16
    assert found["text_nats_per_token/alone"] == pytest.approx(nats, rel=1e-4)


def test_an_exported_model_is_the_same_model(model: PairModel, tmp_path: Path) -> None:
    family = family_of("multimodal")
    family.save(model, tmp_path)
    again = family.load(tmp_path).eval()
    assert family.sizes_of(again) == family.sizes_of(model)
    tokens, images = pairs(2)
    stream = Stream(0, 0, range(2))
    drawn = [draw_images(m, tokens, SETTINGS, stream=stream) for m in (model, again)]
    assert (drawn[0] == drawn[1]).all()
    said = [
        describe_images(m, images, LENGTH, settings=SETTINGS, stream=stream) for m in (model, again)
    ]
    assert (said[0] == said[1]).all()
