"""One change against a baseline: known speed-ups, coverage of the interval, lack of fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.regressions.speedup import speedup
from tests.unit.analysis.fit_command import fitted, refused, text, written

OPTIONS = ["--speedup", "--flops", "c", "--group", "arm", "--pin", "E=1.7"]


def arms(times: float, gates: int = 3, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Losses 1.7 + K C^-0.12; the second arm needs so many times less compute."""
    draw = np.random.default_rng(seed)
    compute = np.geomspace(1e18, 1e20, gates)
    frames = []
    for arm, factor in (("base", 1.0), ("change", times)):
        above = 1.6 * (compute * factor / 1e18) ** -0.12
        above = above * np.exp(noise * draw.standard_normal(gates))
        frames.append(pd.DataFrame({"arm": arm, "c": compute, "l": 1.7 + above}))
    return pd.concat(frames, ignore_index=True).rename(columns={"l": "loss"})


def test_a_known_speedup_is_found_in_compute_and_in_time(tmp_path: Path) -> None:
    rows = arms(1.4)
    rows["tps"] = np.where(rows["arm"] == "change", 45.0, 50.0)
    path = written(tmp_path / "t.csv", rows)
    found = fitted(path, *OPTIONS, "--throughput", "tps")
    assert found["speedup"] == pytest.approx(1.4)
    assert found["gamma"] == pytest.approx(0.12)
    assert [gate["speedup"] for gate in found["gates"]] == pytest.approx([1.4] * 3)
    assert found["speedup_in_time"] == pytest.approx(1.4 * 0.9)
    assert "1.4 times less compute" in text(path, *OPTIONS)
    reverse = fitted(path, *OPTIONS, "--baseline", "change")
    assert reverse["speedup"] == pytest.approx(1 / 1.4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held, unbounded = [], 0
    for seed in range(150):
        rows = arms(1.2, 3, 0.02, seed).rename(columns={"arm": "group", "c": "compute"})
        interval = speedup(rows.assign(line=range(2, 8)), 1.7)["interval"]
        unbounded += not interval
        held += [interval[0] <= 1.2 <= interval[1]] if interval else []
    assert unbounded < 3
    assert 0.9 < np.mean(held) < 0.99


def test_lack_of_fit_is_tested_and_named(tmp_path: Path) -> None:
    rows = arms(1.3, 4, 0.001)
    crossing = rows["arm"] == "change"
    rows.loc[crossing, "loss"] = 1.7 + 1.5 * (rows.loc[crossing, "c"] / 1e18) ** -0.2
    found = fitted(written(tmp_path / "t.csv", rows), *OPTIONS)
    assert found["lack_of_fit"]["parallel"] < 1e-3
    assert any("depends on compute" in warning for warning in found["warnings"])
    other_floor = arms(1.3, 4, 0.001).assign(loss=lambda r: r["loss"] + 0.5)
    bent = fitted(written(tmp_path / "b.csv", other_floor), *OPTIONS)
    assert any("the floor E does not suit" in warning for warning in bent["warnings"])
    two = fitted(written(tmp_path / "two.csv", arms(1.3, 2)), *OPTIONS)
    assert two["degrees_of_freedom"] == 1
    assert two["lack_of_fit"]["parallel"] is None
    assert any("not tested" in warning for warning in two["warnings"])


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", arms(1.3))
    assert "needs --pin E=VALUE" in refused(path, *OPTIONS[:-2])
    assert "needs --group" in refused(path, "--speedup", "--flops", "c", "--pin", "E=1")
    assert "which is not above it" in refused(path, *OPTIONS[:-1], "E=3")
    assert "takes E=VALUE alone" in refused(path, *OPTIONS[:-1], "alpha=0.3")
    assert "--law: --speedup does not read it" in refused(path, *OPTIONS, "--law", "tied")
    assert "the groups are base and change" in refused(path, *OPTIONS, "--baseline", "x")
    one = written(tmp_path / "one.csv", arms(1.3).iloc[:4])
    assert "at 1 amount of compute" in refused(one, *OPTIONS)
    assert "has no effect without --speedup" in refused(path, "--flops", "c", "--throughput", "c")


def test_throughput_counts_tokens_where_tokens_are_given(tmp_path: Path) -> None:
    rows = arms(1.3)
    rows["n"] = np.where(rows["arm"] == "change", 2e8, 1e8) * np.sqrt(rows["c"] / 1e18)
    rows["d"], rows["rate"] = rows["c"] / (6 * rows["n"]), 3e14
    path = written(tmp_path / "t.csv", rows)
    flops = fitted(path, *OPTIONS, "--n", "n", "--throughput", "rate")
    assert flops["throughput_unit"] == "FLOPs a second"
    assert flops["throughput_ratio"] == pytest.approx(1)
    tokens = fitted(path, *OPTIONS, "--d", "d", "--throughput", "rate")
    assert tokens["throughput_unit"] == "tokens a second"
    assert tokens["throughput_ratio"] == pytest.approx(2)


def test_a_gate_is_the_mean_of_its_runs(tmp_path: Path) -> None:
    rows = arms(1.3)
    seeds = pd.concat([rows, rows.assign(c=rows["c"] * 1.01, loss=rows["loss"] + 1e-3)])
    gates = fitted(written(tmp_path / "t.csv", seeds), *OPTIONS)["gates"]
    assert [gate["runs"] for gate in gates] == [2, 2, 2]
    assert [gate["speedup"] for gate in gates] == pytest.approx([1.3] * 3, rel=1e-2)


def test_a_change_that_needs_more_compute_is_said_to_need_more(tmp_path: Path) -> None:
    rows = arms(1 / 1.25, noise=1e-3)
    path = written(tmp_path / "t.csv", rows)
    found, said = fitted(path, *OPTIONS), text(path, *OPTIONS)
    low, high = (1 / end for end in reversed(found["interval"]))
    assert f"{1 / found['speedup']:.4g} times more compute ({low:.4g} to {high:.4g})" in said
    assert "times less" not in said
