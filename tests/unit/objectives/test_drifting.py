"""Drifting: its field against autograd and a known distribution, its generator and its cache."""

from __future__ import annotations

import torch
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.latents.drifting import DriftingDiT
from cola.objectives.drifting import drift_and_score, drifting_loss, samples_of
from cola.sampling.block_samplers import block_sampler
from cola.spec import GenerationSpec
from tests.factories import tiny_model

VOCAB, LENGTH, BLOCK, WIDTH = 40, 32, 8, 4


def generator() -> DriftingDiT:
    settings = {"latent_dim": WIDTH, "block_size": BLOCK, "prior": {"kind": "drifting"}}
    _, built = tiny_model("cola", 60_000, VOCAB, 4.0, **settings)  # type: ignore[arg-type]
    assert isinstance(built, ColaDLM)
    assert isinstance(built.dit, DriftingDiT)
    return built.dit


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_field_goes_down_the_energy_score() -> None:
    x, y = drawn(3, 4, 2, 6).double().requires_grad_(), drawn(3, 2, 6, seed=1).double()
    far = (x - y[:, None]).square().mean(-1).sqrt()
    first, second = torch.triu_indices(4, 4, 1)
    wide = (x[:, first] - x[:, second]).square().mean(-1).sqrt()
    score = far.mean() - wide.mean() / 2
    (slope,) = torch.autograd.grad(score, x)
    drift, found = drift_and_score(x.detach(), y)
    torch.testing.assert_close(drift, -slope * x.numel())
    torch.testing.assert_close(found.mean(), score.detach())


def test_points_that_drift_come_to_lie_as_the_data_do() -> None:
    """Two heaps of unequal size: each step sees one draw a row, as training sees one text."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, 1, 1, generator=generator)
    for step in range(500):
        right = torch.rand(64, 1, 1, generator=generator) < 0.75
        y = torch.where(right, 2.0, -2.0) + 0.3 * torch.randn(64, 1, 1, generator=generator)
        x = x + 1.0 / (1 + step / 25) * drift_and_score(x, y)[0]
    assert 0.65 < float((x > 0).double().mean()) < 0.85
    assert abs(float(x[x > 0].mean()) - 2) < 0.2
    assert abs(float(x[x < 0].mean()) + 2) < 0.3


def test_the_loss_has_the_fields_gradient_and_stops_there() -> None:
    dit, z0, z1 = generator(), drawn(2, LENGTH, WIDTH), drawn(2, 3, LENGTH, WIDTH, seed=1)
    loss, _ = drifting_loss(dit, z0, z1, None)
    weight = dit.txt_out.proj.weight
    (found,) = torch.autograd.grad(loss, weight)
    x, y = samples_of(dit, z0, z1)
    drift, _ = drift_and_score(x.detach(), y)
    (expected,) = torch.autograd.grad((x * drift).mean() * -2, weight)
    torch.testing.assert_close(found, expected)
    assert loss.item() > 0


@torch.no_grad()
def test_one_evaluation_behind_a_cache_makes_what_the_whole_pass_makes() -> None:
    dit, z, noise = generator(), drawn(2, LENGTH, WIDTH), drawn(2, LENGTH, WIDTH, seed=1)
    whole = dit.generated(noise, dit.clean_history(z))
    sampler, cache = block_sampler(dit, GenerationSpec(), z), dit.new_cache(2, LENGTH, z)
    passes: list[int] = []
    plain = dit.denoise
    dit.denoise = lambda *a, **k: passes.append(1) or plain(*a, **k)  # type: ignore
    for block in range(LENGTH // BLOCK):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        made = sampler(None, noise[:, part], cache)
        torch.testing.assert_close(made, whole[:, part], atol=1e-5, rtol=0)
        dit.commit(z[:, part], cache, [BLOCK] * 2)
    assert len(passes) == LENGTH // BLOCK


@torch.no_grad()
def test_known_latents_stand_and_carry_no_loss() -> None:
    dit, z, z1 = generator(), drawn(2, LENGTH, WIDTH), drawn(2, 2, LENGTH, WIDTH, seed=1)
    prompt_Bn = (torch.arange(LENGTH) % BLOCK < 3).expand(2, LENGTH)
    x, y = samples_of(dit, z, z1, prompt_Bn)
    drift, _ = drift_and_score(x, y)
    known = prompt_Bn.view(2, -1, BLOCK, 1).expand(-1, -1, -1, WIDTH).flatten(2)
    every = known[:, None].expand_as(x)
    assert torch.equal(x[every], y[:, None].expand_as(x)[every])
    assert float(drift[every].abs().max()) == 0
    assert float(drift[~every].abs().min()) > 0
