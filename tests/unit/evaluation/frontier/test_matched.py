"""Families compared at one entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cola.evaluation.frontier.matched import Curve, half_width, matched, resampled_weights
from cola.evaluation.frontier.scores import (
    BRIER,
    BRIERLM,
    COLUMNS,
    ENTROPY,
    QUALITIES,
    REFERENCE,
    PromptScores,
)
from cola.evaluation.predictive_scores import brier_of_draws, brierlm
from cola.evaluation.statistics import token_entropy

PROMPTS = 60
DOCUMENTS = np.arange(PROMPTS) // 2
LOWER, BRIER_LM = QUALITIES[0], QUALITIES[1]


def curve(*points: tuple[float, float], noise: np.ndarray | None = None, seeds: int = 1) -> Curve:
    """Settings of an entropy and a reference's nats, joined in a row; `noise` of each prompt."""
    values = np.zeros((seeds, len(points), PROMPTS, len(COLUMNS)))
    for place, (entropy, nats) in enumerate(points):
        values[:, place, :, COLUMNS.index(ENTROPY)] = entropy
        values[:, place, :, COLUMNS.index(REFERENCE)] = nats
    if noise is not None:
        values[..., COLUMNS.index(REFERENCE)] += noise
    return Curve(values, [(i, i + 1) for i in range(len(points) - 1)])


def test_entropy_is_that_of_the_tokens_within_a_text() -> None:
    assert token_entropy([7, 7, 7]) == 0
    assert token_entropy([1, 2, 3, 4]) == pytest.approx(math.log(4))
    assert token_entropy([1, 1, 1, 2]) == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )


def test_a_prompts_numbers_are_those_of_its_draws() -> None:
    drawn = np.array([[3, 4, 5, 6, 6], [3, 4, 5, 9, 9]])
    truth = np.array([3, 4, 1, 1, 1])
    row = PromptScores.row(drawn, truth, [5.0, 10.0])
    found = dict(zip(COLUMNS, row, strict=True))
    assert found[REFERENCE] == 1.5
    assert found["first_token_accuracy"] == 1
    assert [found[name] for name in BRIER] == [
        brier_of_draws(drawn[:, :n], truth[:n]) for n in (1, 2, 3, 4)
    ]
    assert found[ENTROPY] == pytest.approx(token_entropy([3, 4, 5, 6, 6]))
    assert np.isnan(PromptScores.row(drawn, truth, None)[-1])


def test_brierlm_of_means_is_that_of_the_task_and_absent_below_zero() -> None:
    rows = np.random.default_rng(0).uniform(0.05, 0.9, (PROMPTS, len(COLUMNS)))
    brier = rows[:, [COLUMNS.index(name) for name in BRIER]]
    exact = brierlm(brier, DOCUMENTS)
    assert exact is not None
    assert float(BRIER_LM.of(rows.mean(0))) == pytest.approx(exact.mean)
    metrics = PromptScores(rows, DOCUMENTS).metrics()
    assert metrics[BRIERLM] == pytest.approx(exact.mean)
    rows[:, COLUMNS.index(BRIER[3])] = -0.1
    assert np.isnan(BRIER_LM.of(rows.mean(0)))
    assert BRIERLM not in PromptScores(rows, DOCUMENTS).metrics()


def test_quality_is_read_off_the_lines_at_the_texts_own_entropy() -> None:
    curves = {"a": curve((1.0, 2.0), (3.0, 4.0)), "b": curve((0.0, 6.0), (4.0, 6.5), (5.0, 1.0))}
    found = matched(curves, np.full(PROMPTS, 2.5), DOCUMENTS, LOWER)
    assert found is not None
    assert (found.entropy, found.own, found.best) == (2.5, True, "a")
    assert found.value == pytest.approx(3.5)
    (gap,) = found.gaps
    assert gap.value == pytest.approx(6.0 + 0.5 * 2.5 / 4)
    assert gap.decided


def test_an_entropy_that_not_all_reach_gives_way_to_the_nearest() -> None:
    curves = {"a": curve((1.0, 2.0), (3.0, 4.0)), "b": curve((0.0, 6.0), (2.0, 5.0))}
    found = matched(curves, np.full(PROMPTS, 2.5), DOCUMENTS, LOWER)
    assert found is not None
    assert (found.entropy, found.own) == (2.0, False)
    assert found.value == pytest.approx(3.0)
    apart = {"a": curve((1.0, 2.0)), "b": curve((1.5, 2.0))}
    assert matched(apart, np.full(PROMPTS, 1.2), DOCUMENTS, LOWER) is None
    assert matched({"a": curves["a"]}, np.full(PROMPTS, 2.5), DOCUMENTS, LOWER) is None


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    true, inside, trials = 0.1, 0, 80
    for _ in range(trials):
        # What documents have in common shifts both curves alike, and is paired out.
        common = random.normal(0, 1, DOCUMENTS.max() + 1)[DOCUMENTS]
        own = [common + random.normal(0, 0.3, DOCUMENTS.max() + 1)[DOCUMENTS] for _ in range(2)]
        curves = {
            "a": curve((1.0, 3.0), (3.0, 3.0), noise=own[0]),
            "b": curve((1.0, 3.0 + true), (3.0, 3.0 + true), noise=own[1]),
        }
        found = matched(curves, np.full(PROMPTS, 2.0), DOCUMENTS, LOWER)
        assert found is not None
        (gap,) = found.gaps
        sign = 1 if gap.curve == "b" else -1
        assert gap.low is not None
        assert gap.high is not None
        inside += gap.low <= sign * true <= gap.high
    assert 0.88 <= inside / trials <= 1.0


def test_seeds_widen_an_interval() -> None:
    drawn = np.random.default_rng(0).normal(0, 0.1, 2000)
    one = half_width(drawn, [np.array([1.0]), np.array([1.0])], documents=50, level=0.95)
    several = half_width(drawn, [np.array([0.8, 1.2]), np.array([1.0])], documents=50, level=0.95)
    assert one is not None
    assert several is not None
    assert one == pytest.approx(2.01 * 0.1, rel=0.05)
    assert several > 3 * one
    assert half_width(drawn, [], documents=1, level=0.95) is None


def test_documents_are_resampled_as_a_whole() -> None:
    weights = resampled_weights(DOCUMENTS)
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert (weights.sum(1) == PROMPTS).all()
