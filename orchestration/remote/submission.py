"""What is sent to a cluster: a study or a sweep, as one file and the command that runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from cola.errors import SpecError
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.planning.costs import run_costs
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.rates import measured_rates
from orchestration.remote.packaging import check_study
from orchestration.state.paths import output_root

SubmissionKind = Literal["study", "sweep"]


@dataclass(frozen=True)
class Submission:
    """A study or sweep that a cluster can run: its paths are absolute, and no secret is in it.

    `study` is the study, or the base study of the sweep. `resources` are those of its runs,
    `seconds` what they are expected to take one after another, and `run_seconds` what each run of a
    study is, by its name. `runs` are those of a study, and `rungs` the places of the ladder whose
    runs alone are meant; None: all.
    """

    kind: SubmissionKind
    specification: str  # YAML
    study: StudySpec
    resources: Sequence[ResourcesSpec]
    seconds: Callable[[], float]
    run_seconds: Callable[[], Mapping[str, float]] = dict
    runs: Sequence[PlannedRun] = ()
    rungs: frozenset[int] | None = None

    @property
    def name(self) -> str:
        """The name of the study or sweep, by which its jobs are found."""
        return self.study.name

    @property
    def file(self) -> str:
        """The file's name on the cluster."""
        return f"{self.kind}.yaml"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what is run."""
        if self.kind == "study":
            return self.study.content_hash()
        return hashlib.sha256(self.specification.encode()).hexdigest()

    @property
    def verbs(self) -> list[str]:
        """The words of the command that runs it, before its file."""
        return ["run"] if self.kind == "study" else ["sweep", "run"]


def study_submission(study: StudySpec) -> Submission:
    """A study as it is sent.

    Raises:
        SpecError: it has relative paths or a secret in it, or cannot be planned.
    """
    check_study(study)
    runs = plan_study(study)

    @cache
    def run_seconds() -> dict[str, float]:
        return expected_seconds(study, runs)

    return Submission(
        kind="study",
        specification=study.to_yaml(),
        study=study,
        resources=[run.resources for run in runs],
        seconds=lambda: sum(run_seconds().values()),
        run_seconds=run_seconds,
        runs=runs,
    )


def of_rungs(work: Submission, rungs: frozenset[int]) -> Submission:
    """A study's runs at these places of its ladder; the file that is sent is the whole study's."""
    chosen = [
        (run, resources)
        for run, resources in zip(work.runs, work.resources, strict=True)
        if run.rung in rungs
    ]
    names = [run.name for run, _ in chosen]
    return replace(
        work,
        resources=[resources for _, resources in chosen],
        runs=[run for run, _ in chosen],
        seconds=lambda: sum(work.run_seconds()[name] for name in names),
        run_seconds=lambda: {name: work.run_seconds()[name] for name in names},
        rungs=rungs,
    )


def side_by_side(work: Submission, jobs: int) -> tuple[Submission, int]:
    """A study as each of several jobs runs it, and how many jobs: no more than it has runs.

    `resources.concurrent_runs`, which is of the whole study, is shared out among them.

    Raises:
        SpecError: a sweep, or a study that allows fewer runs at a time.
    """
    if work.kind == "sweep":
        raise SpecError(
            f"--allocations {jobs}: is for studies, and {work.name} is a sweep, whose trials one "
            "driver proposes; leave it out, and give its job more nodes (--sweep-set "
            "concurrent_trials=N, or `nodes` in clusters.yaml)"
        )
    most = work.study.resources.concurrent_runs
    if most is not None and most < jobs:
        raise SpecError(
            f"--allocations {jobs}: resources.concurrent_runs={most} lets fewer runs of the study "
            f"train at the same time; ask for at most {most}, or raise it"
        )
    jobs = min(jobs, len(work.resources))
    if most is None or jobs == 1:
        return work, jobs
    share = {"concurrent_runs": most // jobs}
    resources = work.study.resources.model_copy(update=share)
    study = work.study.model_copy(update={"resources": resources})
    each = [run.model_copy(update=share) for run in work.resources]
    return replace(work, specification=study.to_yaml(), study=study, resources=each), jobs


def expected_seconds(study: StudySpec, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds of each run by its name, at the rates measured in the output folder."""
    rates = measured_rates(output_root(study))
    return {
        run.name: run_costs(
            run.spec, run.resources, run.total_parameters, keep=study.checkpoint.keep, rates=rates
        ).seconds
        for run in runs
    }
