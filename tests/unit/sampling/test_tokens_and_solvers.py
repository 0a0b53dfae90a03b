"""Token sampling and ODE solvers against what they should give."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.sampling.continuous_batching import Sample, Stop
from cola.sampling.ode import integrate, time_grid
from cola.sampling.tokens import sample_tokens, seen_tokens
from cola.seeding import Stream
from cola.spec import GenerationSpec

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 1.0, 0.0]])


def frequencies(spec: GenerationSpec) -> torch.Tensor:
    """How often each token comes over an even grid of uniform numbers."""
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    ids = sample_tokens(LOGITS.expand(20_000, -1), spec, uniform)
    return torch.bincount(ids, minlength=5) / 20_000


def test_temperature_one_is_the_softmax() -> None:
    found = frequencies(GenerationSpec(temperature=1.0))
    torch.testing.assert_close(found, LOGITS[0].softmax(-1), atol=1e-3, rtol=0)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    likeliest = LOGITS[0].softmax(-1)
    top_2 = torch.where(likeliest >= likeliest.sort().values[-2], likeliest, 0.0)
    found = frequencies(GenerationSpec(temperature=1.0, top_k=2))
    torch.testing.assert_close(found, top_2 / top_2.sum(), atol=1e-3, rtol=0)
    assert (frequencies(GenerationSpec(temperature=1.0, top_p=0.5)) > 0).tolist() == [
        True, False, False, False, False,
    ]  # fmt: skip


def test_rounding_moves_no_draw() -> None:
    """Logits of many equal tokens, once as they are and once as another batch would round them."""
    draws, vocabulary = 500, 1000
    noise = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, (1, vocabulary), generator=noise).float().expand(draws, -1)
    rounded = logits + 3e-7 * torch.randn(draws, vocabulary, generator=noise)
    uniform = torch.rand(draws, generator=noise)
    spec = GenerationSpec(temperature=1.0)
    moved = sample_tokens(logits, spec, uniform) != sample_tokens(rounded, spec, uniform)
    assert moved.float().mean() < 0.01


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_no_number_draws_what_is_impossible(number: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, -torch.inf]])
    ids = sample_tokens(logits, GenerationSpec(temperature=1.0), torch.tensor([number]))
    assert ids.tolist() == [1 if number == 0.0 else 2]


def test_temperature_zero_is_greedy_and_the_penalty_moves_it() -> None:
    assert sample_tokens(LOGITS, GenerationSpec()).tolist() == [0]
    penalised = GenerationSpec(repetition_penalty=3.0)
    seen = seen_tokens([[0]], 5, LOGITS.device)
    assert sample_tokens(LOGITS, penalised, seen_BV=seen).tolist() == [3]


def test_sampling_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs uniform numbers"):
        sample_tokens(LOGITS, GenerationSpec(temperature=1.0))


@given(st.lists(st.integers(0, 4), max_size=8))
def test_nothing_stays_behind_eos(tokens: list[int]) -> None:
    sample, unending = (
        Sample(0, [], Stream(0, 0, [0]), stop=Stop(max_new_tokens=9, eos_token_id=eos))
        for eos in (4, None)
    )
    sample.extend(tokens)
    assert sample.generated == tokens[: len(sample.generated)]
    assert 4 not in sample.generated[:-1]
    assert sample.done == (4 in tokens)
    unending.extend(tokens)
    assert unending.generated == tokens
    assert not unending.done


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_solvers_have_their_order(solver: str, order: int) -> None:
    """dz/dt = z cos t from t = 1 to 0: halving the step divides the error by 2^order."""
    truth = math.exp(-math.sin(1.0))

    def error(steps: int) -> float:
        z = integrate(
            lambda z, t: z * math.cos(t), torch.ones(1, dtype=torch.float64),
            time_grid("uniform", steps), solver=solver,
        )  # fmt: skip
        return abs(float(z) - truth)

    assert error(20) / error(40) == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
def test_the_callback_gets_the_trajectory(solver: str) -> None:
    """On straight lines every state is (1 - t) z0 + t z1, and every velocity is z1 - z0."""
    z0, z1 = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    times = time_grid("cosine", 6)
    seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []

    def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
        return (z - z0) / t if t > 0 else z1 - z0

    end = integrate(
        velocity, z1, times, solver=solver, callback=lambda t, z, v: seen.append((t, z, v))
    )
    assert [t for t, _, _ in seen] == times[:-1]
    for t, z, v in seen:
        torch.testing.assert_close(z, (1 - t) * z0 + t * z1)
        torch.testing.assert_close(v, z1 - z0)
    torch.testing.assert_close(end, z0, atol=1e-6, rtol=0)
    assert torch.equal(integrate(velocity, z1, times, solver=solver), end)


@settings(max_examples=30)
@given(st.sampled_from(["uniform", "cosine", "quadratic"]), st.integers(1, 64))
def test_time_grids_go_from_one_to_zero(kind: str, steps: int) -> None:
    grid = time_grid(kind, steps)
    assert len(grid) == steps + 1
    assert grid[0] == pytest.approx(1.0)
    assert grid[-1] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(grid))
