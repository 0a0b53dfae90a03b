"""`cola fit --law isoflop`: numbers, notes and refusals, as JSON and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.unit.analysis import fit_command
from tests.unit.analysis.fit_command import written
from tests.unit.analysis.profiles.studies import EXPONENT, best_size, loss_at, study

OPTIONS = ["--n", "parameters", "--d", "tokens", "--flops", "compute", "--law", "isoflop"]
FIVE = (1e18, 3e18, 1e19, 3e19, 1e20)


def text(*arguments: str) -> str:
    return fit_command.text(*arguments, *OPTIONS)


def fitted(*arguments: str) -> dict[str, Any]:
    return fit_command.fitted(*arguments, *OPTIONS)


def refused(*arguments: str) -> str:
    return fit_command.refused(*arguments, *OPTIONS)


@pytest.fixture
def table(tmp_path: Path) -> str:
    return written(tmp_path / "t.csv", study(9, budgets=FIVE, spread=8.0, noise=1e-3, seed=1))


@pytest.mark.parametrize("minimum", ["parabola", "akima"])
def test_size_tokens_and_loss_are_predicted_at_a_budget(table: str, minimum: str) -> None:
    found = fitted(table, "--minimum", minimum, "--predict", "c=1e21")
    (prediction,) = found["predictions"]
    n = float(best_size(1e21))
    d = 1e21 / 6 / n
    truth = {"parameters": n, "tokens": d, "loss": float(loss_at(np.array(n), np.array(d)))}
    for name, interval in (
        ("parameters", "parameters_interval"),
        ("tokens", "tokens_interval"),
        ("loss", "confidence_interval"),
    ):
        low, high = prediction[interval]
        assert low < truth[name] < high
        assert prediction[name] == pytest.approx(truth[name], rel=0.25)
    assert prediction["loss_law"] == "compute"
    for end in prediction["near_optimal"]["parameters"]:
        there = float(loss_at(np.array(end), np.array(1e21 / 6 / end)))
        assert 1.001 < there / truth["loss"] < 1.01
    shown = text(table, "--minimum", minimum, "--predict", "c=1e21")
    assert "prediction at c=1e+21: loss 2.2" in shown
    assert "N* " in shown
    assert "D* " in shown
    for optimum in found["diagnostics"]["optima"]:
        assert f"{optimum['parameters']:.4g}" in shown


def test_exponents_have_names_of_their_own(table: str) -> None:
    found = fitted(table)
    assert set(found["parameters"]) == set(found["intervals"]) == {"a", "b", "gamma_total"}
    for name, truth in (("a", EXPONENT), ("b", 1 - EXPONENT)):
        low, high = found["intervals"][name]
        assert low < truth < high


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--accuracy", "loss"], "--accuracy: law isoflop does not read it"),
        (["--chance", "0.25"], "--chance: law isoflop does not read it"),
        (["--estimator", "huber"], "--estimator: law isoflop does not read it"),
        (["--predict", "n=1e9,d=1e10"], "takes c=... (FLOPs) alone"),
        (["--minimum", "akima", "--resample", "runs"], "needs --minimum parabola"),
    ],
)
def test_what_has_no_effect_is_refused(table: str, options: list[str], reason: str) -> None:
    assert reason in refused(table, *options)


@pytest.mark.parametrize("kind", ["runs", "residuals"])
def test_resampling_is_as_asked(table: str, kind: str) -> None:
    found = fitted(table, "--resample", kind)
    assert found["resampling"] == kind
    low, high = found["intervals"]["a"]
    assert low < EXPONENT < high


def test_scattered_compute_needs_the_nominal_budget(tmp_path: Path) -> None:
    rows = study(7, noise=5e-4, used=(0.76, 0.97, 1.2, 0.9, 1.12, 0.83, 1.04))
    path = written(tmp_path / "r.csv", rows)
    assert "name it with --budget" in refused(path)
    found = fitted(path, "--budget", "budget")
    assert found["parameters"]["a"] == pytest.approx(EXPONENT, abs=0.006)
    assert any("C of a budget is its value in the table" in note for note in found["warnings"])
    computes = [optimum["compute"] for optimum in found["diagnostics"]["optima"]]
    assert computes == sorted(set(rows["budget"]))


def test_compute_without_gaps_is_binned_and_that_is_a_note(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    c = 1e18 * 1.04 ** np.arange(300) ** 0.9
    n = best_size(c) * np.exp(draw.uniform(-1, 1, len(c)))
    loss = loss_at(n, c / 6 / n) * np.exp(3e-4 * draw.standard_normal(len(c)))
    rows = pd.DataFrame({"compute": c, "parameters": n, "tokens": c / 6 / n, "loss": loss})
    found = fitted(written(tmp_path / "d.csv", rows))
    assert found["parameters"]["a"] == pytest.approx(EXPONENT, abs=0.02)
    assert any("are bins of at most a factor of 1.2" in note for note in found["warnings"])


def test_profiles_that_carry_little_are_noted(tmp_path: Path) -> None:
    beside = study(9)
    centre = best_size(beside["budget"].to_numpy())
    beside = beside[beside["parameters"] > 0.6 * centre]
    notes = fitted(written(tmp_path / "c.csv", beside))["warnings"]
    assert any("near an end of its sizes" in note for note in notes)
    wide = study(13, spread=4000.0, noise=5e-4)
    notes = fitted(written(tmp_path / "w.csv", wide))["warnings"]
    assert any("parabolas are fitted to the sizes within a factor of" in note for note in notes)


def test_noise_alone_gives_no_note_on_shape(tmp_path: Path) -> None:
    noted = 0
    for seed in range(8):
        path = written(tmp_path / f"{seed}.csv", study(7, noise=0.003, seed=seed))
        noted += len(fitted(path, "--bootstrap", "50")["warnings"])
    assert noted <= 2


def test_seeds_as_runs_are_nested_and_noted(tmp_path: Path) -> None:
    rows = pd.concat([study(5, noise=0.003, seed=s).assign(seed=s) for s in range(3)])
    found = fitted(written(tmp_path / "s.csv", rows), "--run", "seed")
    low, high = found["intervals"]["a"]
    assert low < EXPONENT < high
    assert any("each of its sizes counts as a run" in note for note in found["warnings"])


def test_labels_with_brackets_reach_the_text(tmp_path: Path) -> None:
    rows = study(6, noise=0.003)
    two = pd.concat(
        [rows.assign(family="x[b]"), rows.assign(family="[/red]", loss=0.6 * rows["loss"])]
    )
    shown = text(written(tmp_path / "g.csv", two), "--group", "family", "--bootstrap", "50")
    assert "x[b] needs more than 64 times the compute of [/red]" in shown


def test_equal_losses_have_no_minimum(tmp_path: Path) -> None:
    flat = study(7, budgets=FIVE, spread=8.0).assign(loss=2.5)
    assert "the loss is the same at all sizes" in refused(written(tmp_path / "f.csv", flat))


def test_evaluations_of_one_run_that_are_not_named_are_noted(tmp_path: Path) -> None:
    runs = study(7, budgets=FIVE, spread=8.0, noise=3e-3, seed=1)
    draw = np.random.default_rng(0)
    several = runs.loc[runs.index.repeat(4)].reset_index(drop=True)
    several["run"] = np.repeat(np.arange(len(runs)), 4)
    several["loss"] *= 1 + 1e-4 * draw.standard_normal(len(several))
    path, note = written(tmp_path / "e.csv", several), "evaluations of one run"
    few = ["--bootstrap", "20"]
    assert any(note in warning for warning in fitted(path, *few)["warnings"])
    assert not any(note in warning for warning in fitted(path, *few, "--run", "run")["warnings"])
    seeds = several.assign(loss=several["loss"] * (1 + 3e-3 * draw.standard_normal(len(several))))
    other = fitted(written(tmp_path / "s.csv", seeds), *few)
    assert not any(note in warning for warning in other["warnings"])


def test_a_prediction_far_below_the_budgets_is_noted(table: str) -> None:
    found = fitted(table, "--predict", "c=1e12", "--bootstrap", "0")
    assert any("1e+06 times below the smallest budget" in each for each in found["warnings"])


def test_few_runs_drawn_with_replacement_have_the_remedy(tmp_path: Path) -> None:
    rows = study(6, budgets=FIVE, spread=8.0, noise=3e-3, seed=2)
    found = fitted(written(tmp_path / "r.csv", rows), "--resample", "runs", "--bootstrap", "50")
    assert any("leave --resample runs out" in warning for warning in found["warnings"])
