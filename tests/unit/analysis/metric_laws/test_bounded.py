"""Sigmoids in log compute: recovered from what they made, inverted, refused where they must be."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.metric_laws.bounded import Range, Shares, fit_bounded, items_behind
from cola.errors import FitError

UNIT, PER_CENT, ERROR = Range(0.0, 1.0), Range(0.0, 100.0), Range(0.0, 1.0, "lower")
BUDGETS = np.geomspace(1e12, 1e15, 6)


def sigmoid(compute: np.ndarray, *, b: float, half: float, top: float = 1.0) -> np.ndarray:
    return np.asarray(0.25 + (top - 0.25) / (1 + (compute / half) ** -b))


def drawn(items: int, seed: int, **law: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.binomial(items, sigmoid(BUDGETS, **law)) / items


@pytest.mark.parametrize("range_", [UNIT, PER_CENT, ERROR])
@pytest.mark.parametrize("counted", [True, False])
def test_a_sigmoid_is_recovered_in_any_unit(range_: Range, counted: bool) -> None:
    share = sigmoid(BUDGETS, b=0.4, half=3e14)
    points = Shares(share, BUDGETS, 0.25, np.full(6, 500.0) if counted else None)
    curve = fit_bounded(points, range_, samples=20, seed=0)
    found = {name: float(values[0]) for name, values in curve.parameters().items()}
    assert found["exponent"] == pytest.approx(0.4, rel=1e-3)
    assert found["half"] == pytest.approx(3e14, rel=1e-3)
    # At half of the rise the slope in C^b's odds is b / 4 of it for each factor e.
    sign = -1 if range_.better == "lower" else 1
    steepest = sign * (range_.high - range_.low) * 0.75 * 0.4 * np.log(10) / 4
    assert found["per_decade"] == pytest.approx(steepest, rel=1e-3)
    middle = float(range_.value(np.array(0.625)))
    assert curve.compute_for(middle)[0] == pytest.approx(3e14, rel=1e-3)
    assert curve.values(np.array([3e14]))[0, 0] == pytest.approx(middle, rel=1e-3)


def test_intervals_hold_the_truth_of_simulated_sigmoids() -> None:
    held, truth = [], {"exponent": 0.4, "half": 3e14}
    for seed in range(40):
        share = drawn(400, seed, b=0.4, half=3e14)
        points = Shares(share, BUDGETS, 0.25, np.full(6, 400.0))
        found = fit_bounded(points, UNIT, samples=200, seed=seed).parameters()
        for name, value in truth.items():
            low, high = np.percentile(found[name][1:], [2.5, 97.5])
            held.append(low <= value <= high)
    assert np.mean(held) >= 0.9


def test_a_ceiling_is_fitted_where_the_data_ask_for_it() -> None:
    many = np.full(6, 2000.0)
    low = drawn(2000, 1, b=1.2, half=1e13, top=0.6)
    curve = fit_bounded(Shares(low, BUDGETS, 0.25, many), UNIT, samples=50, seed=0)
    assert curve.has_ceiling
    assert curve.parameters()["ceiling"][0] == pytest.approx(0.6, abs=0.03)
    assert np.isinf(curve.compute_for(0.75)[0])
    assert curve.compute_for(0.25)[0] == 0
    full = drawn(2000, 1, b=0.4, half=3e14)
    assert not fit_bounded(Shares(full, BUDGETS, 0.25, many), UNIT, samples=5, seed=0).has_ceiling


def test_more_scatter_than_items_explain_widens_the_intervals() -> None:
    share = drawn(5000, 2, b=0.4, half=3e14)
    off = share + 0.02 * np.array([1, -1, 1, -1, 1, -1])
    widths = []
    for values in (share, off):
        points = Shares(values, BUDGETS, 0.25, np.full(6, 5000.0))
        curve = fit_bounded(points, UNIT, samples=200, seed=0)
        widths.append(float(np.std(curve.parameters()["exponent"][1:])))
        new = curve.new_runs(BUDGETS, 0)
        assert ((new >= 0) & (new <= 1)).all()
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(
    ("share", "chance", "items", "message"),
    [
        ([0.24, 0.26, 0.25, 0.26], 0.25, 50.0, "no run is better than chance"),
        ([0.9, 0.7, 0.5, 0.4], 0.25, 50.0, "does not improve with compute"),
        ([0.3, 0.4, 1.5, 0.5], 0.25, None, "1.5 lies outside of the range 0 to 1"),
        ([0.3, 0.4, 0.5, 0.6], 1.0, None, "leaves no room"),
        ([0.0, 0.0, 0.0, 0.0], 0.0, 64.0, "no run is better than chance"),
    ],
)
def test_what_carries_no_curve_is_refused(
    share: list[float], chance: float, items: float | None, message: str
) -> None:
    count = None if items is None else np.full(4, items)
    points = Shares(np.array(share), BUDGETS[:4], chance, count)
    with pytest.raises(FitError, match=message):
        fit_bounded(points, UNIT, samples=5, seed=0)


def test_two_budgets_are_too_few() -> None:
    points = Shares(np.array([0.3, 0.5]), BUDGETS[:2], 0.25, None)
    with pytest.raises(FitError, match="2 budgets cannot carry a sigmoid"):
        fit_bounded(points, UNIT, samples=5, seed=0)


def test_items_follow_from_a_standard_error() -> None:
    for share, items in ((0.0, 42), (0.3, 1000), (1.0, 64), (0.5, 8192)):
        total = items + 4
        middle = (share * items + 2) / total
        error = float((middle * (1 - middle) / total) ** 0.5)
        assert float(items_behind([share], [error])[0]) == pytest.approx(items, rel=1e-6)
    assert np.isnan(items_behind([0.5, 0.0, 0.5], [0.0, np.nan, 0.3])).all()
