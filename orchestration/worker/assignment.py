"""What a driver gives the workers of a run, and the outcome that they write."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from cola.records import StopCode
from cola.spec.locations import Absolute, AbsolutePath
from cola.spec.resources import CheckpointSpec, ResourcesSpec
from cola.study import RunSpec


class Assignment(BaseModel):
    """All that a worker needs to train its part of a run; every path is absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[RunSpec, Absolute]
    name: str
    run_folder: AbsolutePath
    study_folder: AbsolutePath  # of the event log that faults go to
    data_folder: AbsolutePath
    attempt: int
    resources: ResourcesSpec  # of a run of this size, with the planned micro-batch
    # Whether a GPU's free memory may make the micro-batch smaller: the study gives none.
    fit_micro_batch: bool = False
    checkpoint: Annotated[CheckpointSpec, Absolute]
    log_every_steps: int
    # Where the state after a prefix is published, by the prefix' last step.
    publishes: dict[int, AbsolutePath] = {}
    # Folders of published states that the run may resume from.
    resumes_from: list[AbsolutePath] = []
    preemptible: bool = False  # whether nodes may be taken away with a notice
    in_process: bool = False  # train in the process that starts the run, with one worker
    until: int | None = None  # save a checkpoint after this step and leave

    def ray_workers(self) -> int | tuple[int, int]:
        """Ray Train's `num_workers`: a number, or (fewest, most) of an elastic run."""
        workers, fewest = self.resources.workers, self.resources.min_workers
        if self.in_process:
            return 0  # Ray Train's local mode
        if fewest is None or fewest == workers:
            return workers
        return (fewest, workers)


class RunOutcome(BaseModel):
    """How the training of a run ended, written by rank 0 (absent after a crash)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    state: str
    reason: str | None
    stop_code: StopCode | None = None  # the reason for programs; None in files without one
    step: int
    order_digests: dict[int, str]
