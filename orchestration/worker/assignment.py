"""What a driver hands to the workers of a run, and the outcome that they write."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cola.records import StopCode
from cola.spec.resources import CheckpointSpec
from cola.study import RunSpec


class Assignment(BaseModel):
    """All that a worker needs to know to carry out its part of a run (absolute paths only)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSpec
    name: str
    run_folder: str
    study_folder: str
    data_folder: str
    attempt: int
    workers: int
    min_workers: int | None = None  # fewer than `workers`: an elastic run
    cpus_per_worker: float
    gpus_per_worker: float
    zero_stage: int
    micro_batch_sequences: int | None
    compile: bool
    max_failures: int
    checkpoint: CheckpointSpec  # a folder in it is absolute
    log_every_steps: int
    labels: dict[str, str] = {}  # of the nodes that workers may be on
    publishes: dict[int, str] = {}  # step -> folder for the state that other runs go on from
    resumes_from: list[str] = []  # folders of such states that this run can go on from
    preemptible: bool = False  # whether nodes may be taken away with a notice
    in_process: bool = False  # of one worker: it is the process that starts the run
    until: int | None = None  # the step after which they leave, with a checkpoint

    def ray_workers(self) -> int | tuple[int, int]:
        """How many workers Ray Train starts: a number, or a range (an elastic run)."""
        if self.in_process:
            return 0  # Ray Train's local mode
        if self.min_workers is None or self.min_workers == self.workers:
            return self.workers
        return (self.min_workers, self.workers)


class RunOutcome(BaseModel):
    """How the training of a run ended, written by rank 0 (absent after a crash)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    state: str
    reason: str | None
    stop_code: StopCode | None = None
    step: int
    order_digests: dict[int, str]
