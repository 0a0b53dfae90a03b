"""`cola fit` by its laws: options, clusters, comparisons, predictions, notes on a misfit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.table_fit.text import multiplied
from tests.unit.analysis import fit_command
from tests.unit.analysis.fit_command import fitted, refused, text
from tests.unit.analysis.profiles.studies import EXPONENT, best_size, loss_at

SIZE = ["--n", "params", "--d", "tokens"]


def grid(noise: float, seed: int = 0, budgets: int = 6) -> pd.DataFrame:
    compute = np.repeat(np.geomspace(1e18, 3e20, budgets), 6)
    n = best_size(compute) * np.tile(np.geomspace(0.25, 4, 6), budgets)
    d = compute / (6 * n)
    loss = loss_at(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": d, "flops": compute, "loss": loss})


def checkpoints(runs: int, steps: int, noise: float = 0.01) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    n = np.repeat(np.geomspace(1.5e7, 1e9, runs), steps)
    d = np.tile(np.geomspace(6e8, 6e10, steps), runs)
    shared = np.repeat(noise * draw.standard_normal(runs), steps)
    own = 0.001 * draw.standard_normal(len(n))
    names = np.repeat([f"run-{i}" for i in range(runs)], steps)
    loss = loss_at(n, d) * np.exp(shared + own)
    return pd.DataFrame({"run": names, "params": n, "tokens": d, "loss": loss})


def written(folder: Path, rows: pd.DataFrame, name: str = "t.csv") -> str:
    return fit_command.written(folder / name, rows)


def width(interval: list[float]) -> float:
    return interval[1] - interval[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--minimum", "akima"], "--minimum: law chinchilla does not read it"),
        (["--law", "isoflop", "--estimator", "huber"], "--estimator: law isoflop does not read"),
        (["--law", "isoflop", "--chance", "0", "--accuracy", "loss"], "--accuracy, --chance: law"),
        (["--chance", "0.25"], "no effect without --accuracy"),
        (["--bootstrap", "0", "--resample", "runs"], "no effect with --bootstrap 0"),
        (["--law", "tied", "--estimator", "variable-projection"], "no linear parameters"),
        (["--predict", "n=1e9"], "give n and d together, or c alone"),
        (["--predict", "n=1e9,d=1e10,c=1e21"], "give n and d together, or c alone"),
        (["--predict", "c=inf"], "positive n, d and c only"),
        (["--predict", "c=1,c=2"], "gives c twice"),
    ],
)
def test_an_option_without_effect_is_refused_by_name(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    path = written(tmp_path, grid(0.002))
    assert reason in refused(path, *SIZE, *options)


def test_defaults_that_a_law_does_not_read_are_no_options(tmp_path: Path) -> None:
    assert fitted(written(tmp_path, grid(0.0)), *SIZE, "--bootstrap", "0")["law"] == "chinchilla"


@pytest.mark.parametrize("steps", [6, 7])
def test_runs_are_drawn_whole_however_many_rows_there_are(tmp_path: Path, steps: int) -> None:
    path = written(tmp_path, checkpoints(8, steps))
    by_run = [*SIZE, "--bootstrap", "200", "--run", "run"]
    default, asked = fitted(path, *by_run), fitted(path, *by_run, "--resample", "runs")
    assert default["intervals"] == asked["intervals"]
    assert default["refits"]["clusters"] == 8
    alone = fitted(path, *SIZE, "--bootstrap", "200")
    assert any("checkpoints of one run" in warning for warning in alone["warnings"])
    assert width(default["intervals"]["alpha"]) > width(alone["intervals"]["alpha"])
    simulated = fitted(path, *by_run, "--resample", "residuals")
    assert width(simulated["intervals"]["alpha"]) > width(alone["intervals"]["alpha"])


def test_seeds_given_as_runs_do_not_narrow_intervals(tmp_path: Path) -> None:
    first, second = grid(0.003, 0, 4), grid(0.003, 1, 4)
    rows = pd.concat([first.assign(seed=0), second.assign(seed=1)])
    path = written(tmp_path, rows)
    by_seed = fitted(path, *SIZE, "--run", "seed", "--bootstrap", "100")
    without = fitted(path, *SIZE, "--bootstrap", "100")
    assert by_seed["intervals"] == without["intervals"]
    assert any("span several sizes" in warning for warning in by_seed["warnings"])


def test_few_runs_simulate_what_their_rows_share(tmp_path: Path) -> None:
    six = written(tmp_path, checkpoints(6, 6))
    found = fitted(six, *SIZE, "--run", "run", "--bootstrap", "100")
    assert found["refits"]["resampled"] == "residuals"
    assert any("6 runs (--run) are too few" in warning for warning in found["warnings"])
    alone = fitted(six, *SIZE, "--bootstrap", "100")
    assert width(found["intervals"]["alpha"]) > 1.5 * width(alone["intervals"]["alpha"])
    four = fitted(written(tmp_path, checkpoints(4, 6)), *SIZE, "--run", "run")
    assert four["intervals"] == {}
    assert any("at least 5 are needed" in warning for warning in four["warnings"])


def test_few_runs_without_sizes_have_no_intervals(tmp_path: Path) -> None:
    flops = np.tile(np.geomspace(1e18, 1e21, 8), 2)
    names = np.repeat(["one", "two"], 8)
    rows = pd.DataFrame({"flops": flops, "loss": 1.8 + (flops / 1e18) ** -0.1, "run": names})
    path = written(tmp_path, rows)
    found = fitted(path, "--flops", "flops", "--run", "run", "--predict", "c=1e22")
    assert found["intervals"] == {}
    assert any("no intervals: --run names 2" in warning for warning in found["warnings"])
    assert found["predictions"][0]["loss"] == pytest.approx(1.8 + 1e4**-0.1, rel=1e-3)


@pytest.mark.parametrize("scatter", [0.0, 0.03, 0.1])
def test_optima_of_budgets_are_refused_with_their_exponents(tmp_path: Path, scatter: float) -> None:
    compute = np.geomspace(1e18, 1e22, 12)
    n = best_size(compute) * np.exp(scatter * np.random.default_rng(2).standard_normal(12))
    loss = loss_at(best_size(compute), compute / (6 * best_size(compute)))
    rows = pd.DataFrame({"params": n, "tokens": compute / (6 * n), "loss": loss})
    path = written(tmp_path, rows)
    for law in ("chinchilla", "tied"):
        message = refused(path, *SIZE, "--law", law)
        assert "grow together" in message
        assert "N ~ C^0.5" in message


def test_equal_tokens_have_a_reason_of_their_own(tmp_path: Path) -> None:
    n = np.geomspace(1e7, 1e10, 8)
    rows = pd.DataFrame({"params": n, "tokens": 3e11, "loss": loss_at(n, 3e11)})
    assert "same tokens" in refused(written(tmp_path, rows), *SIZE)


@pytest.mark.parametrize("law", ["chinchilla", "tied"])
def test_optimal_sizes_at_a_compute(tmp_path: Path, law: str) -> None:
    path = written(tmp_path, grid(0.0005))
    found = fitted(path, *SIZE, "--law", law, "--predict", "c=1e21", "--bootstrap", "100")
    (prediction,) = found["predictions"]
    tolerance = 0.05 if law == "chinchilla" else 0.5
    assert prediction["parameters"] == pytest.approx(best_size(1e21), rel=tolerance)
    assert prediction["parameters"] * prediction["tokens"] == pytest.approx(1e21 / 6)
    expected = loss_at(best_size(1e21), 1e21 / 6 / best_size(1e21))
    assert prediction["loss"] == pytest.approx(expected, rel=0.01)
    low, high = prediction["parameters_interval"]
    assert low < prediction["parameters"] < high
    # No other size predicts less at this compute.
    places = [
        f"n={n:g},d={1e21 / 6 / n:g}" for n in prediction["parameters"] * np.array([0.8, 1.25])
    ]
    around = fitted(
        path,
        *SIZE,
        "--law",
        law,
        "--bootstrap",
        "0",
        "--predict",
        places[0],
        "--predict",
        places[1],
    )
    assert min(p["loss"] for p in around["predictions"]) > prediction["loss"]


def test_sizes_under_a_law_of_compute_need_the_usual_convention(tmp_path: Path) -> None:
    rows = grid(0.001)
    options = [*SIZE, "--flops", "flops", "--law", "compute", "--bootstrap", "0"]
    place = ["--predict", "n=1e9,d=2e10"]
    usual = written(tmp_path, rows)
    assert fitted(usual, *options, *place)["predictions"][0]["extrapolation"] < 1
    other = written(tmp_path, rows.assign(flops=8 * rows["params"] * rows["tokens"]), "other.csv")
    assert "C = 8 N D" in refused(other, *options, *place)


def test_groups_compare_under_the_law_that_was_asked_for(tmp_path: Path) -> None:
    first, second = grid(0.003, 0), grid(0.003, 1)
    times = 1.5  # the second needs so many times less compute for every loss
    second["params"] *= times**-EXPONENT
    second["tokens"] *= times ** (EXPONENT - 1)
    found = {}
    for names in (("x", "y"), ("y", "x")):
        rows = pd.concat([first.assign(family=names[0]), second.assign(family=names[1])])
        path = written(tmp_path, rows)
        result = fitted(path, *SIZE, "--group", "family", "--bootstrap", "200")
        found[names] = result["comparison"]["x / y"]
    low, high = found["x", "y"]["interval"]
    assert low < times < high
    assert high / low < 1.25
    assert found["y", "x"]["multiplier"] == pytest.approx(1 / found["x", "y"]["multiplier"])
    assert found["y", "x"]["interval"] == pytest.approx([1 / high, 1 / low], rel=1e-6)


def test_a_multiplier_below_one_is_more_compute_with_its_ends_turned() -> None:
    found = {"first": "x", "second": "y", "at_loss": 3.0, "multiplier": 0.8}
    said = multiplied(found | {"interval": [0.5, None]}, 0.95)
    assert said == "y needs 1.25 times more compute than x for loss 3 (95% interval ... to 2)"
    said = multiplied(found | {"multiplier": 1.25, "interval": [0.5, 2.0]}, 0.95)
    assert said == "y needs 1.25 times less compute than x for loss 3 (95% interval 0.5 to 2)"


def test_accuracy_follows_the_loss_that_is_printed(tmp_path: Path) -> None:
    rows = grid(0.002)
    middle = float(rows["loss"].median())
    rows["acc"] = 0.25 + 0.6 / (1 + np.exp(4 * (rows["loss"] - middle)))
    path = written(tmp_path, rows)
    options = [*SIZE, "--accuracy", "acc", "--chance", "0.25", "--bootstrap", "50"]
    options += ["--predict", "c=1e22", "--predict", "n=1e9,d=1e11"]
    found = fitted(path, *options)
    for loss, accuracy in zip(found["predictions"], found["accuracy"]["predictions"], strict=True):
        assert accuracy["loss"] == loss["loss"]
        expected = 0.25 + 0.6 / (1 + np.exp(4 * (loss["loss"] - middle)))
        assert accuracy["accuracy"] == pytest.approx(expected, abs=0.01)
    shown = text(path, *options)
    assert "accuracy at c=1e+22" in shown
    assert "accuracy at n=1e+09, d=1e+11" in shown
    assert "N*" in shown


def test_accuracies_in_per_cent_get_a_hint(tmp_path: Path) -> None:
    rows = grid(0.002)
    rows["acc"] = np.linspace(25, 40, len(rows))
    path = written(tmp_path, rows)
    assert "accuracies are fractions" in refused(path, *SIZE, "--accuracy", "acc")
    path = written(tmp_path, rows.assign(acc=rows["acc"] / 100))
    assert "--chance 25" in refused(path, *SIZE, "--accuracy", "acc", "--chance", "25")


@pytest.mark.slow
def test_auto_works_with_three_budgets_and_shows_its_scores(tmp_path: Path) -> None:
    path = written(tmp_path, grid(0.001, budgets=3))
    options = [*SIZE, "--law", "auto", "--bootstrap", "20"]
    assert set(fitted(path, *options)["choice"]["rolling_origin"]) >= {"chinchilla", "tied"}
    assert "mean error on larger budgets" in text(path, *options)
    flops = np.repeat([1e18, 1e19, 1e20], 3)
    draw = np.exp(0.001 * np.random.default_rng(0).standard_normal(9))
    rows = pd.DataFrame({"flops": flops, "loss": 3 * (flops / 1e18) ** -0.05 * draw})
    path = written(tmp_path, rows)
    found = fitted(path, "--flops", "flops", "--law", "auto", "--bootstrap", "20")
    assert found["law"] == "compute-power"
    assert any("untested" in warning for warning in found["warnings"])


@pytest.mark.slow
def test_auto_bins_single_runs_of_spread_compute(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    compute = np.geomspace(1e18, 3.5e20, 60)
    n = best_size(compute) * np.exp(draw.uniform(-1.5, 1.5, 60))
    d = compute / (6 * n)
    loss = loss_at(n, d) * np.exp(0.001 * draw.standard_normal(60))
    path = written(tmp_path, pd.DataFrame({"params": n, "tokens": d, "loss": loss}))
    found = fitted(path, *SIZE, "--law", "auto", "--bootstrap", "20")
    assert found["law"] == "chinchilla"
    assert found["choice"]["rolling_origin"]["chinchilla"]["folds"] >= 4


def test_prediction_intervals_say_how_they_are_built(tmp_path: Path) -> None:
    path = written(tmp_path, grid(0.002))
    options = [*SIZE, "--predict", "n=1e10,d=1e12", "--bootstrap", "100"]
    built = fitted(path, *options)["prediction_intervals"]
    assert built["folds"] == 3
    assert built["widening"] >= 1 + 1.5 / 4
    assert "larger budgets in 3 splits" in text(path, *options)
    path = written(tmp_path, grid(0.002, budgets=2))
    found = fitted(path, *options)
    assert found["prediction_intervals"]["widening"] == 2.5
    assert any("untested" in warning for warning in found["warnings"])


def test_noiseless_data_come_to_rest(tmp_path: Path) -> None:
    for law in ("chinchilla", "compute"):
        rows = grid(0.0)
        if law == "compute":
            rows["loss"] = 1.8 + (rows["flops"] / 1e18) ** -0.15
        path = written(tmp_path, rows)
        found = fitted(path, *SIZE, "--law", law, "--bootstrap", "0")
        assert not any("did not come to rest" in warning for warning in found["warnings"])


def test_a_law_that_does_not_fit_is_named(tmp_path: Path) -> None:
    noisy = written(tmp_path, grid(0.08, 3), "noisy.csv")
    warnings = fitted(noisy, *SIZE, "--bootstrap", "0")["warnings"]
    assert any("the residuals scatter by" in warning for warning in warnings)
    spiked = grid(0.001)
    spiked.loc[7, "loss"] *= 1.1
    found = fitted(written(tmp_path, spiked), *SIZE, "--bootstrap", "0")
    (outlier,) = found["outliers"]
    assert outlier["loss"] == pytest.approx(spiked.loc[7, "loss"])
    assert any("1 of 36 points lie far" in warning for warning in found["warnings"])
    twice = pd.concat([grid(0.0005, seed) for seed in (0, 1)], ignore_index=True)
    twice["loss"] += 0.1 * np.sin(np.log(twice["params"]))  # what no such law follows
    warnings = fitted(written(tmp_path, twice), *SIZE, "--bootstrap", "0")["warnings"]
    assert any("lack of fit" in warning or "scatter by" in warning for warning in warnings)
    right = fitted(written(tmp_path, grid(0.003)), *SIZE, "--bootstrap", "0")["warnings"]
    assert right == []


def test_a_floor_at_the_smallest_loss_is_a_misfit(tmp_path: Path) -> None:
    flops = np.geomspace(1e18, 1e22, 24)
    loss = 2.0 + 0.5 * np.exp(-(np.log(flops / 1e18) ** 2) / 2)  # a level, reached too fast
    loss[22] -= 0.02
    path = written(tmp_path, pd.DataFrame({"flops": flops, "loss": loss}))
    warnings = fitted(path, "--flops", "flops", "--law", "compute", "--bootstrap", "0")["warnings"]
    assert any("E sits on its upper bound" in warning for warning in warnings)


def test_labels_are_text_and_no_markup(tmp_path: Path) -> None:
    rows = pd.concat([grid(0.002, k).assign(family=name) for k, name in enumerate(("[b]", "[/]"))])
    path = written(tmp_path, rows)
    shown = text(path, *SIZE, "--group", "family", "--bootstrap", "20")
    assert "[b]" in shown
    assert "[/]" in shown


def test_variable_projection_fits_groups_too(tmp_path: Path) -> None:
    rows = pd.concat([grid(0.002, k).assign(family=name) for k, name in enumerate("xy")])
    path = written(tmp_path, rows)
    options = ["--group", "family", "--estimator", "variable-projection", "--bootstrap", "10"]
    assert fitted(path, *SIZE, *options)["shared"]["estimator"] == "least-squares"


@pytest.mark.parametrize(
    ("place", "note"),
    [
        ("n=1e13,d=1e7", "times beyond the largest number of parameters"),
        ("n=1e5,d=1e15", "times below the smallest number of parameters"),
        ("c=1e12", "times below the smallest compute"),
        ("c=1e300", "lies 3.33e+279 times beyond the largest compute"),
    ],
)
def test_a_prediction_far_from_the_data_is_noted(tmp_path: Path, place: str, note: str) -> None:
    options = [written(tmp_path, grid(0.002)), *SIZE, "--bootstrap", "0", "--predict"]
    assert any(note in warning for warning in fitted(*options, place)["warnings"])
    assert not any("a prediction" in w for w in fitted(*options, "n=1e9,d=2e10")["warnings"])


def test_a_place_beyond_all_numbers_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, grid(0.002))
    assert "6 N D is beyond" in refused(path, *SIZE, "--predict", "n=1e300,d=1e300")
