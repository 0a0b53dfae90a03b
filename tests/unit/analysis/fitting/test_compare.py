"""Compute multipliers: known ones are found, and only bounded where nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.compare import compare_compute, crossover, multiplier_at, multiplier_curve
from analysis.fitting.estimate import fit_law
from analysis.fitting.frontier import Frontier, at_compute
from analysis.fitting.law import Inputs
from analysis.metric_laws.bounded import BoundedCurve, Range, Shares, fit_bounded

TIMES = 20.0


def frontier(budgets: np.ndarray, *, slower: float = 1.0, seed: int = 0) -> Frontier:
    """A family with L = 2 + 4 (C / slower / 1e12)^-0.12, runs scattered by 0.5%."""
    noise = np.exp(0.005 * np.random.default_rng(seed).standard_normal(len(budgets)))
    loss = (2 + 4 * (budgets / slower / 1e12) ** -0.12) * noise
    points = Inputs(loss, budgets)
    fit = fit_law("compute-power", points, "least-squares")
    return Frontier(bootstrap(fit, 400, seed, kind="residuals"))


def test_a_multiplier_of_twenty_is_found_from_offset_ladders() -> None:
    ladder = np.geomspace(1e12, 3.2e13, 6)
    held, widths = [], []
    for seed in range(10):
        fast = frontier(ladder, seed=2 * seed)
        slow = frontier(10 * ladder, slower=TIMES, seed=2 * seed + 1)
        found = compare_compute(slow, fast)  # offset by 10: losses overlap
        assert found.value is not None
        held.append(found.low <= TIMES <= found.high)
        widths.append(found.high / found.low)
        back = compare_compute(fast, slow)
        assert back.value == pytest.approx(1 / found.value)
    assert np.mean(held) >= 0.9
    assert np.median(widths) < 1.5


def test_ladders_without_a_common_loss_give_a_bound() -> None:
    budgets = np.geomspace(1e12, 8e12, 4)
    fast, slow = frontier(budgets), frontier(budgets, slower=1e4, seed=1)
    found = compare_compute(slow, fast)
    assert (found.value, found.bound) == (None, "at least")
    # At 8e12 the slow one has not yet what the fast one has at 1e12.
    assert found.low == pytest.approx(8.0)
    assert found.interval == [pytest.approx(8.0), None]
    assert found.supported_by == 1.0
    assert found.at == pytest.approx(slow.values(np.array([8e12]))[0, 0])
    other = compare_compute(fast, slow)
    assert (other.bound, other.high) == ("at most", pytest.approx(1 / 8))
    assert found.inverse == other
    assert multiplier_curve(slow, fast).empty


def test_the_drawn_curve_is_what_single_values_give() -> None:
    ladder = np.geomspace(1e12, 1.6e13, 5)
    slow, fast = frontier(4 * ladder, slower=8.0, seed=1), frontier(ladder)
    curve = multiplier_curve(slow, fast)
    assert curve["observed"].any()
    assert not curve["observed"].all()
    row = curve.iloc[len(curve) // 3]
    found = multiplier_at(slow, fast, row["value"])
    assert (found.value, found.low, found.high) == tuple(row[["multiplier", "low", "high"]])
    # Nothing is followed more than ten times beyond the runs.
    for each in (slow, fast):
        reached = each.values(np.array([each.span[0] / 10, each.span[1] * 10]))[0]
        assert curve["value"].between(reached[1] * 0.999, reached[0] * 1.001).all()


def test_a_crossing_beyond_the_runs_is_named() -> None:
    budgets = np.geomspace(1e12, 1e14, 5)
    rising = [Inputs(level * (budgets / 1e12) ** -slope, budgets) for level, slope in
              ((4.0, 0.05), (6.0, 0.10))]  # fmt: skip
    one, other = (Frontier(bootstrap(fit_law("compute-power", p), 20, 0)) for p in rising)
    crossing = crossover(one, other)
    assert crossing is not None
    assert crossing.compute.value == pytest.approx(1e12 * 1.5**20, rel=0.02)
    assert crossing.beyond == pytest.approx(1e12 * 1.5**20 / 1e14, rel=0.02)


def test_accuracies_have_multipliers_too() -> None:
    budgets = np.geomspace(1e12, 1e15, 5)

    def family(slower: float, seed: int) -> BoundedCurve:
        truth = 0.25 + 0.75 / (1 + (budgets / slower / 1e14) ** -0.5)
        share = np.random.default_rng(seed).binomial(4000, truth) / 4000
        points = Shares(share, budgets, 0.25, np.full(5, 4000.0))
        return fit_bounded(points, Range(0.0, 1.0), samples=400, seed=seed)

    found = compare_compute(family(TIMES, 1), family(1.0, 2))
    assert found.value is not None
    assert found.low <= TIMES <= found.high
    assert found.high / found.low < 2


def test_a_law_of_compute_is_inverted_exactly() -> None:
    each = frontier(np.geomspace(1e12, 1e14, 5))
    at = np.array([7e12])
    assert each.compute_for(float(each.refits.fit.loss(at_compute(at))[0]))[0] == pytest.approx(
        7e12
    )
