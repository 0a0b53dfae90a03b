"""The flow's density and the diffusion's bound of priors whose density is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cola.likelihood.diffusion_bound import diffusion_bound_by_block
from cola.likelihood.flow_density import time_nodes
from cola.records import SOLVER_TOLERANCE, nll_kind_of
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.unit.likelihood.known_priors import Codewords

STEPS = LikelihoodSpec().ode_steps


@pytest.mark.parametrize(
    ("width", "words", "log_snr"), [(16, 1, 6.0), (8, 64, 3.0), (8, 64, 4.5), (16, 64, 6.0)]
)
def test_the_density_at_the_default_steps_is_the_true_one(
    width: int, words: int, log_snr: float
) -> None:
    prior = Codewords.drawn(width, words, log_snr)
    z0 = prior.sample(64)
    found = prior.density(z0, STEPS)
    assert found.extrapolated.shape == (64, 1)
    assert abs(float((-found.extrapolated[:, 0] - prior.nll(z0)).mean())) < 0.02


def test_too_few_steps_read_a_good_prior_too_low_and_are_called_an_estimate() -> None:
    prior = Codewords.drawn(8, 64, 3.0)
    z0 = prior.sample(64)
    few = prior.density(z0, 4)
    assert float((-few.fine_Bb[:, 0] - prior.nll(z0)).mean()) < -10 * SOLVER_TOLERANCE
    assert nll_kind_of("bound", float(few.difference.mean())) == "estimate"
    smooth = Codewords.drawn(2, 1, 2.0)
    converged = smooth.density(smooth.sample(64), STEPS)
    assert nll_kind_of("bound", float(converged.difference.mean())) == "bound"


def test_a_difference_that_is_no_number_makes_an_estimate() -> None:
    assert nll_kind_of("bound", math.nan) == "estimate"
    assert nll_kind_of("exact", None) == "exact"
    assert nll_kind_of("estimate", 0.0) == "estimate"


@pytest.mark.parametrize("steps", [1, 2, 16])
def test_times_run_from_data_to_noise_and_lie_dense_at_the_data(steps: int) -> None:
    times = time_nodes(steps, 0.1)
    gaps = [end - start for start, end in itertools.pairwise(times)]
    assert (times[0], times[-1], len(times)) == (0.0, 1.0, steps + 1)
    assert gaps == sorted(gaps)
    # Every second node of twice as many is one of these: what extrapolation rests on.
    assert time_nodes(2 * steps, 0.1)[::2] == pytest.approx(times)


def diffusion_bound(prior: Codewords, z0: Tensor, scale: float, wrong: float = 0.0) -> Tensor:
    """(B,), with a velocity that is off by a constant."""
    return diffusion_bound_by_block(
        lambda z, t: prior.velocity(z, t) + wrong,
        z0,
        LikelihoodSpec().diffusion_times,
        stream=Stream(0, 0, range(len(z0))),
        block=1,
        scale=scale,
    )[:, 0]


def mean_and_error(values_B: Tensor) -> tuple[float, float]:
    return float(values_B.mean()), float(values_B.std()) / math.sqrt(len(values_B))


@pytest.mark.parametrize(("width", "words", "log_snr"), [(8, 1, 6.0), (8, 64, 4.5), (4, 16, 3.0)])
def test_the_diffusion_s_bound_is_tight_for_the_true_velocity(
    width: int, words: int, log_snr: float
) -> None:
    prior = Codewords.drawn(width, words, log_snr)
    z0 = prior.sample(1500)
    more, error = mean_and_error(diffusion_bound(prior, z0, prior.scale) - prior.nll(z0))
    assert error < 0.1
    assert abs(more) < 4 * error


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_with_another_scale_or_velocity_it_is_still_a_bound(factor: float) -> None:
    prior = Codewords.drawn(4, 16, 3.0)
    z0 = prior.sample(1000)
    truth = prior.nll(z0)
    more, error = mean_and_error(diffusion_bound(prior, z0, factor * prior.scale) - truth)
    assert more > -3 * error
    more, error = mean_and_error(diffusion_bound(prior, z0, prior.scale, wrong=1.0) - truth)
    assert more > 3 * error


def test_blocks_have_bounds_of_their_own() -> None:
    """Two blocks of two latents, each with a Gaussian of its own: the sums by block."""
    scale, generator = 0.3, torch.Generator().manual_seed(2)
    mean_n1 = torch.tensor([0.0, 0.0, 2.0, 2.0])[:, None]
    z0 = mean_n1 + scale * torch.randn(800, 4, 1, generator=generator)

    def velocity(z: Tensor, t_Bb: Tensor) -> Tensor:
        t = t_Bb.repeat_interleave(2, dim=1)[..., None]
        variance = (1 - t) ** 2 * scale**2 + t**2
        return (z - (1 - t) * mean_n1) * (t - (1 - t) * scale**2) / variance - mean_n1

    found = diffusion_bound_by_block(
        velocity, z0, 4, stream=Stream(0, 0, range(800)), block=2, scale=scale
    )
    exact = -torch.distributions.Normal(mean_n1, scale).log_prob(z0)
    truth = exact.unflatten(1, (2, 2)).sum((2, 3)).double()
    difference = found - truth
    error = difference.std(0) / math.sqrt(800)
    assert (difference.mean(0).abs() < 4 * error).all()
    assert float(difference.abs().mean()) < 2.0
