"""Rate sweeps that could not be answered are refused when they are read."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

DIM = "families.cola.latent_dim"
RUNGS = [[{"budget": budget, "core_parameters": 60_000}] for budget in (1e9, 2e9, 4e9)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": [{"name": "val/bits_per_byte"}]}, "metrics.0.name: answer.kind=rate is about"),
        ({"algorithm": {"kind": "random"}, "budget": {"trials": 3}}, "algorithm.kind='random'"),
        ({"space": {DIM: [2, 4]}}, "space: answer.kind=rate needs the key ladder"),
        ({"space": {"ladder": RUNGS[:2], DIM: [2, 4]}}, "has 2 budgets; answer.kind=rate needs at"),
        ({"space": {"ladder": [*RUNGS, [*RUNGS[0], *RUNGS[1]]], DIM: [2]}}, "ladder.values.3: is"),
        ({"space": {"ladder": [*RUNGS, [{"budget": "lots"}]], DIM: [2]}}, "ladder.values.3: is no"),
        ({"space": {"ladder": [*RUNGS, [{"budget": 1e9, "row": "paper-2b"}]], DIM: [2]}}, "twice"),
        (
            {"start_with_study": True},
            "start_with_study: answer.kind=rate trains every point of its",
        ),
        ({"space": {"ladder": RUNGS}}, "needs a key that moves the rate"),
        (
            {"set": {"rules.latent.latent_dim": {"kind": "power_law", "coefficient": 3}}},
            f"space.{DIM}: has no effect, as rules.latent.latent_dim sets it",
        ),
    ],
)
def test_what_the_question_needs_is_named(
    tiny_sweep: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    good = {"space": {"ladder": RUNGS, DIM: [2, 4]}, "answer": {"kind": "rate"}}
    with pytest.raises(SpecError) as caught:
        PointPlanner(SweepSpec.parse(tiny_sweep | good | changes), [])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_for_latents_may_be_varied(tiny_sweep: dict[str, Any]) -> None:
    """3 and 6 dimensions at 1e15 FLOPs are the plan's."""
    rule = {"kind": "power_law", "coefficient": 1.0}
    values = tiny_sweep | {
        "set": {"rules.latent.latent_dim": rule},
        "space": {"rules.latent.latent_dim.coefficient": [3.0, 6.0]},
    }
    planner = PointPlanner(SweepSpec.parse(values), [])
    points = [{"rules.latent.latent_dim.coefficient": value} for value in (3.0, 6.0)]
    runs = [planner.plan("", point).runs[0] for point in points]
    assert [run.latents["latent_dim"] for run in runs] == [3, 6]
    assert runs[0].key != runs[1].key
