"""What a job does after its work never makes a failure of it."""

from __future__ import annotations

from typing import Any

from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.cli.results import deliver


def test_what_fails_after_the_work_costs_a_line_each(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"tracking": {"uri": "http://127.0.0.1:9"}})
    lines: list[str] = []

    def write_report() -> None:
        raise ValueError("no\ncurve")

    deliver(study, Thing("study", "tiny"), write_report, notify=lines.append)
    report, published = lines
    assert report == "no report is written: ValueError: no curve (`cola report` writes it)"
    assert published.startswith("results are not published to MLflow: tracking.uri=http://127.0")
    assert published.endswith("studies/tiny, and the same command publishes them")
