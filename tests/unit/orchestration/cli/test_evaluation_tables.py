"""What is remarked beside the numbers of an evaluation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from cola.evaluation.tasks.task import TaskResult
from orchestration.cli.evaluation_tables import remarks
from orchestration.inference.evaluate import EvaluationReport


def test_each_remark_is_made_once() -> None:
    target = cast(Any, SimpleNamespace(context=64))
    result = TaskResult("likelihood", 4, {"nll_nats_per_token": 3.0}, {"kind": "bound"})
    assert remarks(EvaluationReport(target, 0, [result])) == ["the NLL is an upper bound"]
