"""Conventions of parameters and compute side by side, shared parameters and their test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.analysis.fit_command import fitted, refused, text, written


def runs(noise: float = 0.001) -> pd.DataFrame:
    """Losses that follow all parameters; those without embeddings grow faster."""
    compute = np.repeat(np.geomspace(1e18, 3e20, 5), 5)
    total = 4e8 * (compute / 1e20) ** 0.5 * np.tile(np.geomspace(0.25, 4, 5), 5)
    d = compute / (6 * total)
    draw = np.random.default_rng(0).standard_normal(len(total))
    loss = (1.8 + 400 / total**0.34 + 2000 / d**0.37) * np.exp(noise * draw)
    core = total * (1 - 0.5 * (total / total.min()) ** -0.3)
    return pd.DataFrame(
        {"core": core, "total": total, "d": d, "loss": loss, "flops": compute,
         "nominal": 6 * core * d}
    )  # fmt: skip


def test_exponents_by_convention_are_judged_on_the_same_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    options = ["--n", "core", "--n", "total", "--d", "d", "--bootstrap", "0"]
    found = fitted(path, *options)
    core, total = found["conventions"]
    assert total["exponents"]["alpha"] == pytest.approx(0.34, rel=0.05)
    assert core["exponents"]["alpha"] < total["exponents"]["alpha"]
    assert core["held_out"]["points"] == total["held_out"]["points"]
    assert core["held_out"]["mean_absolute_error"] > total["held_out"]["mean_absolute_error"]
    assert found["spread"]["all"]["a"] == sorted([core["exponents"]["a"], total["exponents"]["a"]])
    alone = fitted(path, "--n", "total", "--d", "d", "--bootstrap", "0")
    assert total["parameters"] == alone["parameters"]


def test_what_a_law_does_not_tell_apart_is_said_and_fitted_once(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    both = ["--flops", "flops", "--flops", "nominal", "--bootstrap", "0"]
    sized = fitted(path, "--n", "core", "--n", "total", "--d", "d", *both)
    assert len(sized["conventions"]) == 2
    assert any("reads N and D alone" in warning for warning in sized["warnings"])
    profiles = fitted(path, "--n", "core", "--n", "total", *both, "--law", "isoflop")
    fitted_ones = [row for row in profiles["conventions"] if "exponents" in row]
    assert len(profiles["conventions"]) == 4
    (a,) = (r["exponents"]["a"] for r in fitted_ones if (r["n"], r["flops"]) == ("total", "flops"))
    assert a == pytest.approx(0.37 / 0.71, abs=0.03)


def test_rows_without_a_convention_count_for_none(tmp_path: Path) -> None:
    rows = runs()
    rows.loc[3, "core"] = np.nan
    path = written(tmp_path / "t.csv", rows)
    shown = text(path, "--n", "core", "--n", "total", "--d", "d", "--bootstrap", "0")
    assert "line 5: left out" in shown
    assert "a is 0." in shown


def test_options_of_one_convention_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    both = ["--n", "core", "--n", "total", "--d", "d"]
    assert "names a column twice" in refused(path, "--n", "core", "--n", "core", "--d", "d")
    assert "takes one convention" in refused(path, *both, "--predict", "c=1e21")
    assert "takes one convention" in refused(path, *both, "--law", "optima")


@pytest.mark.parametrize(("floors", "rejected"), [((1.8, 1.8), False), ((1.8, 1.5), True)])
def test_sharing_is_rejected_where_it_does_not_hold(
    tmp_path: Path, floors: tuple[float, float], *, rejected: bool
) -> None:
    first = runs().assign(family="x")
    second = runs().sample(frac=1, random_state=1).assign(family="y")
    draw = 1 + 0.001 * np.random.default_rng(5).standard_normal(len(second))
    second["loss"] = (floors[1] + 500 / second["total"] ** 0.34 + 2500 / second["d"] ** 0.37) * draw
    path = written(tmp_path / "t.csv", pd.concat([first, second]))
    options = ["--n", "total", "--d", "d", "--group", "family", "--bootstrap", "0"]
    found = fitted(path, *options, "--share", "E")
    test = found["shared"]["test"]
    assert test["degrees_of_freedom"] == [1, 40]
    assert test["rejected"] is rejected
    assert found["comparison_from"] == "shared"
    assert any("rely on the groups' own fits" in w for w in found["warnings"]) is rejected
    if not rejected:
        assert "having them in common is not" in text(path, *options, "--share", "E")
        pinned = fitted(path, *options, "--pin", "E=1.8", "--pin", "alpha=0.34")
        for group in pinned["groups"].values():
            assert group["pinned"] == pytest.approx({"E": 1.8, "alpha": 0.34})
            assert group["parameters"]["beta"] == pytest.approx(0.37, rel=0.05)
    assert "law chinchilla has E, alpha, beta" in refused(path, *options, "--share", "gamma")
    assert "has no effect without --group" in refused(path, *options[:4], "--share", "E")
