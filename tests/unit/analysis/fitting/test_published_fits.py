"""Against published scaling data: the same optimum, intervals, held-out error and comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.cross_validation import Choice, Fold, Score, best_window, choose
from analysis.fitting.estimate import fit_law
from analysis.fitting.isoflop import compare_isoflop
from analysis.fitting.power_law import chinchilla_law
from analysis.fitting.solver import minimise
from analysis.fitting.table import Table, inputs, read_table
from analysis.tables.columns import Columns
from tests.paths import DATA

SCALING = DATA / "scaling"
# Optima of the sum of Huber(1e-3) of log residuals: without the 5 largest losses, and of all.
KEPT = {"A": 477.826, "B": 2143.417, "E": 1.817218, "alpha": 0.347310, "beta": 0.367172}
WHOLE = {"A": 495.726, "B": 12845.6, "E": 1.89134, "alpha": 0.34931, "beta": 0.45305}
# Besiroglu et al. 2024 (arXiv 2404.10102): estimates and 95% intervals.
REPLICATION = {"A": 482.006, "B": 2085.434, "E": 1.81686, "alpha": 0.34781, "beta": 0.36585}
INTERVALS = {
    "A": (285, 744),
    "B": (1042, 5810),
    "E": (1.769, 1.871),
    "alpha": (0.3168, 0.3733),
    "beta": (0.3313, 0.4154),
}


def chinchilla(drop: int = 5) -> Table:
    return read_table(SCALING / "chinchilla.csv", Columns(n="params", compute="flops"), drop)


@pytest.mark.parametrize(("drop", "expected"), [(5, KEPT), (0, WHOLE)])
def test_the_optimum_to_four_digits(drop: int, expected: dict[str, float]) -> None:
    fit = fit_law("chinchilla", inputs(chinchilla(drop).rows))
    for name, value in expected.items():
        assert fit.parameters[name] == pytest.approx(value, rel=1e-4)
    if drop:
        assert fit.diagnostics.objective == pytest.approx(1.01827e-3, rel=1e-4)


@pytest.mark.slow
def test_random_starts_reach_it() -> None:
    points = inputs(chinchilla().rows)
    law = chinchilla_law(points)
    theta = law.starts(points, 400, np.random.default_rng(7))
    for delta in (np.inf, 1e-3):
        found = minimise(law, points, theta, delta=delta)
        theta = found.theta
    assert (found.objective <= found.objective.min() * (1 + 1e-6)).mean() >= 0.95


@pytest.mark.slow
def test_the_published_protocol_has_the_published_intervals() -> None:
    fit = fit_law("chinchilla", inputs(chinchilla().rows), "huber-density", starts=8)
    for name, value in REPLICATION.items():
        assert fit.parameters[name] == pytest.approx(value, rel=1e-3)
    found = bootstrap(fit, 1000, 0).intervals()
    for name, interval in INTERVALS.items():
        assert found[name] == pytest.approx(interval, rel=0.06), name


@pytest.mark.slow
def test_the_exponent_of_the_optimal_size_has_the_published_error() -> None:
    fit = fit_law("chinchilla", inputs(chinchilla().rows))
    refits = bootstrap(fit, 500, 0)
    a = refits.public[:, 4] / (refits.public[:, 3] + refits.public[:, 4])
    assert a.std() == pytest.approx(0.0200, rel=0.1)


def test_held_out_error_beyond_1e21() -> None:
    rows = chinchilla().rows
    small = rows["compute"] < 1e21
    held_out = inputs(rows[~small])
    errors = {}
    for law in ("chinchilla", "tied", "outer", "equal"):
        fit = fit_law(law, inputs(rows[small]), starts=16)
        errors[law] = float(np.abs(fit.loss(held_out) / held_out.loss - 1).mean())
    assert errors["chinchilla"] == pytest.approx(0.0105, abs=5e-5)
    assert errors["tied"] == pytest.approx(0.0075, abs=5e-5)
    assert max(errors["outer"], errors["equal"]) < 0.0095 < errors["chinchilla"]


def test_without_the_smallest_budgets_larger_ones_are_predicted_better() -> None:
    rows = chinchilla().rows
    small = rows[rows["compute"] < 1e21]
    held_out = inputs(rows[rows["compute"] >= 1e21])
    kept = small[small["compute"] >= best_window("tied", small).start]
    fit = fit_law("tied", inputs(kept), starts=16)
    assert np.abs(fit.loss(held_out) / held_out.loss - 1).mean() == pytest.approx(0.0059, abs=1e-4)


def test_no_law_of_compute_alone_can_predict_runs_of_many_sizes() -> None:
    rows = chinchilla().rows
    held_out = inputs(rows[rows["compute"] >= 1e21])
    for law, least in (("compute", 0.0108), ("compute-power", 0.0113), ("tied", 0.0019)):
        fit = fit_law(law, held_out, "huber-density", starts=8)  # to the held-out runs themselves
        error = np.abs(fit.loss(held_out) / held_out.loss - 1).mean()
        assert error == pytest.approx(least, abs=1e-4), law


def test_the_law_is_chosen_by_what_it_predicts() -> None:
    rows = chinchilla().rows
    # Eight budgets by compute, as the data have no names for theirs.
    rows = rows.assign(budget=pd.qcut(np.log(rows["compute"]), 8, labels=False).astype(float))
    choice = choose(["chinchilla", "tied"], rows)
    assert {score.law for score in choice.scores} == {"chinchilla", "tied"}
    errors = [score.mean_absolute_error for score in choice.scores]
    assert errors == sorted(errors)
    assert errors[0] < 0.02


def test_the_usual_law_stays_unless_another_is_clearly_better() -> None:
    def score(law: str, *errors: float) -> Score:
        return Score(law, tuple(Fold(i, np.array([e, -e]), None) for i, e in enumerate(errors)))

    usual, even = score("chinchilla", 0.010, 0.011, 0.012), score("tied", 0.005, 0.006, 0.0065)
    assert Choice((even, usual), None, None).instead_of("chinchilla") == "tied"
    uneven = score("tied", 0.002, 0.013, 0.011)  # better by 1.1 standard errors of its splits
    assert Choice((uneven, usual), None, None).instead_of("chinchilla") == "chinchilla"
    two = [replace(each, folds=each.folds[:2]) for each in (even, usual)]
    assert Choice(tuple(two), None, None).instead_of("chinchilla") == "chinchilla"
    assert Choice((even,), None, None).instead_of("chinchilla") == "tied"  # cannot be tested


def test_a_law_that_leaves_one_split_does_not_take_the_others_theirs() -> None:
    """Eight budgets: a broken power law needs seven of them."""
    compute = np.geomspace(1e16, 1e20, 8)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(8)
    loss = (1.5 + (compute / 1e18) ** -0.2) * np.exp(noise)
    rows = pd.DataFrame({"compute": compute, "loss": loss, "budget": compute})
    choice = choose(["compute", "compute-power", "broken"], rows, "least-squares", bands=False)
    assert choice.unjudged == ("broken",)
    assert [len(score.folds) for score in choice.scores] == [4, 4]
    assert choice.instead_of("compute-power") == choice.best == "compute"
    assert choose(["broken"], rows, "least-squares", bands=False).best == "broken"


@pytest.mark.slow
def test_two_families_compare_as_published() -> None:
    table = read_table(
        SCALING / "two_families.csv",
        Columns(n="params", d="tokens", compute="flops", group="family", budget="budget"),
    )
    found = compare_isoflop(table.groups(), 2000, 0)
    expected = {
        "llama": (0.5693, 0.527, 0.612),
        "mlstm_v1": (0.5660, 0.541, 0.584),
        "difference": (0.0033, -0.043, 0.053),
        "multiplier": (2.58, 2.44, 2.74),
    }
    for name, (estimate, low, high) in expected.items():
        near = (high - low) / 10
        assert found[name]["estimate"] == pytest.approx(estimate, abs=near)
        assert found[name]["interval"] == pytest.approx((low, high), abs=near)
