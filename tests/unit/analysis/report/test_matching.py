"""What a report says of budgets: which each curve has, and where curves pair."""

from __future__ import annotations

import pandas as pd

from analysis.conditions.matching import matching_statements

BUDGETS = (1e12, 2e12, 4e12, 8e12)


def frame() -> pd.DataFrame:
    """Finished runs of AR and Cola DLM at four budgets, as `read_study` has them."""
    rows = [
        {
            "run_id": f"{variant}-{rung}",
            "name": f"{variant}-{rung}",
            "variant": variant,
            "family": variant,
            "rung": rung,
            "status": "finished",
            "retry": 0,
            "compute": "executed",
            "unit": "flops",
            "budget": budget,
            "amount": budget,
            "data_order": {"1": "a"},
            "training": {},
            "core_parameters": 200_000 + rung,
            "total_parameters": 300_000,
            "tokens": 1000.0,
            "train_flops_executed": 0.99 * budget,
            "train_flops_nominal": 0.8 * budget,
        }
        for rung, budget in enumerate(BUDGETS)
        for variant in ("ar", "cola")
    ]
    return pd.DataFrame(rows)


def test_one_ladder_is_described_without_its_budgets() -> None:
    said = matching_statements(frame())
    assert not any("Budgets differ" in text or "pair at" in text for text in said)
    assert any(text.startswith("Parameters: at every rung") for text in said)


def test_multiples_of_a_ladder_are_listed_with_what_they_share() -> None:
    runs = frame()
    runs.loc[runs["variant"] == "cola", ["budget", "amount"]] *= 4
    said = matching_statements(runs)
    assert (
        "Budgets differ between families (executed FLOPs): AR 1e+12, 2e+12, 4e+12, 8e+12; Cola DLM "
        "4e+12, 8e+12, 1.6e+13, 3.2e+13 (4 times)."
    ) in said
    assert "AR and Cola DLM pair at 4e+12, 8e+12 executed FLOPs." in said
    assert any(text.startswith("Parameters: at every rung") for text in said)


def test_sizes_of_unequal_ladders_are_compared_at_equal_budgets_alone() -> None:
    runs = frame()
    own = runs["variant"] == "cola"
    runs.loc[own, "amount"] = [4e12, 1e13, 2e13, 3e13]
    runs.loc[own & (runs["rung"] == 0), "core_parameters"] = 2 * 200_002
    said = matching_statements(runs)
    (found,) = [text for text in said if text.startswith("Parameters:")]
    assert (
        "at every budget that several have the families' core parameters lie within 100.0%" in found
    )
    runs.loc[own, "amount"] = [1e14, 2e14, 4e14, 9e14]
    assert any("without a budget in common" in text for text in matching_statements(runs))


def test_sizes_at_one_budget_are_compared_by_their_order() -> None:
    """Two sizes at a budget in both families: the smaller with the smaller."""
    runs = frame()
    runs = runs[runs["rung"] < 2].copy()
    runs["amount"] = 1e12
    runs.loc[runs["rung"] == 1, "core_parameters"] *= 4
    extra = runs[(runs["variant"] == "cola") & (runs["rung"] == 0)].assign(rung=2, amount=9e12)
    (found,) = [
        text
        for text in matching_statements(pd.concat([runs, extra]))
        if text.startswith("Parameters:")
    ]
    assert "core parameters lie within 0.0%" in found


def test_one_rung_in_common_shows_no_ladder() -> None:
    """Of unequal ladders that have only begun, nothing is paired by the place in them."""
    runs = frame()
    runs = runs[runs["rung"] == 0].copy()
    runs.loc[runs["variant"] == "cola", "amount"] = 3e12
    assert any("without a budget in common" in text for text in matching_statements(runs))
