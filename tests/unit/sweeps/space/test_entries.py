"""A study of one entry at one rung, of ladders that entries share or have of their own."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.study import StudySpec
from sweeps.space.entries import alone, at_rung
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec


@pytest.fixture
def values(tiny_study: dict[str, Any]) -> dict[str, Any]:
    """AR has a ladder of its own, LLaDA the shared one, Cola DLM four times its budgets."""
    shared = [{"budget": budget, "core_parameters": 60_000} for budget in (1e10, 4e10)]
    own = [{"budget": budget, "core_parameters": 60_000} for budget in (1e9, 1e10, 4e10)]
    families = {"ar": {"ladder": own}, "llada": {}, "cola": {"budget_factor": 4.0}}
    return tiny_study | {"families": families, "ladder": shared}


@pytest.mark.parametrize(
    ("entry", "budgets"), [("ar", [1e9, 1e10, 4e10]), ("llada", [1e10, 4e10]), ("cola", [4e10])]
)
def test_an_entry_alone_keeps_its_budgets_at_each_rung(
    values: dict[str, Any], entry: str, budgets: list[float]
) -> None:
    one = alone(values, entry, "arms.a.entry")
    for rung, budget in enumerate(budgets):
        study = StudySpec.parse(at_rung(one, rung, "arms.a.rung"))
        assert [each.amount for each in study.rungs_of(entry)] == [budget]


def test_a_rung_of_entries_with_different_ladders_needs_an_entry(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"arms\.a\.rung=0: .*ladders that differ; give the arm"):
        at_rung(values, 0, "arms.a.rung")


def test_a_rung_beyond_the_ladder_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"arms\.a\.rung=3: the base study has rungs 0 to 2"):
        at_rung(alone(values, "ar", "arms.a.entry"), 3, "arms.a.rung")


RATE, BATCH = "training.optimizer.learning_rate", "training.batch_sequences"
VAE, JOINT = (f"training.stages.{stage}.learning_rate" for stage in ("vae", "joint"))


@pytest.mark.parametrize(
    ("entry", "own", "space", "expected"),
    [
        ("ar", {}, {RATE: {"kind": "loguniform", "low": 1e-4, "high": 1e-2}}, {RATE: 1e-3}),
        ("ar", {"training": {"batch_sequences": 4}}, {BATCH: [2, 4]}, {BATCH: 4}),
        # A value outside of the space is none of it; a rule's is.
        ("ar", {}, {RATE: [0.5, 0.7], BATCH: [8]}, {BATCH: 8}),
        ("ar", {"rules": {"learning_rate": {"kind": "power_law", "coefficient": 0.5}}},
         {RATE: [0.5, 0.7]}, {RATE: 0.5}),
        # A stage without a rate of its own has the family's.
        ("cola", {"training": {"stages": {"vae": {"learning_rate": 5e-3}}}},
         {VAE: [5e-3, 1e-3], JOINT: [5e-3, 1e-3]}, {VAE: 5e-3, JOINT: 1e-3}),
        ("cola", {}, {"families.cola.log_snr": [3.0, 4.0], BATCH: [8]},
         {"families.cola.log_snr": 3.0, BATCH: 8}),
    ],
)  # fmt: skip
def test_a_study_s_own_settings_are_a_point_of_the_arm(
    entry: str,
    own: dict[str, Any],
    space: dict[str, Any],
    expected: dict[str, Any],
    tiny_study: dict[str, Any],
) -> None:
    tiny_study["families"][entry] |= own
    sweep = {
        "name": "tune", "study": tiny_study, "arms": {"a": {"entry": entry}}, "space": space,
        "budget": {"trials": 2},
    }  # fmt: skip
    assert PointPlanner(SweepSpec.parse(sweep), []).own_point("a") == expected
