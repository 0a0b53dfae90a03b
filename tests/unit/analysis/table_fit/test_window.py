"""`cola fit --from`: small budgets that are left out, by a number or by what predicts best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.analysis.fit_command import fitted, refused, text, written

COMPUTE = np.geomspace(1e17, 1e22, 11)
PLAIN = ["--flops", "c", "--law", "compute", "--bootstrap", "0", "--estimator", "least-squares"]


@pytest.fixture
def bent(tmp_path: Path) -> str:
    """Eleven budgets of two runs; losses of the two smallest lie 4% above the law of the rest."""
    c = np.repeat(COMPUTE, 2)
    noise = np.tile([1.0005, 0.9995], len(COMPUTE))
    loss = (1.7 + 2.0 * (c / 1e18) ** -0.15) * np.where(c < 0.99 * COMPUTE[2], 1.04, 1.0) * noise
    return written(tmp_path / "bent.csv", pd.DataFrame({"c": c, "loss": loss}))


def test_budgets_that_the_law_bends_away_from_are_left_out(bent: str) -> None:
    found = fitted(bent, *PLAIN, "--from", "auto")
    assert found["window"]["from"] == pytest.approx(COMPUTE[2])
    assert found["window"]["rows_left_out"] == 4
    assert found["rows"]["left_out"][0]["lines"] == list(range(2, 6))
    assert found["parameters"]["E"] == pytest.approx(1.7, abs=0.02)
    errors = {each["from"]: each["mean_absolute_error"] for each in found["window"]["tried"]}
    assert errors[found["window"]["from"]] == pytest.approx(0.0005, rel=1e-2)  # the runs' scatter
    assert errors[min(errors)] > 0.005
    whole = fitted(bent, *PLAIN)
    assert abs(whole["parameters"]["E"] - 1.7) > 0.05
    assert "window" not in whole
    assert "intervals take this choice as given" in text(bent, *PLAIN, "--from", "auto")


def test_rows_that_are_held_out_have_no_say(bent: str) -> None:
    rows = pd.read_csv(bent)
    options = [*PLAIN, "--from", "auto", "--hold-out", "1.1e21"]
    expected = fitted(bent, *options)["window"]
    rows.loc[rows["c"] > 1.1e21, "loss"] *= 1.1
    rows.to_csv(bent, index=False)
    found = fitted(bent, *options)
    assert found["window"] == expected
    assert found["held_out"]["signed_error"] < -0.05


def test_a_start_in_flops_is_a_table_without_the_rows_below(bent: str, tmp_path: Path) -> None:
    rows = pd.read_csv(bent)
    part = written(tmp_path / "part.csv", rows[rows["c"] >= 1e19])
    found, expected = fitted(bent, *PLAIN, "--from", "1e19"), fitted(part, *PLAIN)
    assert found["parameters"] == expected["parameters"]
    assert found["points"] == expected["points"] == found["rows"]["used"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--from", "1e9"], "none of the rows have less compute"),
        (["--from", "1e30"], "all of the rows have less compute"),
        (["--from", "low"], "give an amount of compute"),
        (["--from", "auto", "--law", "auto"], "give --law"),
        (["--from", "auto", "--group", "g"], "give a compute"),
        (["--from", "auto", "--hold-out", "1e19"], "that takes 6"),
    ],
)
def test_windows_that_cannot_be_are_refused(bent: str, options: list[str], reason: str) -> None:
    pd.read_csv(bent).assign(g=["x", "y"] * 11).to_csv(bent, index=False)
    assert reason in refused(bent, *PLAIN, *options)
