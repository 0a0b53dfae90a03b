"""What a sweep's driver hands to the process of a trial, and the names that both know it by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict

from cola.records import TrialSegment
from cola.spec.locations import Absolute, AbsolutePath
from cola.study import StudySpec
from cola.study.run import EvaluationSpec
from orchestration.planning.plan import PlannedRun


class TrialSpec(BaseModel):
    """A trial: the study of its runs, one for each seed, and where everything is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: int
    study: Annotated[StudySpec, Absolute]
    fingerprint: str  # of the study's corpus
    data_folder: AbsolutePath
    folder: AbsolutePath  # the sweep's
    evaluation: EvaluationSpec | None  # settings for measuring the finished models once more
    likelihood: bool  # whether that includes their NLL
    preemptible: bool
    in_process: bool  # runs train in the trial's own process, which serves later trials too
    driver: str  # id of the sweep's driver
    segment: TrialSegment | None = None  # None: the runs are trained whole
    reported_up_to: float = 0.0  # share of the first run's budget; evaluations up to it are known


def with_trial_name(run: PlannedRun, trial: int) -> PlannedRun:
    """The run under a name that includes the trial's number."""
    return replace(run, name=f"{trial_prefix(trial)}{run.name}")


def trial_prefix(trial: int) -> str:
    """What the names of a trial's runs begin with."""
    return f"trial{trial:03d}-"


def lease_name(driver: str, trial: int) -> str:
    """The end of the lease owner of a trial's runs, by which its driver recognises them."""
    return f"{driver}-{trial}"


def trial_errors(folder: Path, trial: int) -> Path:
    """The file in a sweep's folder with the tracebacks of a trial's errors."""
    return folder / "errors" / f"trial-{trial:03d}.txt"
