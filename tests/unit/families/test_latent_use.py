"""What is said of latents that hold nothing, little, or more than they could."""

from __future__ import annotations

import math

import pytest

from cola.families.cola.definition import COLA
from cola.families.interface.latent_use import gaussian_cost
from cola.families.registry import measured_kind
from cola.records import Metric
from tests.sizes import size_model

UNIGRAM = 6.21


def problem(rate: float, distortion: float, prior: float = 1.0, gaussian: float = 1.4) -> str:
    values = {
        "rate_nats_per_token": rate,
        "distortion_nats_per_token": distortion,
        "prior_nats_per_dimension": prior,
        "gaussian_nats_per_dimension": gaussian,
    }
    return COLA.problem(values, UNIGRAM) or ""


def test_collapsed_low_and_unlearned_are_told_apart() -> None:
    assert "have collapsed" in problem(0.00, 6.210)
    assert "have collapsed" in problem(0.04, 6.208, prior=1.4)
    assert problem(0.48, 5.50) == ""  # a low rate that is used
    assert problem(0.03, 5.90) == ""
    assert "the VAE has not learned" in problem(0.60, 6.25)
    assert "its prior has not learned" in problem(11.0, 0.1, prior=1.45)
    assert "its prior has not learned" not in problem(11.0, 0.1, prior=1.38)


def test_nothing_is_said_where_nothing_was_measured() -> None:
    assert COLA.problem({}, UNIGRAM) is None
    assert COLA.problem({"rate_nats_per_token": 0.5, "distortion_nats_per_token": 5.0}, 6.2) is None


def test_the_gaussian_s_cost_is_its_entropy() -> None:
    means = {"latent_mean/0": 1.0, "latent_square/0": 1.25, "latent_mean/1": 0.0}
    found = gaussian_cost(means | {"latent_square/1": 1.0})
    entropies = [0.5 * math.log(2 * math.pi * math.e * variance) for variance in (0.25, 1.0)]
    assert found == {"gaussian_nats_per_dimension": pytest.approx(sum(entropies) / 2)}
    assert gaussian_cost({}) == {}


@pytest.mark.parametrize(
    ("latent_dim", "patch", "log_snr", "nats"),
    [(4, 4, 2.0, 1.06), (8, 1, 3.0, 12.19), (16, 1, 5.0, 40.05), (16, 1, 30.0, 240.0)],
)
def test_the_capacity_of_a_fixed_channel(
    latent_dim: int, patch: int, log_snr: float, nats: float
) -> None:
    options = {"latent_dim": latent_dim, "patch_size": patch, "log_snr": log_snr}
    model = size_model("cola", 150_000, 2048, **options)
    assert COLA.channel_capacity(model) == pytest.approx(nats, abs=0.01)


def test_a_learned_channel_has_no_capacity_before_training() -> None:
    assert COLA.channel_capacity(size_model("cola", 150_000, 2048)) is None


@pytest.mark.parametrize(
    ("family", "values", "kind"),
    [
        ("cola", {}, "bound"),  # what its settings ask for
        ("cola", {Metric.NLL: 5.0}, "estimate"),  # of an earlier release, without a difference
        ("cola", {Metric.NLL: 5.0, "val/solver_difference_nats_per_latent": 0.01}, "bound"),
        ("cola", {Metric.NLL: 5.0, "val/solver_difference_nats_per_latent": "nan"}, "estimate"),
        (
            "cola",
            {
                Metric.NLL: 5.0,
                "val/solver_difference_nats_per_latent": 0.01,
                "test/solver_difference_nats_per_latent": -0.03,
            },
            "estimate",
        ),
        ("llada", {Metric.NLL: 5.0}, "bound"),
    ],
)
def test_a_run_s_kind_follows_from_its_metrics(
    family: str, values: dict[str, float], kind: str
) -> None:
    assert measured_kind(family, "bound", values) == kind
