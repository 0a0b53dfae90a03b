"""The same runs by every way to count compute and parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.floors.choice import FloorChoice
from analysis.report.comparisons import compare_pairs
from analysis.report.conventions import (
    convention_rows,
    convention_sentences,
    convention_table,
    conventions_of,
)
from analysis.report.family_fits import fit_families
from cola.families.registry import IMPORTED
from tests.unit.analysis.table_fit.test_conventions import runs

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
        "core_parameters": budget**0.5, "head_parameters": np.nan, "tokens": budget**0.5,
        "total_parameters": budget**0.75,
        "nll": 3 * (budget / delay / 1e16) ** -EXPONENT * np.exp(noise),
    })  # fmt: skip


def test_exponents_and_multipliers_follow_from_the_count() -> None:
    """Twice the nominal share is half the multiplier; C^1.25 is an exponent 1.25 times less."""
    rows = pd.concat([runs_of("ar", 1, 0.4), runs_of("llada", 4, 0.8)])
    fits = fit_families(rows, rows, "executed")
    conventions = conventions_of(
        rows, fits, compare_pairs(fits, rows, "executed"), compute="executed", floor=OWN
    )
    found = conventions.of_compute
    assert [(each.name, each.own) for each in found] == [
        ("executed", True), ("nominal", False), ("core", False), ("total", False),
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
    table = convention_rows(conventions)
    assert [row["variant"] for row in table] == ["ar"] * 4 + ["llada"] * 4
    own = [row["convention"].endswith("(the study's)") for row in table]
    assert own == [True, False, False, False] * 2
    for row in table:
        assert row["gamma_low"] < row["gamma"] < row["gamma_high"]
        assert 0 < row["held_out_error"] < 0.01
    said = convention_sentences(conventions, {"ar": "AR", "llada": "LLaDA"})
    start = "By nominal FLOPs: 6 N D of blocks and head: LLaDA against AR: 7.94 times more compute"
    assert said[0].startswith(start)


def test_counts_that_say_the_same_or_nothing_are_left_out() -> None:
    rows = runs_of("ar", 1, 1.0).assign(total_parameters=0)  # imported, without sizes
    fits = fit_families(rows, rows, "nominal")
    found = conventions_of(rows, fits, [], compute="nominal", floor=OWN)
    assert [each.name for each in found.of_compute] == ["nominal", "core"]
    rows = rows.assign(core_parameters=0)
    assert conventions_of(rows, fits, [], compute="nominal", floor=OWN).of_compute == []


def test_imported_runs_keep_the_counts_of_their_project() -> None:
    rows = runs_of("theirs", 1, 0.4).assign(family=IMPORTED, train_flops_executed=np.nan)
    rows["total_parameters"] = rows["core_parameters"]  # as imports have it
    fits = fit_families(rows, rows, "nominal")
    found = conventions_of(rows, fits, [], compute="nominal", floor=OWN)
    labels = [each.label for each in found.of_compute]
    assert labels == ["FLOPs as imported", "6 N D of the imported sizes"]
    assert convention_rows(found)[0]["convention"] == "C: FLOPs as imported (the study's)"


def test_several_sizes_a_budget_are_counted_in_every_way() -> None:
    """The losses follow all parameters, of which core and head are a share that grows."""
    table = runs().rename(columns={"flops": "train_flops_executed", "loss": "nll", "d": "tokens"})
    rows = table.assign(
        variant="ar", family="ar", nll_kind="exact", seed=0, budget=table["train_flops_executed"],
        train_flops_nominal=np.nan, core_parameters=table["core"],
        head_parameters=(table["total"] - table["core"]) / 2, total_parameters=table["total"],
    )  # fmt: skip
    fits = fit_families(rows, rows, "executed")
    found = conventions_of(rows, fits, [], compute="executed", floor=OWN)
    sized = [row for row in convention_rows(found) if row["law"] == "chinchilla"]
    counts = ["core parameters", "core parameters and head", "all parameters"]
    assert [row["convention"] for row in sized] == [f"N: {count}" for count in counts]
    errors = [row["held_out_error"] for row in sized]
    assert errors[2] < errors[1] < errors[0]
    true = found.of_sizes["ar"]["chinchilla"]["conventions"][2]
    assert true["intervals"]["a"][0] < 0.37 / 0.71 < true["intervals"]["a"][1]
    profiles = [row for row in convention_rows(found) if row["law"] == "isoflop"]
    assert len(profiles) == 3
    assert all(0.5 < row["next_size_ratio"] < 2 for row in profiles)
    page = convention_table(found, {"ar": "AR"})
    assert page is not None
    texts = [" ".join(row) for row in page.rows]
    assert any("of the whole loss" in text and "N* x" in text for text in texts)
    assert any("the best size grows as C^" in each for each in convention_sentences(
        found, {"ar": "AR"}
    ))  # fmt: skip
