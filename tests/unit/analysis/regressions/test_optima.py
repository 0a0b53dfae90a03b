"""Tables of optima: published exponents, intervals, what is no such table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.analysis.fit_command import fitted, refused, text, written

FLOPS = [1e18, 2e18, 5e18, 1e19]
# nanochat's log of 2026-01-27 (github.com/karpathy/nanochat, dev/LOG.md): N*, D* and bits per byte
# at four budgets by three ways to count parameters, and the exponents that it states.
NANOCHAT = {
    "all but embeddings": (
        [110_678_115, 167_797_457, 250_650_865, 381_758_347],
        [1_241_505_403, 1_785_336_422, 2_642_234_152, 3_806_871_243],
        [0.8972, 0.8616, 0.8293, 0.7999],
        (0.54, 0.49),
    ),
    "all": (
        [416_320_605, 560_239_841, 741_495_903, 988_644_331],
        [1_232_157_011, 1_763_669_281, 2_629_909_368, 3_884_841_895],
        [0.8974, 0.8616, 0.8291, 0.7999],
        (0.37, 0.50),
    ),
    "transformer": (
        [80_259_665, 131_488_566, 220_985_474, 401_213_504],
        [1_315_639_547, 1_864_134_141, 2_595_328_843, 3_328_704_512],
        [0.8966, 0.8622, 0.8302, 0.7994],
        (0.70, 0.41),
    ),
}
COLUMNS = ["--law", "optima", "--n", "n", "--d", "d", "--flops", "c", "--loss", "l"]


def nanochat() -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"style": style, "c": FLOPS, "n": n, "d": d, "l": loss})
        for style, (n, d, loss, _) in NANOCHAT.items()
    )


def test_published_optima_give_their_exponents_by_every_convention(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", nanochat())
    groups = fitted(path, *COLUMNS, "--group", "style", "--bootstrap", "0")["groups"]
    for style, (n, d, _, published) in NANOCHAT.items():
        found = groups[style]
        for name, values, stated in zip("ab", (n, d), published, strict=True):
            slope = np.polyfit(np.log(FLOPS), np.log(values), 1)[0]
            assert found["parameters"][name] == pytest.approx(slope, rel=1e-9)
            ends = np.log(values[-1] / values[0]) / np.log(10)
            assert found["end_points"][name] == pytest.approx(ends, rel=1e-9)
            assert ends == pytest.approx(stated, abs=0.01)
            low, high = found["intervals"][name]
            assert low < stated < high


def test_a_noisy_frontier_is_recovered_within_its_intervals(tmp_path: Path) -> None:
    compute, draw = np.geomspace(1e18, 1e22, 10), np.random.default_rng(0)
    n = 3e8 * (compute / 1e19) ** 0.54 * np.exp(0.05 * draw.standard_normal(10))
    loss = (1.8 + 1.2 * (compute / 1e19) ** -0.16) * np.exp(0.001 * draw.standard_normal(10))
    path = written(tmp_path / "t.csv", pd.DataFrame({"c": compute, "n": n, "l": loss}))
    options = ["--law", "optima", "--n", "n", "--flops", "c", "--loss", "l", "--bootstrap", "100"]
    found = fitted(path, *options, "--predict", "c=1e23")
    assert found["intervals"]["a"][0] < 0.54 < found["intervals"]["a"][1]
    assert found["parameters"]["b"] == pytest.approx(1 - found["parameters"]["a"])
    assert found["loss_curve"]["parameters"]["gamma"] == pytest.approx(0.16, rel=0.1)
    (predicted,) = found["predictions"]
    low, high = predicted["parameters_interval"]
    assert low < 3e8 * 1e4**0.54 < high
    assert predicted["loss"] == pytest.approx(1.8 + 1.2 * 1e4**-0.16, rel=0.01)
    assert "between the first and the last budget alone" in text(path, *options)


def test_what_is_no_table_of_optima_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", nanochat())
    assert "optima have one row a budget" in refused(path, *COLUMNS)
    two = written(tmp_path / "two.csv", nanochat().iloc[:2])
    assert "2 budgets have no intervals" in refused(two, *COLUMNS)
    four = written(tmp_path / "four.csv", nanochat().iloc[:4])
    assert "takes c=..." in refused(four, *COLUMNS, "--predict", "n=1e9,d=1e10")
    assert "--estimator: law optima does not read it" in refused(
        four, *COLUMNS, "--estimator", "huber"
    )


def test_that_groups_are_not_compared_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", nanochat())
    warnings = fitted(path, *COLUMNS, "--group", "style", "--bootstrap", "0")["warnings"]
    assert any("groups are not compared" in warning for warning in warnings)
