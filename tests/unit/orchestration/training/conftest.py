"""Shared by tests of the training loop: one short run of each family."""

from __future__ import annotations

from typing import Any

import pytest

from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from tests.sizes import FAMILIES


@pytest.fixture
def runs(tiny_study: dict[str, Any]) -> dict[str, RunSpec]:
    """About 20 steps each: enough for every stage to evaluate, save and begin again."""
    ladder = [{"budget": 2.5e9, "core_parameters": 70_000}]  # Cola DLM: 2 layers
    families = {name: tiny_study["families"].get(name, {}) for name in FAMILIES}
    changes = {"ladder": ladder, "families": families}
    plan = plan_study(StudySpec.parse(tiny_study | changes))
    return {run.spec.family: run.spec for run in plan}
