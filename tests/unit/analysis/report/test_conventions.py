"""The same runs by every way to count compute."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.floors.choice import FloorChoice
from analysis.report.comparisons import compare_pairs
from analysis.report.conventions import convention_rows, convention_sentences, conventions_of
from analysis.report.family_fits import fit_families
from cola.families.registry import IMPORTED

EXPONENT = 0.05
OWN = FloorChoice(None, "each has its own", None)


def runs_of(variant: str, delay: float, nominal: float) -> pd.DataFrame:
    """A power law in executed FLOPs, of which `nominal` is the nominal share; all parameters and
    tokens grow so that 6 N D ~ C^1.25."""
    budget = np.geomspace(1e15, 1e17, 4)
    noise = np.array([1, -1, 1, -1]) * 1e-3
    return pd.DataFrame({
        "variant": variant, "family": variant, "nll_kind": "exact", "budget": budget, "seed": 0,
        "train_flops_executed": budget, "train_flops_nominal": nominal * budget,
        "core_parameters": budget**0.5, "total_parameters": budget**0.75, "tokens": budget**0.5,
        "nll": 3 * (budget / delay / 1e16) ** -EXPONENT * np.exp(noise),
    })  # fmt: skip


def test_exponents_and_multipliers_follow_from_the_count() -> None:
    """Twice the nominal share is half the multiplier; C^1.25 is an exponent 1.25 times less."""
    rows = pd.concat([runs_of("ar", 1, 0.4), runs_of("llada", 4, 0.8)])
    fits = fit_families(rows, rows, "executed")
    found = conventions_of(
        rows, fits, compare_pairs(fits, rows, "executed"), compute="executed", floor=OWN
    )
    assert [(each.name, each.own) for each in found] == [
        ("executed", True), ("nominal", False), ("total", False),
    ]  # fmt: skip
    ratios = [each.pairs[0].multiplier.value for each in found]
    assert ratios[0] == pytest.approx(1 / 4, rel=0.02)
    assert ratios[1] == pytest.approx(ratios[0] / 2, rel=1e-6)
    gammas = {
        each.name: fit.fit.parameters["gamma"] for each in found for fit in [each.fits["llada"]]
        if fit.fit is not None
    }  # fmt: skip
    assert gammas["nominal"] == pytest.approx(gammas["executed"], rel=1e-6)
    assert gammas["total"] == pytest.approx(gammas["executed"] / 1.25, rel=1e-3)
    table = convention_rows(found)
    assert [row["variant"] for row in table] == ["ar"] * 3 + ["llada"] * 3
    assert [row["convention"].endswith("(the study's)") for row in table] == [
        True,
        False,
        False,
    ] * 2
    assert all(row["held_out"].endswith("%") and "to" in row["interval"] for row in table)
    said = convention_sentences(found)
    start = "By nominal FLOPs: 6 N D of blocks and head: LLaDA against AR: 7.94 times more compute"
    assert said[0].startswith(start)


def test_counts_that_say_the_same_or_nothing_are_left_out() -> None:
    rows = runs_of("ar", 1, 1.0).assign(total_parameters=0)  # imported, without sizes
    fits = fit_families(rows, rows, "nominal")
    assert conventions_of(rows, fits, [], compute="nominal", floor=OWN) == []


def test_imported_runs_keep_the_counts_of_their_project() -> None:
    rows = runs_of("theirs", 1, 0.4).assign(family=IMPORTED, train_flops_executed=np.nan)
    fits = fit_families(rows, rows, "nominal")
    found = conventions_of(rows, fits, [], compute="nominal", floor=OWN)
    assert [each.label for each in found] == ["FLOPs as imported", "6 N D of the imported sizes"]
    assert convention_rows(found)[0]["convention"] == "FLOPs as imported (the study's)"
