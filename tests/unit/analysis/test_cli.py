"""`cola fit` on tables: JSON with all it promises, and a clear message for what is degenerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.cli import app
from analysis.fitting.table import read_table
from analysis.tables.columns import Columns
from tests.unit.analysis.fit_command import fitted, refused, text, written

GRID = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
SIZES, TOKENS = (axis.ravel() for axis in GRID)
LOSS = 1.7 + 400 / SIZES**0.34 + 2000 / TOKENS**0.37


def table(path: Path, **columns: Any) -> str:
    return written(path, pd.DataFrame(columns))


def noisy(seed: int) -> np.ndarray:
    return np.asarray(LOSS * np.exp(0.003 * np.random.default_rng(seed).standard_normal(len(LOSS))))


def test_the_json_has_law_parameters_intervals_diagnostics_warnings(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", params=SIZES, tokens=TOKENS, loss=noisy(0))
    found = fitted(
        path, "--n", "params", "--d", "tokens", "--bootstrap", "200", "--predict", "n=1e10,d=1e12"
    )
    assert found["law"] == found["choice"]["usual"] == found["choice"]["taken"] == "chinchilla"
    assert set(found["choice"]["rolling_origin"]) == {"chinchilla", "tied", "outer"}
    assert set(found["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert set(found["intervals"]) == set(found["parameters"])
    for name, (low, high) in found["intervals"].items():
        assert low < found["parameters"][name] < high
    assert found["diagnostics"]["agreeing_starts"] > 0.5
    (prediction,) = found["predictions"]
    truth = 1.7 + 400 / 1e10**0.34 + 2000 / 1e12**0.37
    low, high = prediction["prediction_interval"]
    assert low < truth < high
    assert prediction["extrapolation"] == pytest.approx(1e10 * 1e12 / (1e9 * 1e11))
    assert any("100 times beyond" in warning for warning in found["warnings"])
    again = fitted(path, "--n", "params", "--d", "tokens", "--bootstrap", "200")
    assert again["intervals"] == found["intervals"]  # seeded


def test_intervals_are_of_the_level_that_is_asked_for(tmp_path: Path) -> None:
    runs = table(tmp_path / "a.csv", params=SIZES, tokens=TOKENS, loss=noisy(0))
    flops = np.geomspace(1e18, 1e22, 8)
    best = {"c": flops, "n": 1e8 * (flops / 1e18) ** 0.5 * np.exp(0.05 * (-1.0) ** np.arange(8))}
    optima = table(tmp_path / "o.csv", **best, loss=3 * (flops / 1e20) ** -0.05)
    gates = table(tmp_path / "g.csv", c=np.tile(flops, 2), arm=np.repeat(["x", "y"], 8),
                  loss=1 + np.tile(best["n"], 2) ** -0.1 * np.repeat([1.0, 0.9], 8))  # fmt: skip
    for name, arguments in (
        ("alpha", [runs, "--n", "params", "--d", "tokens", "--bootstrap", "60",
                   "--law", "chinchilla"]),
        ("a", [optima, "--n", "n", "--flops", "c", "--law", "optima", "--bootstrap", "20"]),
        (None, [gates, "--flops", "c", "--group", "arm", "--speedup", "--pin", "E=1"]),
    ):  # fmt: skip
        wide, narrow = (fitted(*arguments, *more) for more in ([], ["--level", "0.8"]))
        ends = [each["intervals"][name] if name else each["interval"] for each in (wide, narrow)]
        assert ends[0][0] < ends[1][0] < ends[1][1] < ends[0][1], name
        assert (wide["level"], narrow["level"]) == (0.95, 0.8)
    assert "80% interval" in text(optima, "--n", "n", "--flops", "c", "--law",
                                  "optima", "--level", "0.8")  # fmt: skip
    refusal = refused(runs, "--n", "params", "--d", "tokens", "--level", "0.8", "--bootstrap", "0")
    assert "--level: has no effect with --bootstrap 0" in refusal


def test_groups_are_fitted_apart_and_compared(tmp_path: Path) -> None:
    flops = np.tile(np.geomspace(1e18, 1e22, 6), 2)
    family = np.repeat(["x", "y"], 6)
    # y reaches every loss with a third of x's compute.
    loss = 3.0 * (np.where(family == "y", 3, 1) * flops / 1e20) ** -0.05
    path = table(tmp_path / "b.csv", flops=flops, loss=loss, family=family)
    found = fitted(
        path, "--flops", "flops", "--group", "family", "--law", "compute-power",
        "--bootstrap", "100",
    )  # fmt: skip
    assert found["parameters"]["x"]["gamma"] == pytest.approx(0.05, rel=1e-3)
    assert found["comparison"]["x / y"]["multiplier"] == pytest.approx(3.0, rel=1e-2)
    assert found["shared"]["parameters"]["gamma"] == pytest.approx(0.05, rel=1e-3)


def test_without_refits_there_are_no_intervals(tmp_path: Path) -> None:
    budgets, sizes = np.repeat([1e18, 4e18], 6), np.tile(np.geomspace(1e7, 1e9, 6), 2)
    loss = 3 + 0.05 * np.log(sizes / 1e8) ** 2 + 0.2 * (budgets == 1e18)
    columns = {"n": np.tile(sizes, 2), "c": np.tile(budgets, 2), "loss": np.tile(loss, 2)}
    path = table(tmp_path / "i.csv", **columns, family=np.repeat(["x", "y"], 12))
    options = ["--n", "n", "--flops", "c", "--group", "family", "--bootstrap", "0"]
    found = fitted(path, *options, "--law", "isoflop")
    assert found["intervals"]["x"]["a"] == []
    assert found["comparison"]["x / y"]["difference"]["interval"] == [None, None]
    assert found["comparison"]["x / y"]["difference"]["estimate"] == pytest.approx(0, abs=1e-9)


def test_families_without_overlap_have_a_bound(tmp_path: Path) -> None:
    flops = np.tile(np.geomspace(1e18, 1e20, 5), 2)
    family = np.repeat(["x", "y"], 5)
    loss = np.where(family == "y", 3.0, 9.0) * (flops / 1e20) ** -0.02
    options = ["--flops", "flops", "--group", "family", "--law", "compute-power"]
    for better, names in (("y", family), ("a", np.where(family == "y", "a", "x"))):
        path = table(tmp_path / f"{better}.csv", flops=flops, loss=loss, family=names)
        found = fitted(path, *options, "--bootstrap", "20")
        ((_, pair),) = found["comparison"].items()
        assert pair["multiplier"] is None
        # At 1e20 the worse family still has not what the better one has at 1e18.
        expected = [100.0, None] if better == "y" else [0.0, 0.01]
        assert pair["interval"] == [e if e is None else pytest.approx(e) for e in expected]
        assert any("do not overlap" in warning for warning in found["warnings"])
        assert "needs at least 100 times less compute than" in text(path, *options)


@pytest.mark.slow
def test_the_law_is_chosen_where_asked(tmp_path: Path) -> None:
    flops = np.repeat(np.geomspace(1e16, 1e22, 9), 2)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(flops)))
    path = table(tmp_path / "d.csv", flops=flops, loss=(1.5 + (flops / 1e18) ** -0.2) * noise)
    found = fitted(path, "--flops", "flops", "--law", "auto", "--bootstrap", "50")
    assert found["law"] in ("compute", "broken")  # not the law without a floor
    ranked = found["choice"]["rolling_origin"]
    assert ranked[found["law"]]["mean_absolute_error"] == min(
        each["mean_absolute_error"] for each in ranked.values()
    )
    assert set(found["choice"]["leave_one_budget_out"]) == set(ranked)
    assert found["seed_noise"]["degrees_of_freedom"] == 9


def test_exact_duplicates_count_once(tmp_path: Path) -> None:
    once = table(tmp_path / "e.csv", n=SIZES, d=TOKENS, loss=noisy(1))
    twice = table(
        tmp_path / "f.csv", n=np.tile(SIZES, 2), d=np.tile(TOKENS, 2), loss=np.tile(noisy(1), 2)
    )
    options = ["--n", "n", "--d", "d", "--bootstrap", "0"]
    first, second = fitted(once, *options), fitted(twice, *options)
    assert first["parameters"] == second["parameters"]
    assert any("25 rows are exact duplicates" in warning for warning in second["warnings"])


def test_rows_that_are_left_out_are_in_the_text_and_the_json(tmp_path: Path) -> None:
    path = table(tmp_path / "k.csv", n=SIZES, d=TOKENS, loss=[np.nan, *noisy(1)[1:]])
    options = ["--n", "n", "--d", "d", "--bootstrap", "0"]
    found = fitted(path, *options)
    assert found["points"] == 24
    assert found["rows"] == {
        "in_file": 25,
        "used": 24,
        "left_out": [{"reason": "column 'loss' holds no number", "lines": [2]}],
    }
    shown = text(path, *options)
    assert "1 row is left out: column 'loss' holds no number (line 2)" in shown


def test_groups_have_all_rows_whatever_their_labels(tmp_path: Path) -> None:
    labels = np.repeat(["None", "[/red]", ":smile:"], 25)
    columns = {"n": np.tile(SIZES, 3), "d": np.tile(TOKENS, 3)}
    losses = np.concatenate([noisy(seed) for seed in range(3)])
    path = table(tmp_path / "l.csv", **columns, loss=losses, kind=labels)
    options = ["--n", "n", "--d", "d", "--group", "kind", "--bootstrap", "0"]
    found = fitted(path, *options)
    assert {name: each["points"] for name, each in found["groups"].items()} == {
        "None": 25, "[/red]": 25, ":smile:": 25,
    }  # fmt: skip
    shown = text(path, *options)
    assert all(label in shown for label in labels)


def test_repeated_seeds_of_equal_losses_are_measurements(tmp_path: Path) -> None:
    # Losses rounded to two digits, as in a paper's table: many seeds agree exactly.
    losses = np.concatenate([np.round(noisy(seed), 2) for seed in range(3)])
    columns = {"n": np.tile(SIZES, 3), "d": np.tile(TOKENS, 3)}
    path = table(tmp_path / "m.csv", **columns, loss=losses, seed=np.repeat([0, 1, 2], 25))
    found = fitted(path, "--n", "n", "--d", "d", "--bootstrap", "0")
    logs = np.log(losses.reshape(3, 25))
    assert found["points"] == 75
    assert found["seed_noise"]["degrees_of_freedom"] == 50
    assert found["seed_noise"]["sd_of_log_loss"] == pytest.approx(
        np.sqrt(logs.var(0, ddof=1).mean())
    )


def test_budgets_are_amounts_of_compute_or_labels(tmp_path: Path) -> None:
    sizes, compute = np.tile(np.geomspace(1e8, 1e9, 3), 2), np.repeat([1e19, 1e20], 3)
    columns = {"n": sizes, "c": compute, "loss": np.linspace(4, 3, 6)}
    for budget, expected, notes in (
        (np.repeat([1.1e19, 1.1e20], 3), [1.1e19, 1.1e20], 0),
        (np.repeat([1.1e10, 1.1e11], 3), [1e19, 1e20], 1),
        (np.repeat(["small", "007"], 3), [1e19, 1e20], 1),
        (np.repeat([0, 1], 3), [1e19, 1e20], 1),
    ):
        path = table(tmp_path / "n.csv", **columns, b=budget)
        found = read_table(Path(path), Columns(n="n", compute="c", budget="b"))
        assert found.rows["budget"].unique() == pytest.approx(expected)
        assert sum("labels of budgets" in note for note in found.notes) == notes


def test_two_labels_of_one_compute_are_two_budgets(tmp_path: Path) -> None:
    columns = {"c": [1e19] * 4, "loss": [4.0, 3.9, 3.8, 3.7], "b": ["x", "x", "y", "y"]}
    path = table(tmp_path / "o.csv", **columns)
    found = read_table(Path(path), Columns(compute="c", budget="b"))
    assert found.rows.groupby("budget").size().tolist() == [2, 2]


def test_the_accuracy_rests_on_the_rows_that_have_one(tmp_path: Path) -> None:
    flops = np.geomspace(1e18, 1e22, 24)
    loss = 3.0 * (flops / 1e20) ** -0.05
    accuracy = np.where(np.arange(24) % 3 == 0, 0.25 + 0.6 / (1 + np.exp(4 * (loss - 3))), np.nan)
    path = table(tmp_path / "p.csv", c=flops, loss=loss, right=accuracy)
    found = fitted(
        path, "--flops", "c", "--accuracy", "right", "--chance", "0.25", "--law", "compute-power",
        "--bootstrap", "0",
    )  # fmt: skip
    assert (found["points"], found["accuracy"]["points"]) == (24, 8)
    assert found["accuracy"]["parameters"]["ceiling"] == pytest.approx(0.85, abs=1e-3)
    assert any("8 rows are used" in warning for warning in found["warnings"])


def test_what_is_degenerate_is_refused_with_a_reason(tmp_path: Path) -> None:
    size = ["--n", "n", "--d", "d"]
    three = table(tmp_path / "1.csv", n=SIZES[:3], d=TOKENS[:3], loss=LOSS[:3])
    assert "needs at least 6 different pairs" in refused(three, *size)
    single = table(tmp_path / "2.csv", c=[1e18] * 8, loss=np.linspace(3, 2, 8))
    assert "different amounts of compute, the data have 1" in refused(
        single, "--flops", "c", "--law", "compute"
    )
    broken = table(tmp_path / "3.csv", n=SIZES, d=TOKENS, loss=[-1.0, *LOSS[1:]])
    assert "line 2, column 'loss': '-1.0' is not positive" in refused(broken, *size)
    rising = table(tmp_path / "4.csv", c=np.geomspace(1e18, 1e20, 6), loss=np.linspace(2, 3, 6))
    assert "does not fall with compute" in refused(rising, "--flops", "c", "--law", "compute")
    up = table(tmp_path / "5.csv", n=SIZES, d=TOKENS, loss=LOSS[::-1])
    assert "falls neither with parameters nor with tokens" in refused(up, *size)
    assert "has no column 'tokens'" in refused(three, "--n", "n", "--d", "tokens")
    assert "write it as n=1e9,d=2e10" in refused(three, *size, "--predict", "n:1")
    assert "cannot be read" not in refused(three, *size)
    assert "there is no such file" in refused(str(tmp_path / "absent.csv"), *size)


@pytest.mark.parametrize(
    ("option", "value"), [("law", "chincilla"), ("estimator", "hubris"), ("minimum", "valley")]
)
def test_an_unknown_choice_is_refused_with_all_that_there_are(
    option: str, value: str, tmp_path: Path
) -> None:
    path = table(tmp_path / "t.csv", n=SIZES, d=TOKENS, loss=LOSS)
    result = CliRunner().invoke(
        app, ["fit", path, f"--{option}", value], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    assert result.exit_code == 2
    line = next(line for line in result.output.splitlines() if "Invalid value" in line)
    assert f"'--{option}'" in line
    assert f"'{value}' is not one of '" in line


def test_profiles_without_a_minimum_are_no_result(tmp_path: Path) -> None:
    sizes, budgets = np.tile(np.geomspace(1e7, 1e9, 6), 2), np.repeat([1e18, 1e19], 6)
    concave = 3 - 0.05 * (np.log(sizes / 1e8)) ** 2 + 0.3 * (budgets == 1e18)
    edge = 3 + 0.05 * np.log(sizes) + 0.001 * np.log(sizes) ** 2 + 0.3 * (budgets == 1e18)
    for name, loss, reason in (("6", concave, "not convex"), ("7", edge, "edge of the profile")):
        path = table(tmp_path / f"{name}.csv", n=sizes, c=budgets, budget=budgets, loss=loss)
        columns = ["--n", "n", "--flops", "c", "--budget", "budget"]
        assert reason in refused(path, *columns, "--law", "isoflop")


def test_accuracy_follows_from_compute_through_the_loss(tmp_path: Path) -> None:
    flops = np.geomspace(1e18, 1e22, 40)
    noise = np.random.default_rng(0).standard_normal((2, len(flops)))
    loss = 3.0 * (flops / 1e20) ** -0.05 * np.exp(0.003 * noise[0])
    accuracy = 0.25 + 0.6 / (1 + np.exp(4 * (loss - 3.0))) + 0.01 * noise[1]
    path = table(tmp_path / "g.csv", c=flops, loss=loss, right=accuracy)
    found = fitted(
        path, "--flops", "c", "--accuracy", "right", "--chance", "0.25", "--law", "compute-power",
        "--predict", "c=1e23", "--bootstrap", "200",
    )["accuracy"]  # fmt: skip
    for name, value in (("ceiling", 0.85), ("slope", 4.0), ("middle", 3.0)):
        low, high = found["intervals"][name]
        assert low < found["parameters"][name] < high
        assert found["parameters"][name] == pytest.approx(value, rel=0.15)
    (prediction,) = found["predictions"]
    truth = 0.25 + 0.6 / (1 + np.exp(4 * (3.0 * 1e3**-0.05 - 3.0)))
    assert prediction["low"] <= truth <= prediction["high"]
    falling = table(tmp_path / "h.csv", c=flops, loss=loss, right=accuracy[::-1])
    assert "does not rise as loss falls" in refused(
        falling, "--flops", "c", "--accuracy", "right", "--law", "compute-power"
    )


def test_duplicates_are_equal_in_value_and_labels_in_spelling(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text("n,d,loss\n1e7,2e8,2.5\n2e7,4e8,2.4\n10000000.0,2.00E+8,2.50\n1e7,2e8,2.51\n")
    found = read_table(path, Columns("loss", "n", "d"))
    assert found.rows["line"].tolist() == [2, 3, 5]
    assert "1 row is an exact duplicate of others and counts once (line 4)" in found.notes[0]
    path.write_text("n,d,loss,run\n1e7,2e8,2.5,01\n1e7,2e8,2.5,1\n")
    assert len(read_table(path, Columns("loss", "n", "d", run="run")).rows) == 2


@pytest.mark.parametrize("value", [1e200, 1e-200])
def test_a_product_beyond_all_numbers_is_refused_with_its_line(
    tmp_path: Path, value: float
) -> None:
    sizes, tokens = SIZES.copy(), TOKENS.copy()
    sizes[3] = tokens[3] = value
    path = table(tmp_path / "o.csv", n=sizes, d=tokens, loss=LOSS)
    assert "line 5: 6 N D is beyond what a number holds" in refused(path, "--n", "n", "--d", "d")


def test_no_group_vanishes_with_its_largest_losses(tmp_path: Path) -> None:
    labels = np.array(["big"] * 22 + ["small"] * 3)
    path = table(tmp_path / "g.csv", n=SIZES, d=TOKENS, loss=noisy(0), g=labels)
    options = [path, "--n", "n", "--d", "d", "--group", "g", "--drop-largest-losses", "3"]
    assert "nothing is left of" in refused(*options)
    assert "group 'small'" in refused(*options)


def test_a_chance_above_all_accuracies_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", n=SIZES, d=TOKENS, loss=LOSS, acc=0.8 - 0.1 * LOSS)
    options = [path, "--n", "n", "--d", "d", "--accuracy", "acc", "--bootstrap", "0"]
    assert "--chance 0.9: no accuracy is above it" in refused(*options, "--chance", "0.9")
