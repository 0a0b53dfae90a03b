"""A prior that is given its own estimate of the clean latents (model.md, Eqs. 57 and 58)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec.objectives import JointObjective
from tests.sizes import size_model

VOCAB, LENGTH, BLOCK, WIDTH = 40, 32, 8, 4


def model(share: float = 0.5, **settings: Any) -> ColaDLM:
    torch.manual_seed(0)
    objective = {"stage2": {"self_conditioning": share}}
    spec = size_model(
        "cola", 60_000, VOCAB, latent_dim=WIDTH, block_size=BLOCK, objective=objective, **settings
    )
    built: ColaDLM = family_of("cola").build(spec)  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in built.dit.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)  # an untrained prior's estimates hardly differ
    return built


def drawn(rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, noisy ones, and the blocks' times."""
    stream = Stream(0, 0, range(rows))
    z0, zt = stream.normal("z0", LENGTH, WIDTH), stream.normal("zt", LENGTH, WIDTH)
    return z0, zt, stream.uniform("t", LENGTH // BLOCK)


def test_an_evaluation_is_two_passes_written_out() -> None:
    dit = model().dit
    z0, zt, t_Bb = drawn()
    with torch.no_grad():
        first = dit(z0, zt, t_Bb)
        estimate = zt - t_Bb.repeat_interleave(BLOCK, 1)[..., None] * first
        history = dit.clean_history(z0)
        second = dit._noisy_velocity(zt, t_Bb, history, clean_Bn=None, estimate_Bnd=estimate)
        assert torch.equal(dit.noisy_pass(zt, t_Bb, history), second)
        assert torch.equal(dit(z0, zt, t_Bb, refined=True), second)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("guided", [False, True])
def test_blocks_behind_a_cache_have_the_velocities_of_whole_sequences(guided: bool) -> None:
    dit = model().dit
    z0, zt, t_Bb = drawn()
    clean_Bs = torch.arange(BLOCK) < torch.tensor([[0], [3]])  # a known part, at time 0
    with torch.no_grad():
        cache = dit.new_cache(2, LENGTH, z0)
        dit.commit(z0[:, : 2 * BLOCK], cache, [2 * BLOCK] * 2)
        block, timesteps = zt[:, 2 * BLOCK : 3 * BLOCK], dit.timesteps(t_Bb[:, 2:3], clean_Bs)
        behind, alone = dit.denoise(
            block, timesteps, dit.block_rotary(cache), cache=cache, guided=guided
        )
        clean_Bn = torch.zeros(2, LENGTH, dtype=torch.bool)
        clean_Bn[:, 2 * BLOCK : 3 * BLOCK] = clean_Bs
        whole = dit.noisy_pass(zt, t_Bb, dit.clean_history(z0), clean_Bn=clean_Bn)
        first = dit.noisy_pass(
            block, t_Bb[:, 2:3], dit.clean_history(z0[:, :BLOCK]), clean_Bn=clean_Bs
        )
    torch.testing.assert_close(behind, whole[:, 2 * BLOCK : 3 * BLOCK], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, first if guided else behind, atol=1e-5, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_of_a_step_with_an_estimate_reach_every_weight(autocast: bool) -> None:
    built = model(adaln_rank=3)
    module = family_of("cola").stage_module(built, objective(1.0), "joint")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = module(**module.draw(batch(0)))
    terms["loss"].backward()
    without = [name for name, p in built.dit.named_parameters() if p.grad is None]
    assert without == []
    assert float(built.dit.estimate_in.weight.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_the_share_of_the_steps_has_estimates_and_the_others_are_plain() -> None:
    built = model()
    module = family_of("cola").stage_module(built, objective(0.3), "joint")
    with_estimates = ["estimates" in module.draw(batch(step)) for step in range(20)]
    assert sum(with_estimates) == 6
    assert sum(with_estimates[:10]) == 3
    plain = family_of("cola").stage_module(built, objective(0.0), "joint")
    step = with_estimates.index(False)
    found = [float(m(**m.draw(batch(step)))["fm"].detach()) for m in (module, plain)]
    assert found[0] == found[1]


def objective(share: float) -> ColaObjective:
    return ColaObjective(stage2=JointObjective(self_conditioning=share))


def batch(step: int) -> Batch:
    tokens = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return Batch(tokens, Stream(0, step, range(2)), [0, 1], 2, stage_step=step)
