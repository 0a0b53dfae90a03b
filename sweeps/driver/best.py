"""The best point of a sweep, as settings for a study and as a whole study."""

from __future__ import annotations

import logging
from pathlib import Path

from cola.files import write_atomically
from cola.spec.locations import located
from cola.spec.yaml_text import dump_yaml
from cola.study import StudySpec
from sweeps.search.trial_log import SweepLog, best_trial
from sweeps.space.points import PointPlanner
from sweeps.space.storage import storage_errors

log = logging.getLogger(__name__)


def write_best(planner: PointPlanner, trial_log: SweepLog, folder: Path) -> list[Path]:
    """Files of the best point of every arm that has a finished trial.

    `best[-ARM].yaml` has settings for `--set @FILE`, `best[-ARM]-study.yaml` the whole study.

    Raises:
        StorageError: a file cannot be written.
    """
    sweep = planner.sweep
    paths = []
    for arm in planner.arms():
        best = best_trial(trial_log, arm, sweep.metrics[0])
        if best is None:
            continue
        request, _ = best
        log.info("arm %r: trial %d is best", arm, request.trial)
        stem = f"best-{arm}" if arm else "best"
        settings = planner.settings(arm, request.point)
        point_study = StudySpec.parse(planner.study_values(arm, request.point, inference=False))
        study = located(point_study).model_dump(mode="json")
        for name, values in ((f"{stem}.yaml", settings), (f"{stem}-study.yaml", study)):
            paths.append(folder / name)
            with storage_errors(paths[-1]):
                write_atomically(paths[-1], dump_yaml(values))
    return paths
