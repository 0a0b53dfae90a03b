"""Minima of profiles and their growth, against a law whose optima are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.profiles.analysis import isoflop
from analysis.profiles.profile import Method
from analysis.profiles.refits import common_share
from tests.unit.analysis.profiles.studies import BUDGETS, EXPONENT, best_size, loss_at, study

METHODS: tuple[Method, ...] = ("parabola", "akima")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spread", [4.0, 16.0, 300.0])
def test_the_exponent_of_the_law_is_found(method: Method, spread: float) -> None:
    found = isoflop(study(11, spread=spread), method)
    assert found.size is not None
    assert found.tokens is not None
    assert found.size.exponent == pytest.approx(EXPONENT, abs=5e-4)
    assert found.tokens.exponent == pytest.approx(1 - EXPONENT, abs=5e-4)
    for optimum in found.good:
        assert optimum.parameters == pytest.approx(float(best_size(optimum.compute)), rel=0.02)


def test_wide_profiles_are_cut_round_their_minima() -> None:
    whole, wide = isoflop(study(7, noise=0.003)), isoflop(study(13, spread=4000.0, noise=0.001))
    assert whole.window == np.inf
    assert wide.window <= 16
    assert all(optimum.sizes < 13 for optimum in wide.good)
    assert wide.size is not None
    assert wide.size.exponent == pytest.approx(EXPONENT, abs=0.005)


def test_a_drifting_minimum_of_skewed_profiles_does_not_bend_the_exponent() -> None:
    """alpha .6, beta .2: a = .25; the sizes stay while the minimum moves through them."""
    c = np.repeat(np.geomspace(1e18, 1e21, 4), 9)
    n = np.tile(np.geomspace(1.3e7, 8e8, 9), 4)
    d = c / 6 / n
    loss = 1.5 + 7300 / n**0.6 + 60 / d**0.2
    columns = {"budget": c, "compute": c, "parameters": n, "tokens": d, "loss": loss}
    found = isoflop(pd.DataFrame(columns))
    assert found.size is not None
    assert found.size.exponent == pytest.approx(0.25, abs=0.003)


def test_tokens_have_their_own_minimum_where_flops_are_not_six_n_d() -> None:
    rows = study(9)
    # Twice the tokens at the smallest budget, as if its FLOPs were counted otherwise.
    twice = np.where(rows["budget"] == 1e18, 2.0, 1.0)
    found = isoflop(rows.assign(tokens=rows["tokens"] * twice * rows["parameters"] ** 0.1))
    d = [optimum.tokens for optimum in found.good]
    n = best_size(np.array(BUDGETS))
    assert d == pytest.approx(np.array(BUDGETS) / 6 / n * n**0.1 * [2, 1, 1, 1], rel=0.01)


@pytest.mark.parametrize(
    "used",
    [
        (0.76, 0.97, 1.2, 0.9, 1.12, 0.83, 1.04),
        (1.0, 0.8, 1.1, 0.9),
        (0.97,),
        (0.93, 1.0),
        (1.25, 0.85, 1.0),
    ],
)
def test_runs_beside_their_budget_are_carried_to_it(used: tuple[float, ...]) -> None:
    rows = study(7, used=used)
    found = isoflop(rows)
    assert found.size is not None
    assert found.size.exponent == pytest.approx(EXPONENT, abs=2e-3)
    for optimum in found.good:
        assert optimum.compute in BUDGETS  # the nominal budget, not the runs' mean
        size = float(best_size(optimum.compute))
        assert optimum.parameters == pytest.approx(size, rel=0.03)
        best = float(loss_at(np.array(size), np.array(optimum.compute / 6 / size)))
        assert optimum.loss == pytest.approx(best, rel=2e-3)


def test_another_count_of_flops_moves_no_loss() -> None:
    rows = study(7)
    scaled = isoflop(rows.assign(budget=rows["budget"] * 1.5))
    plain = isoflop(rows)
    assert [o.loss for o in scaled.good] == pytest.approx([o.loss for o in plain.good])
    assert [o.compute for o in scaled.good] == [1.5 * o.compute for o in plain.good]


def test_runs_of_very_different_compute_are_no_budget() -> None:
    rows = study(7, used=(0.3, 1.0, 1.2))
    assert {o.trouble for o in isoflop(rows).optima} == {
        "the compute of its runs spans a factor of 4: they are not one budget"
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("apart", [1e-6, 1e-3, 0.015])
def test_sizes_that_coincide_are_one_size(method: Method, apart: float) -> None:
    rows = study(7)
    twin = rows.iloc[2::7].assign(loss=lambda r: r["loss"] * 1.01)
    twin["parameters"] *= 1 + apart
    found = isoflop(pd.concat([rows, twin]), method)
    assert len(found.good) == 4
    assert found.size is not None
    assert found.size.exponent == pytest.approx(EXPONENT, abs=0.03)
    for optimum in found.good:
        assert optimum.loss > 0.99 * rows.loc[rows["budget"] == optimum.compute, "loss"].min()


@pytest.mark.parametrize("method", METHODS)
def test_minima_at_an_edge_and_too_few_sizes_are_named(method: Method) -> None:
    rows = study(9)
    right = rows[rows["parameters"] > 1.2 * best_size(rows["budget"].to_numpy())]
    assert all("edge of the profile" in str(o.trouble) for o in isoflop(right, method).optima)
    few = rows[np.arange(len(rows)) % 3 == 0]
    assert all("a profile needs 4" in str(o.trouble) for o in isoflop(few, method).optima)


def test_an_interpolant_far_below_the_measured_losses_is_no_minimum() -> None:
    rows = study(7)
    # 5% apart, and 20% in loss: noise that an interpolant continues to the next size.
    twin = rows.iloc[3::7].assign(loss=lambda r: 0.8 * r["loss"])
    twin["parameters"] *= 1.05
    troubles = [o.trouble for o in isoflop(pd.concat([rows, twin]), "akima").optima]
    assert all(t is None or "far below" in t for t in troubles)
    good = isoflop(pd.concat([rows, twin]), "akima").good
    assert all(o.loss > 1.5 for o in good)


def test_evaluations_of_a_run_count_once() -> None:
    rows = study(6, noise=0.003).assign(run=lambda r: [f"r{i}" for i in range(len(r))])
    again = pd.concat([rows, *([rows.iloc[::5]] * 6)])
    for one, other in zip(isoflop(again).optima, isoflop(rows).optima, strict=True):
        assert one.runs == other.runs == 6
        assert one.parameters == pytest.approx(other.parameters)


def test_noise_that_budgets_share_through_their_runs_is_recognised() -> None:
    sizes = np.geomspace(2e7, 1.2e9, 9)
    c = np.repeat(BUDGETS, 9)
    n = np.tile(sizes, 4)
    draw = np.random.default_rng(3)
    for share in (0.0, 1.0):
        of_run, own = np.tile(draw.standard_normal(9), 4), draw.standard_normal(36)
        noise = 0.003 * (np.sqrt(share) * of_run + np.sqrt(1 - share) * own)
        columns = {"budget": c, "compute": c, "parameters": n, "tokens": c / 6 / n}
        rows = pd.DataFrame(columns | {"run": np.tile([f"r{i}" for i in range(9)], 4)})
        rows["loss"] = loss_at(n, c / 6 / n) * np.exp(noise)
        assert common_share(isoflop(rows).windowed) == pytest.approx(share, abs=0.45)


@pytest.mark.parametrize("method", METHODS)
def test_sizes_are_found_where_tokens_tell_nothing(method: Method) -> None:
    found = isoflop(study(7).assign(tokens=1e9), method)
    assert found.size is not None
    assert found.size.exponent == pytest.approx(EXPONENT, abs=1e-3)
    assert found.tokens is None
