"""A Gaussian mixture over a block of latents against torch's distributions and Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from cola.models.cola_dlm import ColaDLM
from cola.models.latents.mixture import BlockMixture, MixtureDiT
from cola.sampling.block_samplers import block_sampler
from cola.sampling.first_block import KnownBlock
from cola.spec import GenerationSpec
from tests.factories import tiny_model

VOCAB, LENGTH, BLOCK, WIDTH = 40, 32, 8, 4
PRIOR = {"kind": "mixture", "components": 3}


def model() -> ColaDLM:
    settings = {"latent_dim": WIDTH, "block_size": BLOCK, "prior": PRIOR}
    _, built = tiny_model("cola", 60_000, VOCAB, 4.0, **settings)  # type: ignore[arg-type]
    assert isinstance(built, ColaDLM)
    return built


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def two_points(scale: float) -> BlockMixture:
    """One block of two latents of one dimension: near (-1, -2) with 0.25, near (1, 2) with 0.75."""
    mean_Ks = torch.tensor([[-1.0, -2.0], [1.0, 2.0]])
    return BlockMixture(
        torch.tensor([[[0.25, 0.75]]]).log(),
        mean_Ks[None, None, ..., None],
        torch.full((1, 1, 2, 2, 1), scale),
    )


@torch.no_grad()
def test_the_density_of_a_block_is_torchs() -> None:
    dit, z = model().dit, drawn(2, LENGTH, WIDTH)
    assert isinstance(dit, MixtureDiT)
    found = dit.mixture(z.shape, dit.clean_history(z))
    parts = Independent(Normal(found.mean.flatten(-2), found.scale.flatten(-2)), 1)
    torchs = MixtureSameFamily(Categorical(logits=found.log_weight_BbK), parts)
    expected = torchs.log_prob(z.reshape(2, LENGTH // BLOCK, -1))
    torch.testing.assert_close(found.log_density(z), expected)
    assert found.log_weight_BbK.exp().std() > 1e-3  # not an untrained model's flat one
    assert found.scale.std() > 1e-3


@torch.no_grad()
def test_no_block_is_said_from_itself_or_from_later_ones() -> None:
    dit, z = model().dit, drawn(1, LENGTH, WIDTH)
    assert isinstance(dit, MixtureDiT)
    changed = z.clone()
    changed[:, BLOCK : 2 * BLOCK] += 1.0
    before, after = (dit.mixture(z.shape, dit.clean_history(each)).mean for each in (z, changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2:] - after[:, 2:]).abs().amax((0, 2, 3, 4)).min() > 1e-3


@torch.no_grad()
def test_blocks_behind_a_cache_are_those_of_the_whole_pass() -> None:
    dit, z = model().dit, drawn(2, LENGTH, WIDTH)
    assert isinstance(dit, MixtureDiT)
    whole = dit.mixture(z.shape, dit.clean_history(z))
    sampler = block_sampler(dit, GenerationSpec(), z)
    cache = dit.new_cache(2, LENGTH, z)
    for block in range(LENGTH // BLOCK):
        noise = drawn(2, BLOCK, WIDTH + 1, seed=block)
        part = [each[:, block : block + 1] for each in vars(whole).values()]
        expected = BlockMixture(*part).sample(noise)
        torch.testing.assert_close(sampler(None, noise, cache), expected, atol=1e-5, rtol=0)
        dit.commit(z[:, block * BLOCK : (block + 1) * BLOCK], cache, [BLOCK] * 2)


def test_draws_have_the_mixtures_weights_means_and_scales() -> None:
    rows, scale = 40_000, 0.3
    noise = drawn(rows, 2, 2)
    mixture = two_points(scale)
    one = BlockMixture(*(part.expand(rows, *part.shape[1:]) for part in vars(mixture).values()))
    z_Bs = one.sample(noise)[..., 0]
    right_B = z_Bs[:, 1] > 0
    assert float(right_B.double().mean()) == pytest.approx(0.75, abs=0.01)
    for side, mean in ((right_B, 1.0), (~right_B, -1.0)):
        torch.testing.assert_close(
            z_Bs[side].mean(0), mean * torch.tensor([1.0, 2.0]), atol=0.02, rtol=0
        )
        torch.testing.assert_close(z_Bs[side].std(0), torch.full((2,), scale), atol=0.01, rtol=0)


def test_known_latents_decide_on_the_others_by_bayes_rule() -> None:
    rows, scale, seen = 40_000, 1.0, 0.4
    mixture = two_points(scale)
    one = BlockMixture(*(part.expand(rows, *part.shape[1:]) for part in vars(mixture).values()))
    known_Bsd = torch.full((rows, 2, 1), seen)
    known_Bs = torch.tensor([True, False]).expand(rows, 2)
    z_Bs = one.sample(drawn(rows, 2, 2), known_Bsd, known_Bs)[..., 0]
    assert torch.equal(z_Bs[:, 0], torch.full((rows,), seen))
    odds = 3 * math.exp(-((seen - 1) ** 2 - (seen + 1) ** 2) / 2)
    expected = 2 * (odds - 1) / (odds + 1)  # of means 2 and -2
    assert float(z_Bs[:, 1].mean()) == pytest.approx(expected, abs=0.03)


@torch.no_grad()
def test_a_known_part_that_is_empty_changes_nothing() -> None:
    dit = model().dit
    noise = drawn(2, BLOCK, WIDTH + 1)
    sampler, cache = block_sampler(dit, GenerationSpec(), noise), dit.new_cache(2, BLOCK, noise)
    nothing = KnownBlock(
        torch.ones(2, BLOCK, WIDTH),
        torch.zeros(2, BLOCK, dtype=torch.bool),
        torch.full((2, BLOCK), -1),
        anything=True,
    )
    assert torch.equal(sampler(nothing, noise, cache), sampler(None, noise, cache))
