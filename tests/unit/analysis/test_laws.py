"""Fits recover what made the data, and refuse what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import FitError, bootstrap_band, fit_compute_law

FLOPS = np.geomspace(1e18, 1e22, 9)


@settings(max_examples=8, deadline=None)
@given(
    irreducible=st.floats(0.5, 3.0),
    coefficient=st.floats(0.3, 3.0),
    gamma=st.floats(0.05, 0.5),
)
def test_noiseless_data_are_recovered(irreducible: float, coefficient: float, gamma: float) -> None:
    loss = irreducible + coefficient * (FLOPS / 1e20) ** -gamma
    fit = fit_compute_law(FLOPS, loss)
    np.testing.assert_allclose(fit.law.loss(FLOPS), loss, rtol=1e-4)
    assert fit.residual_sd < 1e-4


def test_few_budgets_get_a_power_law_and_are_told_so() -> None:
    flops = np.geomspace(1e12, 1e13, 4)
    fit = fit_compute_law(flops, 5.0 * (flops / 1e12) ** -0.1)
    assert not fit.law.has_floor
    assert fit.law.gamma == pytest.approx(0.1, rel=1e-3)
    assert "must not be extrapolated" in fit.warnings[0]


@pytest.mark.parametrize(
    ("flops", "loss", "reason"),
    [
        ([1e12, 2e12], [3.0, 2.0], "2 budgets cannot carry a curve"),
        ([1e12] * 5, [3.0, 2.0, 2.5, 2.2, 2.1], "1 budgets cannot carry a curve"),
        ([1e12, 2e12, 4e12], [2.0, 2.5, 3.0], "does not fall with compute"),
        ([1e12, 2e12, 4e12], [3.0, float("nan"), 2.0], "not positive numbers"),
        ([1e12, 2e12, -4e12], [3.0, 2.5, 2.0], "not positive numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    flops: list[float], loss: list[float], reason: str
) -> None:
    with pytest.raises(FitError, match=reason):
        fit_compute_law(np.array(flops), np.array(loss))


def test_one_odd_run_does_not_decide() -> None:
    loss = 1.8 + 0.6 * (FLOPS / 1e20) ** -0.15
    odd = loss.copy()
    odd[4] *= 1.2
    fit = fit_compute_law(FLOPS, odd)
    others = np.delete(np.arange(9), 4)
    np.testing.assert_allclose(fit.law.loss(FLOPS)[others], loss[others], rtol=0.01)


@pytest.mark.slow
def test_the_band_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 1.8 + 0.6 * (FLOPS / 1e20) ** -0.15
    generator = np.random.default_rng(0)
    covered = []
    for trial in range(30):
        noisy = truth * np.exp(0.01 * generator.standard_normal(9))
        fit = fit_compute_law(FLOPS, noisy)
        low, high = bootstrap_band(fit, FLOPS, FLOPS[[2, 4, 6]], 60, seed=trial)
        truth_there = truth[[2, 4, 6]]
        covered.append(((low <= truth_there) & (truth_there <= high)).mean())
    assert 0.7 < np.mean(covered) <= 1.0
