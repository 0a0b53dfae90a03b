"""Differences between texts and between models, against scipy's tests and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from analysis.held_out_sets.measured import Sums, texts_of
from analysis.held_out_sets.page import text_sentences, text_table
from analysis.held_out_sets.shift import difference, estimate_of

RANDOM = np.random.default_rng(0)
FIRST, SECOND = RANDOM.normal(2.0, 0.3, 12), RANDOM.normal(1.5, 0.5, 9)


def sums(values_G: np.ndarray, text: str, weights_G: np.ndarray | None = None) -> Sums:
    weights_G = np.ones(len(values_G)) if weights_G is None else weights_G
    return Sums(np.arange(len(values_G)), values_G * weights_G, weights_G, text)


def test_independent_texts_have_welchs_interval() -> None:
    found = difference(sums(FIRST, "wiki"), sums(SECOND, "own"))
    expected = ttest_ind(FIRST, SECOND, equal_var=False).confidence_interval()
    assert found.mean == pytest.approx(FIRST.mean() - SECOND.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_texts_of_the_same_documents_are_paired() -> None:
    other = FIRST[::-1] * 0.1 + FIRST
    found = difference(sums(FIRST, "own"), sums(other, "own"))
    expected = ttest_rel(FIRST, other).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_two_models_differ_document_by_document() -> None:
    gap = sums(FIRST, "own").minus(sums(FIRST[::-1], "own"))
    assert gap is not None
    expected = ttest_1samp(FIRST - FIRST[::-1], 0).confidence_interval()
    found = estimate_of(gap)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert sums(FIRST, "own").minus(sums(FIRST, "wiki")) is None
    assert sums(FIRST, "own").minus(sums(FIRST, "own", 2 * np.ones(12))) is None


def test_one_document_has_no_interval() -> None:
    one = sums(FIRST[:1], "own")
    assert difference(one, sums(SECOND, "wiki")).low is None
    assert difference(one, one).low is None


def recorded(text: str, of: str, nats: np.ndarray, kind: str = "exact") -> dict[str, Any]:
    """A result on documents of 10 tokens and 40 bytes each."""
    rows = [[i, float(value), 10.0, 40.0] for i, value in enumerate(nats)]
    details = {"kind": kind, "by_document": rows}
    about = {"held_out": text, "documents_of": of, "task": "likelihood"}
    return about | {"metrics": {}, "details": details}


def test_the_page_says_which_family_loses_more() -> None:
    own, noise = 27.7 + FIRST, RANDOM.normal(0, 0.2, 12)  # ln 2 * 40 nats are a bit a byte
    ar = texts_of([[recorded("own", "own", own), recorded("typos", "own", own + 6)]])
    both_seeds = [
        [
            recorded("own", "own", own + shift, "bound"),
            recorded("typos", "own", own + shift + 12 + noise, "bound"),
        ]
        for shift in (2.0, 4.0)
    ]
    results = {"ar": ar, "cola": texts_of(both_seeds)}
    labels = {"ar": "AR", "cola": "Cola DLM"}
    table = text_table(results, labels)
    assert table is not None
    assert [row[:2] for row in table.rows] == [
        ["own test text", "AR"],
        ["own test text", "Cola DLM (2 seeds)"],
        ["typos", "AR"],
        ["typos", "Cola DLM (2 seeds)"],
    ]
    shift = 6 / np.log(2) / 40
    assert table.rows[2][4].startswith(f"{shift:+.3f} [")
    grown, compared = text_sentences(results, labels)
    assert grown.startswith("From the study's own test text to `typos`, bits per byte change by: ")
    assert f"AR {shift:+.3f}" in grown
    more = (6 + noise.mean()) / np.log(2) / 40
    assert f"that is {more:+.3f} against their difference" in compared
    assert "not decided" not in compared
    assert text_sentences({"ar": ar}, labels) == [f"{grown.partition(', Cola')[0]}."]


def test_a_family_that_loses_as_much_is_not_told_apart() -> None:
    own, noise = 27.7 + FIRST, RANDOM.normal(0, 0.5, 12)
    results = {
        name: texts_of([[recorded("own", "own", own), recorded("typos", "own", own + 6 + more)]])
        for name, more in (("ar", np.zeros(12)), ("llada", noise - noise.mean()))
    }
    sentences = text_sentences(results, {"ar": "AR", "llada": "LLaDA"})
    assert sentences[-1].endswith("so whether its loss differs is not decided.")
