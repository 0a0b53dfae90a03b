"""Which runs share a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.profiles.budgets import WIDEST, group_compute


def test_runs_of_equal_compute_keep_it_as_their_budget() -> None:
    compute = np.repeat([1e18, 1.15e18, 3e19], 4)
    assert group_compute(compute).tolist() == compute.tolist()


def test_scatter_about_budgets_is_grouped() -> None:
    scatter = 1 + 0.08 * np.random.default_rng(0).uniform(-1, 1, (3, 9))
    budgets = group_compute((np.array([[1e18], [1.5e18], [1e19]]) * scatter).ravel())
    assert np.unique(budgets[:9]).size == np.unique(budgets[9:18]).size == 1
    assert np.unique(budgets).tolist() == pytest.approx([1e18, 1.5e18, 1e19], rel=0.05)


def test_a_chain_without_gaps_becomes_bins() -> None:
    chain = 1e18 * 1.04 ** np.arange(150)
    bins = np.unique(group_compute(chain), return_counts=True)[1]
    assert 30 <= len(bins) <= 36
    assert bins.min() >= 3


@given(st.lists(st.floats(1e15, 1e24), min_size=1, max_size=60))
def test_no_budget_is_wider_than_the_bound(compute: list[float]) -> None:
    values = np.array(compute)
    budgets = group_compute(values)
    order = np.argsort(values)
    assert (np.diff(budgets[order]) >= -1e-9 * budgets[order][1:]).all()  # never out of order
    for budget in np.unique(budgets):
        mine = values[budgets == budget]
        assert mine.max() / mine.min() <= WIDEST * (1 + 1e-6)
        assert mine.min() * (1 - 1e-9) <= budget <= mine.max() * (1 + 1e-9)
