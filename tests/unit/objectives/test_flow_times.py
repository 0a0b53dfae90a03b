"""Times and weights of the flow's loss against priors whose density and velocity are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cola.errors import SpecError
from cola.families.embedding_diffusion.spec import EmbeddingFlow
from cola.objectives.flow_matching import flow_draws, flow_matching_loss
from cola.objectives.flow_times import LikelihoodWeighting
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, LikelihoodTime, LogitNormal, UniformTime
from tests.unit.likelihood.known_priors import Codewords

ROWS = 1600


class KnownField:
    """A prior of blocks of one latent with a velocity in closed form."""

    config = SimpleNamespace(block_size=1)

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._velocity = velocity

    def __call__(self, z0: Tensor, zt: Tensor, t_BK: Tensor, **_: Any) -> Tensor:
        return self._velocity(zt, t_BK)


def gaussian(variance: float) -> KnownField:
    """The best velocity of z0 ~ N(0, variance)."""

    def velocity(z: Tensor, t_Bb: Tensor) -> Tensor:
        t = t_Bb[..., None]
        return (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2) * z

    return KnownField(velocity)


def drawn(objective: JointObjective, width: int, weighting: LikelihoodWeighting) -> dict[str, Any]:
    return flow_draws(
        objective,
        (ROWS, 1, width),
        1,
        stream=Stream(0, 0, range(ROWS)),
        positions=range(ROWS),
        global_size=ROWS,
        weighting=weighting if isinstance(objective.timestep, LikelihoodTime) else None,
    )


def losses(field: KnownField, z0: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """The loss of every row, (B,)."""
    rows = [{name: value[i : i + 1] for name, value in draws.items()} for i in range(len(z0))]
    pairs = zip(z0.split(1), rows, strict=True)
    return torch.stack([flow_matching_loss(field, z, row) for z, row in pairs])  # type: ignore[arg-type]


def spread_over_time(loss_B: Tensor, t_B: Tensor, bins: int = 8) -> tuple[float, float]:
    """Largest deviation over bins of equally many times from the average bin: of the mean loss and
    of its variance, as shares."""
    by_bin = [part.double() for part in loss_B[t_B.argsort(stable=True)].chunk(bins)]
    means = torch.stack([part.mean() for part in by_bin])
    variances = torch.stack([part.var() for part in by_bin])
    return tuple(float((x / x.mean() - 1).abs().max()) for x in (means, variances))  # type: ignore[return-value]


@pytest.mark.parametrize("log_snr", [2.0, 4.6])
def test_the_loss_and_its_variance_are_flat_over_time_under_likelihood_sampling(
    log_snr: float,
) -> None:
    weighting = LikelihoodWeighting.of(log_snr, 1.0)
    field, width = gaussian(weighting.open_variance), 16
    noise = torch.randn(ROWS, 1, width, generator=torch.Generator().manual_seed(1))
    z0 = math.sqrt(weighting.open_variance) * noise
    objective = JointObjective(timestep=LikelihoodTime(), stratified=True)
    draws = drawn(objective, width, weighting)
    loss_B = losses(field, z0, draws)
    mean, variance = spread_over_time(loss_B, draws["t_Bb"][:, 0])
    assert mean < 0.05
    assert variance < 0.2
    expected = weighting.mean_loss(weighting.open_variance)
    assert float(loss_B.mean()) == pytest.approx(expected, rel=0.02)
    # The same weights at uniform times: the loss at the data outweighs all else.
    uniform = drawn(JointObjective(timestep=UniformTime(), stratified=True), width, weighting)
    t_B1 = uniform["t_Bb"].clamp_min(weighting.first)
    uniform["weight_Bb"] = (1 - t_B1) / t_B1
    assert spread_over_time(losses(field, z0, uniform), t_B1[:, 0])[0] > 1


@pytest.mark.parametrize("words", [1, 16])
def test_the_mean_loss_is_the_price_of_the_latents(words: int) -> None:
    """model.md, Eq. 52, for a prior whose density is known: the bound is tight."""
    prior = Codewords.drawn(4, words, 3.0)
    weighting = LikelihoodWeighting(prior.scale, 1 + prior.scale**2)
    z0 = prior.sample(ROWS)
    objective = JointObjective(timestep=LikelihoodTime(), stratified=True)
    draws = drawn(objective, 4, weighting)
    loss_B = losses(KnownField(prior.velocity), z0, draws).double()
    own = 0.5 * math.log(2 * math.pi * math.e * prior.scale**2)
    bound_B = 4 * (loss_B - 0.5 * (1 + math.log(5)) + own)
    more_B = bound_B - prior.nll(z0)
    error = float(more_B.std()) / math.sqrt(ROWS)
    assert error < 0.2
    assert abs(float(more_B.mean())) < 4 * error


def test_times_of_the_bound_begin_at_its_first_and_have_the_stated_density() -> None:
    weighting = LikelihoodWeighting.of(3.0, 2.0)
    quantile = (torch.arange(10_000) + 0.5).double() / 10_000
    t = weighting.times(quantile)
    assert float(t[0]) == pytest.approx(weighting.first)
    assert (t.diff() >= 0).all()
    assert float(t[-1]) < 1
    # The weights undo the density: the mean of weight / ((1 - t) / t) is the length of [t_*, 1].
    inside = t > weighting.first * (1 + 1e-9)
    length = (weighting.weights(t) * t / (1 - t))[inside].sum() / 10_000
    assert float(length) == pytest.approx(1 - weighting.first, rel=0.01)


@pytest.mark.parametrize("timestep", [LogitNormal(timestep_loc=0.5), UniformTime()])
def test_stratified_times_have_one_in_every_part_of_the_distribution(
    timestep: LogitNormal | UniformTime,
) -> None:
    objective = JointObjective(timestep=timestep, stratified=True)
    draws = flow_draws(
        objective, (64, 8, 2), 2, stream=Stream(0, 3, range(64)), positions=range(64),
        global_size=64,
    )  # fmt: skip
    t_Bb = draws["t_Bb"]
    if isinstance(timestep, LogitNormal):
        t_Bb = torch.special.ndtr(t_Bb.logit() - 0.5)
    for column in t_Bb.T:  # every block's times are spread over the batch
        assert sorted((column * 64).floor().int().tolist()) == pytest.approx(range(64), abs=1)
        gaps = column.sort().values.diff()
        assert float(gaps.max()) < 1.01 / 64


def test_times_are_those_of_any_micro_batch() -> None:
    objective = JointObjective(timestep=LikelihoodTime(), stratified=True)
    weighting = LikelihoodWeighting.of(None, 1.0)

    def times(rows: range) -> Tensor:
        stream = Stream(0, 3, rows)
        return flow_draws(
            objective, (len(rows), 8, 2), 2, stream=stream, positions=rows, global_size=8,
            weighting=weighting,
        )["t_Bb"]  # fmt: skip

    assert torch.equal(torch.cat([times(range(4)), times(range(4, 8))]), times(range(8)))


def test_a_cross_entropy_has_no_weights_of_squared_errors() -> None:
    with pytest.raises(
        SpecError, match=r"timestep.kind=likelihood .*cross entropy; use logit_normal or uniform"
    ):
        EmbeddingFlow.parse({"timestep": {"kind": "likelihood"}})


def test_keys_that_are_off_leave_the_text_of_a_specification_as_it_was() -> None:
    assert "stratified" not in JointObjective().canonical_json()
    assert '"stratified":true' in JointObjective(stratified=True).canonical_json()
