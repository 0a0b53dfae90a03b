"""A setting over size and budget: exponents, minima of sweeps, a rule that a study takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cola.spec.base import load_yaml
from cola.spec.design import RulesSpec
from tests.unit.analysis.fit_command import fitted, refused, text, written

POWER = ["--law", "power", "--y", "lr"]


def rate(n: float, c: float) -> float:
    return float(1e-3 * (n / 1e8) ** -0.3 * (c / 1e19) ** -0.1)


def places() -> pd.DataFrame:
    rows = [(n, c) for n in (1e7, 1e8, 1e9) for c in (1e18, 1e19, 1e20)]
    frame = pd.DataFrame(rows, columns=["n", "c"])
    return frame.assign(lr=[rate(n, c) for n, c in rows], d=frame["c"] / (6 * frame["n"]))


@pytest.mark.parametrize("over", [["--n", "n", "--flops", "c"], ["--n", "n", "--d", "d"],
                                  ["--d", "d", "--flops", "c"]])  # fmt: skip
def test_the_rule_of_a_study_is_the_law_over_any_two_of_size_tokens_and_compute(
    tmp_path: Path, over: list[str]
) -> None:
    path = written(tmp_path / "t.csv", places())
    file = tmp_path / "rules.yaml"
    options = [*POWER, *over, "--rules", str(file), "--setting", "learning_rate"]
    assert "as a rule of a study" in text(path, *options)
    rules = RulesSpec.parse({"learning_rate": load_yaml(file)["rules.learning_rate"]})
    assert rules.learning_rate is not None
    assert rules.learning_rate.value(3e8, 5e19) == pytest.approx(rate(3e8, 5e19), rel=1e-6)


def test_scatter_gives_intervals_and_an_error_on_rows_left_out(tmp_path: Path) -> None:
    rows = places()
    rows["lr"] *= np.exp(0.1 * np.random.default_rng(3).standard_normal(len(rows)))
    found = fitted(written(tmp_path / "t.csv", rows), *POWER, "--n", "n", "--flops", "c")
    for name, truth in (("p_N", -0.3), ("p_C", -0.1)):
        low, high = found["intervals"][name]
        assert low < truth < high
    design = np.column_stack([np.ones(9), np.log(rows["n"]), np.log(rows["c"])])
    errors = []
    for row in range(9):
        kept = np.arange(9) != row
        theta = np.linalg.lstsq(design[kept], np.log(rows["lr"].to_numpy()[kept]), rcond=None)[0]
        errors.append(abs(np.exp(design[row] @ theta) / rows["lr"][row] - 1))
    assert found["diagnostics"]["left_out_error"] == pytest.approx(np.mean(errors), rel=0.15)


def test_sweeps_give_their_best_settings_and_say_what_they_lack(tmp_path: Path) -> None:
    rows = []
    for n in (1e7, 1e8, 1e9, 1e10):
        best = rate(n, 1e19)
        tried = best * np.geomspace(0.3, 3, 5) * 1.1
        if n == 1e10:
            tried = best * np.array([1.5, 2.0, 4.0])
        rows += [(n, lr, 3 + 0.05 * np.log(lr / best) ** 2) for lr in tried]
    path = written(tmp_path / "t.csv", pd.DataFrame(rows, columns=["n", "lr", "loss"]))
    found = fitted(path, *POWER, "--n", "n", "--loss", "loss")
    assert found["parameters"]["p_N"] == pytest.approx(-0.3, rel=1e-6)
    (reason,) = found["left_out"]
    assert "N = 1e+10 is best at" in reason
    assert any("an end of what was tried" in warning for warning in found["warnings"])


def test_what_no_law_can_be_of_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", places())
    assert "needs --y COLUMN" in refused(path, "--law", "power", "--n", "n")
    assert "needs one or two of --n" in refused(path, *POWER)
    assert "given for both" in refused(path, "--law", "power", "--y", "n", "--n", "n")
    assert "has no effect without --setting" in refused(path, *POWER, "--n", "n", "--rules", "x")
    three = ["--n", "n", "--d", "d", "--flops", "c"]
    assert "leave one out" in refused(path, *POWER, *three)
    line = written(tmp_path / "line.csv", places().iloc[[0, 4, 8]])
    assert "grow together" in refused(line, *POWER, "--n", "n", "--flops", "c")
    same = written(tmp_path / "same.csv", places().iloc[:3])
    assert "the same N" in refused(same, *POWER, "--n", "n")


def test_runs_of_one_place_may_differ_in_compute_as_runs_of_a_budget_do(tmp_path: Path) -> None:
    rows = [
        (c * 1.01**step, rate(1e8, c) * 2.0**step, 3 + 0.05 * (step + 0.3) ** 2)
        for c in (1e18, 1e19, 1e20)
        for step in (-2, -1, 0, 1, 2)
    ]
    path = written(tmp_path / "t.csv", pd.DataFrame(rows, columns=["c", "lr", "loss"]))
    found = fitted(path, *POWER, "--flops", "c", "--loss", "loss")
    assert found["points"] == 3
    assert not found["left_out"]
    assert found["parameters"]["p_C"] == pytest.approx(-0.1, rel=1e-3)
