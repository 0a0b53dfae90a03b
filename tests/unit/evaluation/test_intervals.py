"""Intervals of shares and of their differences hold what they say, where counts are small too."""

from __future__ import annotations

from itertools import product

import pytest
from scipy.stats import binom, binomtest, multinomial

from cola.evaluation.statistics import paired_share_interval, share_interval, sign_test


@pytest.mark.parametrize(
    ("right", "items", "expected"),
    [(0, 42, (0.0, 0.0841)), (42, 42, (0.9159, 1.0)), (500, 1000, (0.4686, 0.5314))],
)
def test_shares_have_clopper_and_pearson_s_interval(
    right: int, items: int, expected: tuple[float, float]
) -> None:
    assert share_interval(right, items) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("right", "items"), [(0, 1), (1, 1), (3, 40), (999, 1000)])
def test_shares_have_the_interval_that_scipy_gives_them(right: int, items: int) -> None:
    found = binomtest(right, items).proportion_ci(0.95, method="exact")
    assert share_interval(right, items) == pytest.approx((found.low, found.high), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 7), (4, 4), (5, 4), (30, 51)])
def test_pairs_have_the_p_value_of_a_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue
    assert sign_test(first, second) == pytest.approx(expected, abs=1e-12)


def test_pairs_that_never_differ_say_nothing() -> None:
    assert sign_test(0, 0) == 1.0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_intervals_of_shares_never_hold_less_than_they_say(share: float) -> None:
    held = 0.0
    for right in range(41):
        low, high = share_interval(right, 40)
        held += float(binom.pmf(right, 40, share)) * (low <= share <= high)
    assert held >= 0.95


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.05), (0.3, 0.1), (0.02, 0.02), (0.2, 0.2)])
def test_intervals_of_differences_hold_what_they_say(first: float, second: float) -> None:
    """Over every outcome of 30 items; a score interval is not exact, but close."""
    held = 0.0
    for a, b in product(range(31), range(31)):
        if a + b <= 30:
            low, high = paired_share_interval(a, b, 30)
            chance = multinomial.pmf([a, b, 30 - a - b], 30, [first, second, 1 - first - second])
            held += float(chance) * (low <= first - second <= high)
    assert 0.93 <= held <= 1.0


def test_without_an_item_that_differs_the_interval_has_a_width() -> None:
    z2 = 1.959964**2
    assert paired_share_interval(0, 0, 100) == pytest.approx(
        (-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-6
    )


def test_pairs_that_agree_make_the_interval_narrow() -> None:
    """4 of 100 items differ in each direction: sd sqrt(0.08 / 100), not sqrt(2 * 0.25 / 100)."""
    assert paired_share_interval(4, 4, 100) == pytest.approx((-0.065, 0.065), abs=0.005)
    low, high = paired_share_interval(300, 200, 1000)
    assert (low, high) == pytest.approx((0.1 - 0.0434, 0.1 + 0.0434), abs=0.003)
    assert paired_share_interval(200, 300, 1000) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [(5, 0), (0, 5), (5, 5), (0, 1), (1, 0)])
def test_extreme_counts_have_an_interval_within_bounds(first: int, second: int) -> None:
    items = max(1, first + second)
    low, high = paired_share_interval(first, second, items)
    assert -1 <= low <= (first - second) / items <= high <= 1
    assert low < high
