"""Scores by draws against what their distribution has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.evaluation.predictive_scores import (
    GRAMS,
    brier_of_draws,
    brier_of_independent,
    brierlm,
    by_draws,
    chain_rule,
    log_mean_exp,
)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(2, 3))
def test_brier_by_draws_has_the_exact_score_as_its_mean(weights: list[int], draws: int) -> None:
    p = np.array(weights) / sum(weights)
    truth, exact = 0, 2 * p[0] - (p**2).sum()
    mean = 0.0
    for outcome in itertools.product(range(len(p)), repeat=draws):
        drawn = np.array(outcome)[:, None]
        mean += float(p[list(outcome)].prod()) * brier_of_draws(drawn, np.array([truth]))
    assert mean == pytest.approx(exact, abs=1e-12)


def test_brier_of_two_draws_is_the_pair_s_formula() -> None:
    truth = np.array([1, 2])
    assert brier_of_draws(np.array([[1, 2], [1, 2]]), truth) == 1  # both right, and alike
    assert brier_of_draws(np.array([[1, 2], [1, 3]]), truth) == 1  # one right
    assert brier_of_draws(np.array([[0, 2], [1, 3]]), truth) == 0
    assert brier_of_draws(np.array([[3, 3], [3, 3]]), truth) == -1  # alike and wrong
    # Three draws: the mean over the pairs.
    drawn = np.array([[1, 2], [1, 2], [0, 0]])
    pairs = [brier_of_draws(drawn[list(p)], truth) for p in itertools.combinations(range(3), 2)]
    assert brier_of_draws(drawn, truth) == pytest.approx(np.mean(pairs))


def test_independent_tokens_score_as_their_product() -> None:
    p = np.array([0.5, 0.3, 0.2])
    joint = np.outer(p, p).ravel()
    exact = 2 * joint[1] - (joint**2).sum()  # the pair (0, 1)
    assert brier_of_independent(p[[0, 1]], float((p**2).sum())) == pytest.approx(exact)


def test_brierlm_is_the_geometric_mean_and_its_error_that_of_repeats() -> None:
    draw = np.random.default_rng(0)
    means = np.array([0.4, 0.2, 0.1, 0.05])

    def sample(count: int) -> np.ndarray:
        return means + 0.3 * draw.standard_normal((count, len(GRAMS)))

    repeats = [brierlm(sample(400), np.arange(400)) for _ in range(200)]
    known = [found for found in repeats if found is not None]
    assert len(known) == 200
    values = np.array([found.mean for found in known])
    assert values.mean() == pytest.approx(100 * means.prod() ** 0.25, rel=0.02)
    errors = np.mean([found.standard_error for found in known])
    assert errors == pytest.approx(values.std(), rel=0.15)
    exact = brierlm(np.tile(means, (4, 1)), np.arange(4))
    assert exact is not None
    assert exact.mean == pytest.approx(100 * means.prod() ** 0.25)
    assert exact.standard_error == pytest.approx(0, abs=1e-12)


def test_there_is_no_brierlm_where_a_mean_is_not_above_0() -> None:
    assert brierlm(np.array([[0.4, 0.2, 0.1, 0.0]]), np.arange(1)) is None


def test_the_chain_rule_of_a_mixture_sums_to_its_likelihood() -> None:
    log_p = np.log(np.random.default_rng(1).uniform(0.1, 1, (5, 3)))
    parts = chain_rule(log_p)
    whole = -log_mean_exp(log_p.sum(1))
    assert sum(parts) == pytest.approx(float(whole))
    assert parts[0] == pytest.approx(float(-np.log(np.exp(log_p[:, 0]).mean())))
    # Draws that gave much to the first token count more for the second.
    weight = np.exp(log_p[:, 0]) / np.exp(log_p[:, 0]).sum()
    assert parts[1] == pytest.approx(float(-np.log((weight * np.exp(log_p[:, 1])).sum())))


def test_a_bound_falls_with_the_draws_and_ends_at_all_of_them() -> None:
    joint = np.random.default_rng(2).normal(-5, 2, 12)
    found = by_draws(joint)
    assert list(found) == [1, 2, 4, 8, 12]
    assert found[1] == pytest.approx(-joint.mean())
    assert found[12] == pytest.approx(-np.log(np.exp(joint).mean()))
    assert found[1] > found[2] > found[4] > found[12]


def test_a_token_without_probability_has_an_infinite_price() -> None:
    assert log_mean_exp(np.array([-np.inf, -np.inf])) == -np.inf
    assert log_mean_exp(np.array([-np.inf, 0.0])) == pytest.approx(np.log(0.5))
