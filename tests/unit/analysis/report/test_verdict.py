"""The title of a report: one sentence that its numbers decide."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.compare import Multiplier
from analysis.plotting.variants import styles_of
from analysis.report.comparisons import Pair
from analysis.report.family_fits import FamilyFit
from analysis.report.findings import Findings
from analysis.report.tables import Profiles
from analysis.report.verdict import verdict

KINDS = {"ar": "exact", "llada": "bound", "cola": "bound"}
LINES = {"uniform": 7.6, "unigram": 6.2, "bigram": 4.2}


def points(losses: dict[str, list[float]], error: float = 0.01) -> pd.DataFrame:
    """Final points, a budget a loss."""
    rows = [
        {"variant": family, "family": family, "budget": 1e12 * 2**rung, "core_parameters": rung,
         "nll": loss, "nll_standard_error": error, "nll_kind": KINDS[family], "is_final": True}
        for family, values in losses.items()
        for rung, loss in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def said(final: pd.DataFrame, multipliers: dict[tuple[str, str], Multiplier] | None = None) -> str:
    variants = {name: name for name in KINDS if name in set(final["variant"])}
    fits = {name: FamilyFit(name, name, KINDS[name], None, None, ()) for name in variants}
    pairs = [
        Pair(fits[one], fits[other], found, None, pd.DataFrame(), ("",))
        for (one, other), found in (multipliers or {}).items()
    ]
    found = Findings(
        final, "executed", variants, styles_of(variants), LINES, {}, fits, pairs, Profiles(), [],
        cast(Any, None), [],
    )  # fmt: skip
    return verdict(found, final, "test")


def test_the_lowest_loss_is_named_with_what_the_losses_are() -> None:
    final = points({"ar": [5.0, 4.0], "llada": [6.0, 5.5]})
    assert said(final) == (
        "AR has the lowest loss at every shared budget (AR 4.00, LLaDA (bound) 5.50 nats per token "
        "at 2e+12 FLOPs)"
    )


def test_a_lead_at_the_largest_budget_alone_is_no_more_than_that() -> None:
    final = points({"ar": [5.0, 4.5], "cola": [5.5, 4.0]})
    assert said(final).startswith("Cola DLM (bound) has the lowest loss at 2e+12 FLOPs (Cola DLM ")


def test_of_offset_ladders_the_budget_that_most_families_have_counts() -> None:
    final = points({"ar": [4.0], "llada": [5.0, 4.8], "cola": [5.2, 4.9]})
    assert said(final) == (
        "AR has the lowest loss at 1e+12 FLOPs (AR 4.00, LLaDA (bound) 5.00, Cola DLM (bound) 5.20 "
        "nats per token)"
    )


def test_losses_within_their_errors_are_equal() -> None:
    final = points({"ar": [5.0, 4.05], "llada": [5.5, 4.0]}, error=0.1)
    assert said(final) == (
        "LLaDA (bound) and AR are equal within the error of their scores at 2e+12 FLOPs"
    )


@pytest.mark.parametrize(
    ("low", "text"), [(3.0, "and needs 5.00 times less compute than LLaDA (bound)"), (0.8, "")]
)
def test_compute_is_named_where_it_is_decided(low: float, text: str) -> None:
    """The pair is of LLaDA over AR, which needs a fifth."""
    final = points({"ar": [5.0, 4.0], "llada": [6.0, 5.5]})
    found = said(final, {("llada", "ar"): Multiplier(5.0, 5.0, low, 9.0)})
    assert text in found
    assert ("needs" in found) == bool(text)
    inverse = said(final, {("ar", "llada"): Multiplier(5.0, 5.0, low, 9.0).inverse})
    assert inverse == found


def test_runs_that_know_no_more_than_frequencies_give_no_finding() -> None:
    assert said(points({"ar": [7.0, 6.5], "llada": [9.0, 8.0]})).startswith("No run is better than")
    found = said(points({"ar": [5.0, 4.5], "llada": [9.0, 8.0]}))
    assert found == "Only AR is better than token frequencies: the others do not compare yet"


def test_a_single_curve_falls_or_does_not() -> None:
    assert said(points({"ar": [5.0, 4.0]})) == (
        "AR's test loss falls from 5.00 to 4.00 nats per token over 2 times the compute"
    )
    assert "does not fall at every budget" in said(points({"ar": [5.0, 5.1, 4.0]}))
    assert said(points({"cola": [5.0]})) == (
        "Cola DLM's test loss (bound) is 5.00 nats per token at its one budget"
    )


def test_ladders_without_a_budget_in_common_compare_by_compute() -> None:
    final = points({"ar": [5.0, 4.0], "llada": [6.0, 4.5]})
    final.loc[final["variant"] == "llada", "budget"] *= 16
    assert said(final) == "The families have no budget in common"
    found = said(final, {("llada", "ar"): Multiplier(4.7, 20.0, 10.0, 40.0)})
    assert found == "AR needs 20.00 times less compute than LLaDA (bound) for the same loss"


def test_scores_without_an_error_are_compared_as_they_are() -> None:
    assert "has the lowest loss" in said(points({"ar": [5.0, 4.0], "llada": [6.0, 5.5]}, np.nan))
