"""What is sent to a cluster: a study or a sweep, as one file and the command that runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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

    `study` is the study, or the base study of the sweep. `resources` are those of its runs, and
    `seconds` what they are expected to take one after another.
    """

    kind: SubmissionKind
    specification: str  # YAML
    study: StudySpec
    resources: Sequence[ResourcesSpec]
    seconds: Callable[[], float]

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
    return Submission(
        kind="study",
        specification=study.to_yaml(),
        study=study,
        resources=[run.resources for run in runs],
        seconds=lambda: expected_seconds(study, runs),
    )


def expected_seconds(study: StudySpec, runs: Sequence[PlannedRun]) -> float:
    """Seconds of all runs one after another, at the rates measured in the output folder."""
    rates = measured_rates(output_root(study))
    return sum(
        run_costs(
            run.spec, run.resources, run.total_parameters, keep=study.checkpoint.keep, rates=rates
        ).seconds
        for run in runs
    )
