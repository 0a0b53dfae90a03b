"""Resampled IsoFLOP analyses, and two families against each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.isoflop import bootstrap_isoflop, compare_isoflop
from analysis.fitting.table import read_table
from analysis.profiles.analysis import isoflop
from analysis.profiles.profile import Method
from analysis.tables.columns import Columns
from tests.benchmarks.isoflop_coverage import simulate
from tests.paths import DATA
from tests.unit.analysis.profiles.studies import BUDGETS, EXPONENT, loss_at, study


@pytest.mark.parametrize("sizes", [4, 5, 8])
@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_intervals_exist_from_four_sizes_on(sizes: int, method: Method) -> None:
    analysis = isoflop(study(sizes, noise=0.003, seed=2), method)
    refits = bootstrap_isoflop(analysis, 400, 0)
    assert refits is not None
    low, high = percentiles(refits.exponent())
    assert low < EXPONENT < high
    assert high - low < (0.1 if method == "parabola" else 0.5)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    found = simulate(5, 4, 50, refits=200)
    assert found["none"] == 0
    assert all(found[name] >= 0.86 for name in ("size", "tokens", "loss", "N*")), found
    assert found["width"] < 1.5


def test_without_a_run_to_spare_there_are_no_refits() -> None:
    rows = study(4, budgets=BUDGETS[:2])
    assert bootstrap_isoflop(isoflop(rows), 0, 0) is None
    assert bootstrap_isoflop(isoflop(rows[rows["budget"] == 1e18]), 100, 0) is None


def test_evaluations_by_run_widen_the_intervals() -> None:
    rows = study(7, noise=0.003)
    noise = np.random.default_rng(1).standard_normal((4, len(rows)))
    again = pd.concat([rows.assign(loss=rows["loss"] * np.exp(2e-4 * each)) for each in noise])
    labels = np.tile([f"r{i}" for i in range(len(rows))], 4)
    widths = []
    for table in (again, again.assign(run=labels)):
        refits = bootstrap_isoflop(isoflop(table), 400, 0)
        assert refits is not None
        widths.append(float(np.diff(percentiles(refits.exponent()))[0]))
    assert widths[1] > 1.8 * widths[0]


def two_families(swapped: bool = False, levels: float = 1.0) -> Mapping[str, pd.DataFrame]:
    """The second learns as if it had 2.5 times the parameters; `levels` scales its loss."""
    one, other = study(7, noise=0.001), study(7, noise=0.001, seed=1)
    n, d = other["parameters"].to_numpy(), other["tokens"].to_numpy()
    noise = other["loss"] / loss_at(n, d)
    other = other.assign(loss=loss_at(2.5 * n, d) * noise * levels)
    names = ("b", "a") if swapped else ("a", "b")
    return dict(sorted(zip(names, (one, other), strict=True)))


def test_a_multiplier_does_not_depend_on_the_names() -> None:
    plain, swapped = (compare_isoflop(two_families(s), 300, 0)["multiplier"] for s in (False, True))
    assert plain["estimate"] == pytest.approx(2.5, rel=0.05)
    low, high = plain["interval"]
    assert low < 2.5 < high
    assert {k: plain[k] for k in ("estimate", "interval", "at_loss")} == {
        k: swapped[k] for k in ("estimate", "interval", "at_loss")
    }
    assert (plain["more"], plain["less"]) == (swapped["less"], swapped["more"]) == ("a", "b")


@pytest.mark.parametrize("swapped", [False, True])
def test_losses_that_do_not_overlap_bound_the_multiplier(swapped: bool) -> None:
    found = compare_isoflop(two_families(swapped, levels=0.6), 100, 0)["multiplier"]
    assert np.isnan(found["estimate"])
    assert found["more_than"] == pytest.approx(BUDGETS[-1] / BUDGETS[0])
    assert "needs more than 64 times the compute of" in found["meaning"]


def test_the_tokens_exponent_of_published_runs_is_their_own_fit() -> None:
    scaling = DATA / "scaling" / "two_families.csv"
    columns = Columns(n="params", d="tokens", compute="flops", group="family", budget="budget")
    rows = read_table(scaling, columns).groups()["llama"]
    found = isoflop(rows)
    assert found.tokens is not None
    assert found.tokens.exponent == pytest.approx(0.4325, abs=5e-4)  # Beck et al. 2025
    assert [optimum.compute for optimum in found.good] == [6e18, 1e19, 3e19]
