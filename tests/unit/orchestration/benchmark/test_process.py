"""The measuring process: a part that hangs, fails or ends the process costs itself alone."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.benchmark.parts import Part
from orchestration.benchmark.process import MeasuringProcess, PartError
from orchestration.planning.plan import plan_study


@pytest.mark.slow
def test_a_part_without_a_result_costs_itself_alone(tiny_study: dict[str, Any]) -> None:
    (run, *_) = plan_study(StudySpec.parse(tiny_study))
    good, unknown = Part(run, batch=1), Part(run, stage="no such stage")
    with MeasuringProcess() as process:
        assert process.start()["versions"]["torch"]
        first = process._process.pid
        for _ in range(2):  # it goes on after a failure
            with pytest.raises(PartError, match=r"^StopIteration: "):
                process.measure(unknown, seconds=0.01, limit=60)
        assert process._process.pid == first
        with pytest.raises(PartError, match=r"is not done after its limit of 0 s"):
            process.measure(good, seconds=0.01, limit=0.001)
        assert process.measure(good, seconds=0.01, limit=60)["tokens_per_second"] > 0
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(PartError, match=r"its process died \(exit code -9\)"):
            process.measure(good, seconds=0.01, limit=60)
