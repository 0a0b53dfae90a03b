"""Errors over clusters: against closed forms, and by how often intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cola.evaluation.clusters import cluster_numbers, clustered_mean, effective_items
from cola.evaluation.few_shot.scoring import compare_paired, score_task
from cola.evaluation.items import Item
from cola.evaluation.statistics import (
    clustered_paired_interval,
    clustered_share_interval,
    paired_difference,
    paired_share_interval,
    share_interval,
)


def test_clusters_of_equal_size_have_the_error_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=(12, 5))
    found = clustered_mean(values.ravel(), np.repeat(np.arange(12), 5))
    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.mean(1).std(ddof=1) / 12**0.5)
    assert found.degrees == pytest.approx(11)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_items_by_themselves_have_the_usual_error(values: list[float]) -> None:
    array = np.array(values)
    found = clustered_mean(array, np.arange(len(values)))
    assert found.standard_error == pytest.approx(array.std(ddof=1) / len(values) ** 0.5, abs=1e-9)
    assert effective_items(array, np.arange(len(values))) == len(values)


def test_weights_make_a_ratio_of_totals() -> None:
    """Sequences of 10 and 30 tokens: nats over tokens, as if each token were counted."""
    nats, tokens = np.array([20.0, 90.0, 25.0]), np.array([10.0, 30.0, 10.0])
    found = clustered_mean(nats, np.array([0, 1, 2]), tokens)
    assert found.mean == pytest.approx(135 / 50)
    error, degrees = by_matrices(nats - found.mean * tokens, tokens / 50, 3)
    assert found.standard_error == pytest.approx(error / 50)
    assert found.degrees == pytest.approx(degrees)


def by_matrices(residual_G: np.ndarray, h_G: np.ndarray, items: int) -> tuple[float, float]:
    """The error of the sum and the degrees of freedom, from whole matrices of the model."""
    n_G, clusters = items * h_G, len(h_G)
    centred = np.eye(clusters) - np.outer(h_G, np.ones(clusters))
    omega = np.diag(0.5 * n_G**2 + 0.5 * n_G)
    product = np.diag(1 / (1 - h_G)) @ centred @ omega @ centred.T
    variance = (residual_G**2 / (1 - h_G)).sum() * np.trace(omega) / np.trace(product)
    return float(variance**0.5), float(np.trace(product) ** 2 / np.trace(product @ product))


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(0, 99))
def test_unequal_clusters_have_the_degrees_of_their_matrices(sizes: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=sum(sizes))
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    found = clustered_mean(values, cluster)
    residual = np.bincount(cluster, weights=values - values.mean())
    share = np.array(sizes) / sum(sizes)
    error, degrees = by_matrices(residual, share, sum(sizes))
    assert found.standard_error == pytest.approx(error / sum(sizes))
    assert found.degrees == pytest.approx(degrees)
    assert 0 < found.degrees <= len(sizes) - 1 + 1e-6


def test_one_cluster_has_no_error() -> None:
    found = clustered_mean(np.array([1.0, 2.0]), np.array([7, 7]))
    assert math.isnan(found.standard_error)
    assert (found.mean, found.clusters, found.p_value) == (1.5, 1, 1.0)
    assert all(math.isnan(bound) for bound in found.interval)


def coverage(clusters: int, sizes: np.ndarray, share: float, *, trials: int = 2000) -> float:
    """How often the 95% interval of the mean holds the truth, 0.

    `share` of the variance is between clusters; `sizes` are drawn from, with replacement.
    """
    random, held = np.random.default_rng(1), 0
    for _ in range(trials):
        cluster = np.repeat(np.arange(clusters), random.choice(sizes, clusters))
        shared = random.normal(size=clusters)[cluster] * share**0.5
        values = shared + random.normal(size=len(cluster)) * (1 - share) ** 0.5
        low, high = clustered_mean(values, cluster).interval
        held += low < 0 < high
    return held / trials


@pytest.mark.parametrize(
    ("clusters", "sizes", "share"),
    [
        (5, [4], 0.5),
        (9, [3, 4], 0.3),
        (18, [1, 2, 3, 4], 0.5),
        (32, [1, 5, 10], 0.2),
        (18, [1, 1, 1, 20], 0.5),
    ],
)
def test_intervals_hold_the_truth_93_to_97_per_cent_of_the_time(
    clusters: int, sizes: list[int], share: float
) -> None:
    assert 0.93 < coverage(clusters, np.array(sizes), share) < 0.97


def test_intervals_that_ignore_clusters_do_not() -> None:
    """The reference: items as if independent, at the same 0.5 of variance between clusters."""
    random, held = np.random.default_rng(1), 0
    for _ in range(2000):
        values = (random.normal(size=(18, 1)) + random.normal(size=(18, 10))).ravel()
        low, high = clustered_mean(values, np.arange(180)).interval
        held += low < 0 < high
    assert held / 2000 < 0.75


def test_a_share_of_questions_on_few_paragraphs() -> None:
    random, covered, plain = np.random.default_rng(2), 0, 0
    for _ in range(200):
        ability = random.beta(1.5, 3.5, size=93)  # mean 0.3
        right = random.random((93, 11)) < ability[:, None]
        groups = np.repeat(np.arange(93), 11)
        low, high = clustered_share_interval(right.ravel(), groups)
        covered += low <= 0.3 <= high
        low, high = clustered_share_interval(right.ravel(), np.arange(right.size))
        plain += low <= 0.3 <= high
    assert 0.93 < covered / 200 < 0.98
    assert plain / 200 < 0.85


def test_a_share_without_a_right_item_is_known_as_well_as_its_clusters() -> None:
    groups = np.repeat(np.arange(6), 7)
    assert clustered_share_interval(np.zeros(42), groups) == pytest.approx(share_interval(0, 6))
    alone = clustered_share_interval(np.zeros(42), np.arange(42))
    assert alone == pytest.approx((0, 0.084), abs=5e-4)


def test_pairs_without_a_difference_keep_a_width() -> None:
    groups = np.repeat(np.arange(10), 5)
    assert clustered_paired_interval(np.zeros(50), groups) == pytest.approx(
        paired_share_interval(0, 0, 10)
    )
    differences = np.repeat([1, 0, -1, 0, 0, 0, 0, 1, 0, 0], 5)  # alike within a group
    low, high = clustered_paired_interval(differences, groups)
    wide_low, wide_high = paired_share_interval(2, 1, 10)
    assert low == pytest.approx(wide_low, abs=0.15)
    assert high == pytest.approx(wide_high, abs=0.15)


def test_paired_differences_are_of_documents_where_items_share_one() -> None:
    random = np.random.default_rng(3)
    shift = np.repeat(random.normal(0.1, 0.5, size=10), 20)
    first = dict(enumerate((shift + random.normal(size=200) * 0.1).tolist()))
    second = dict.fromkeys(range(200), 0.0)
    plain = paired_difference(first, second)
    found = paired_difference(first, second, {item: item // 20 for item in range(200)})
    assert found.mean == pytest.approx(plain.mean)
    assert (plain.clusters, found.clusters, found.items) == (200, 10, 200)
    assert None not in (found.low, found.high, plain.low, plain.high)
    assert found.high - found.low > 3 * (plain.high - plain.low)  # type: ignore[operator]
    single = paired_difference(first, second, dict.fromkeys(range(200), 0))
    assert (single.low, single.high) == (None, None)


def test_items_of_one_text_are_scored_together() -> None:
    items = [
        Item(id=i, prompt="", answer="yes", group=f"text {i // 6}" if grouped else None)
        for grouped in (True, False)
        for i in range(120)
    ]
    texts = {i: "yes" if i // 6 % 2 else "no" for i in range(120)}  # alike within a text
    grouped, alone = (score_task("lambada", part, texts) for part in (items[:120], items[120:]))
    assert (grouped.groups, alone.groups, grouped.accuracy, alone.accuracy) == (20, None, 50, 50)
    assert grouped.effective_items == pytest.approx(20, abs=4)
    low, high = np.subtract(grouped.accuracy_interval, 50)
    assert (-low, high) == pytest.approx((22.8, 22.8), abs=3)  # that of 10 of 20
    none = score_task("lambada", items[:120], dict.fromkeys(range(120), "no"))
    paired = compare_paired(grouped, none)
    assert paired.groups == 20
    assert paired.p_value == pytest.approx(stats.ttest_1samp([0, 1] * 10, 0).pvalue)
    assert compare_paired(alone, alone).groups is None


def test_an_item_without_a_cluster_is_one_by_itself() -> None:
    assert cluster_numbers([1, 2, "a", 4], {1: 2, 4: 2}).tolist() == [0, 1, 2, 0]
