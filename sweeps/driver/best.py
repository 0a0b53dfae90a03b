"""The best point of a sweep, as settings that a study takes."""

from __future__ import annotations

from pathlib import Path

import yaml

from cola.files import write_atomically
from cola.records import TrialFinished, TrialRequested
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import MetricGoal, SweepSpec


def write_best(sweep: SweepSpec, points: PointPlanner, log: SweepLog, folder: Path) -> list[Path]:
    """`best[-ARM].yaml` (settings for `--set @FILE`) and `best[-ARM]-study.yaml` (the whole study),
    of every arm with a finished trial."""
    written = []
    for arm in points.arms():
        found = best_trial(log, arm, sweep.metrics[0])
        if found is None:
            continue
        asked, _ = found
        stem = f"best-{arm}" if arm else "best"
        settings = {**sweep.arms[arm].set, **asked.point} if arm else dict(asked.point)
        written.append(folder / f"{stem}.yaml")
        write_atomically(written[-1], yaml.safe_dump(settings, sort_keys=False))
        study = points.values(arm, asked.point, inference=False)
        written.append(folder / f"{stem}-study.yaml")
        write_atomically(written[-1], yaml.safe_dump(study, sort_keys=False))
    return written


def best_trial(
    log: SweepLog, arm: str, goal: MetricGoal
) -> tuple[TrialRequested, TrialFinished] | None:
    """The finished trial of an arm that is best by a metric."""
    done = [
        (asked, ended)
        for asked, ended in log.ended_of(arm)
        if ended.state == "finished" and goal.name in ended.metrics
    ]
    sign = 1 if goal.direction == "minimize" else -1
    return min(done, key=lambda pair: sign * pair[1].metrics[goal.name], default=None)
