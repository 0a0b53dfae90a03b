"""Multipliers by loss and by accuracy of families whose true ones are known, and their ratio."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from analysis.metric_report.content import Panel, panel
from analysis.metric_report.measurements import Measurements
from analysis.metric_report.mismatch import Mismatch, mismatches
from analysis.metric_report.quantities import quantity
from cola.records import Metric

ITEMS = 20_000
BUDGETS = np.geomspace(1e18, 1e21, 6)


@pytest.fixture(autouse=True)
def few_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for rough intervals, in a fifth of the time."""
    monkeypatch.setattr("analysis.metric_report.curves.SAMPLES", 200)
    monkeypatch.setattr("analysis.report.family_fits.SAMPLES", 200)


def loss(compute: float) -> float:
    return 1.5 + 2.0 * (compute / 1e18) ** -0.15


def accuracy(compute: float) -> float:
    return 1 / (1 + (compute / 1e20) ** -0.5)


def panels_of(by_loss: dict[str, float], by_accuracy: dict[str, float]) -> tuple[Panel, Panel]:
    """Both quantities of families that need so many times the compute of the law for each."""
    generator = np.random.default_rng(1)
    rows = pd.DataFrame(
        [
            {"run_id": f"{family}-{budget:.0e}", "name": f"{family}-{budget:.0e}", "seed": 66,
             "family": family, "variant": family, "budget": budget, "nll_kind": "exact",
             "train_flops_executed": budget, "tokens": 1e9, "core_parameters": 10**6,
             "compute": "executed", "is_final": True}
            for family in by_loss
            for budget in BUDGETS
        ]
    )  # fmt: skip
    counts = pd.Series(True, index=rows["run_id"])
    made = []
    for key, law, slower in (
        (Metric.NLL, loss, by_loss),
        (Metric.accuracy("mmlu"), accuracy, by_accuracy),
    ):
        found = quantity(key)
        assert found is not None
        exact = np.array(
            [law(c / slower[f]) for c, f in zip(rows["budget"], rows["family"], strict=True)]
        )
        if found.range is None:
            value = exact * np.exp(0.002 * generator.standard_normal(len(rows)))
            beside = {"error": 0.002 * value, "chance": math.nan, "items": math.nan}
        else:
            value = generator.binomial(ITEMS, exact) / ITEMS
            beside = {"error": math.nan, "chance": 0.0, "items": float(ITEMS)}
        measured = Measurements(found, rows.assign(value=value, **beside), ())
        made.append(panel(measured, counts, "executed"))
    return made[0], made[1]


def of(found: list[Mismatch]) -> dict[str, Mismatch]:
    return {f"{each.one}/{each.other}": each for each in found}


def test_a_family_that_writes_better_than_it_predicts_is_found() -> None:
    both = panels_of({"ar": 1, "llada": 4, "cola": 40}, {"ar": 1, "llada": 4, "cola": 10})
    found = of(mismatches(both))
    assert set(found) == {"llada/ar", "cola/ar", "cola/llada"}
    truth = {"llada/ar": 1.0, "cola/ar": 4.0, "cola/llada": 4.0}
    for pair, ratio in truth.items():
        assert found[pair].value == pytest.approx(ratio, rel=0.4)
        assert found[pair].low < ratio < found[pair].high
    assert not found["llada/ar"].decided
    assert "does not decide whether the two disagree" in found["llada/ar"].sentence
    cola = found["cola/ar"]
    assert cola.decided
    assert cola.sentence.startswith("Cola DLM needs ")
    assert cola.sentence.endswith("so Cola DLM generates better than its likelihood says.")
    assert cola.as_json()["likelihood"]["value"] == pytest.approx(40, rel=0.4)
    assert "draws" not in cola.as_json()["likelihood"]


def test_without_a_loss_in_common_the_ratio_has_one_end() -> None:
    """Cola DLM with 1e4 times AR's compute is above AR's smallest run: the multiplier is at least
    the ratio of their budgets, 1,000, by accuracy about 5."""
    both = panels_of({"ar": 1, "cola": 1e4}, {"ar": 1, "cola": 5})
    (found,) = mismatches(both)
    assert found.value is None
    assert found.likelihood.low == pytest.approx(1e3)
    assert found.low == pytest.approx(1e3 / found.generation.high)
    assert found.high == math.inf
    assert found.decided
    assert "at least 1,000 times the compute of AR" in found.sentence
    (other,) = mismatches(panels_of({"ar": 1, "cola": 5}, {"ar": 1, "cola": 1e4}))
    assert other.high == pytest.approx(other.likelihood.high / 1e3)
    assert other.sentence.endswith("so Cola DLM generates worse than its likelihood says.")


def test_what_would_decide_it_is_named() -> None:
    """Both are only bounded: smaller budgets of AR would meet Cola DLM."""
    (found,) = mismatches(panels_of({"ar": 1, "cola": 1e4}, {"ar": 1, "cola": 1e4}))
    assert not found.decided
    assert (found.low, found.high) == (0.0, math.inf)
    assert "their ratio is not bounded" in found.sentence
    needed = re.findall(r"AR needs runs from (\S+) FLOPs on, below its 1e\+18", found.sentence)
    assert [3e16 < float(flops) < 3e17 for flops in needed] == [True, True]


def test_one_metric_has_no_mismatch() -> None:
    losses, _ = panels_of({"ar": 1, "cola": 4}, {"ar": 1, "cola": 4})
    assert mismatches([losses]) == []
