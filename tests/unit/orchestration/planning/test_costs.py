"""What a finished model's tasks cost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.planning.costs import predictive_flops
from orchestration.planning.plan import plan_study


def predicted(tiny_study: dict[str, Any], prompts: int) -> float:
    asked = {"tasks": ["predictive"], "predictive": {"prompts": prompts}}
    evaluation = tiny_study["evaluation"] | asked
    (run,) = plan_study(
        StudySpec.parse(tiny_study | {"families": ["ar"], "evaluation": evaluation})
    )
    return predictive_flops(run.spec)


def test_predictive_prompts_are_priced_at_their_own_lengths(tiny_study: dict[str, Any]) -> None:
    """Few prompts are the shortest: their ends are taken in turn."""
    ends = range(8, tiny_study["data"]["sequence_length"] - 3, 8)
    sums = [predicted(tiny_study, count) for count in range(1, len(ends) + 1)]
    each = [sums[0], *(after - before for before, after in pairwise(sums))]
    assert each == sorted(each)
    assert each[-1] > 1.5 * each[0]
    assert predicted(tiny_study, 2 * len(ends) + 1) == pytest.approx(2 * sums[-1] + sums[0])
