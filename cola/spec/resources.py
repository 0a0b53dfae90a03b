"""Where and how runs execute, what is kept of them and where they are tracked: no result depends on
any of it beyond rounding."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from cola.spec.address import holds_password
from cola.spec.base import Spec


class SizedResources(Spec):
    """What runs of at least `core_parameters` need; what is left out is as for the others."""

    core_parameters: PositiveInt
    workers: PositiveInt | None = None
    min_workers: PositiveInt | None = None
    zero_stage: int | None = Field(default=None, ge=0, le=3)
    micro_batch_sequences: PositiveInt | None = None
    labels: dict[str, str] | None = None


class ResourcesSpec(Spec):
    """Where and how a run executes; none of it changes the result beyond rounding.

    A worker is one process with one GPU, or a share of one: more GPUs are more workers. With
    `min_workers` a run is elastic: it goes on with the workers that are left, down to that many,
    and takes back up to `workers`. `labels` choose nodes by Ray's node labels (as
    `ray.io/accelerator-type: H100`). `larger` says what larger runs need, by core parameters.

    A study waits up to `wait_seconds` for a cluster that it joins to have what a run needs, and of
    several studies on one cluster the one of higher `priority` starts first. A run whose worker,
    node or controller dies is started again from its checkpoint up to `max_failures` times; one
    whose workers make no step for `hang_seconds` counts as such (None: wait for ever). No run is
    started once the study has taken `max_accelerator_hours` (of cores where it has no GPUs); those
    that run go on.

    `accelerator` (by default H100 where workers have GPUs, CPU elsewhere), its `mfu` and its
    `price_per_hour` are what `cola plan` reckons with, per GPU (or core). With an accelerator of
    known memory the micro-batch is chosen to fit. `compile` is the switch for fast kernels:
    torch.compile and fused AdamW (FlexAttention is taken on CUDA in any case). It needs a C++
    compiler on a CPU.
    """

    workers: PositiveInt = 1
    min_workers: PositiveInt | None = None
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: float = Field(default=0.0, ge=0, le=1)
    accelerator: Literal["H100", "H200", "A100", "L40S", "CPU"] | None = None
    mfu: float | None = Field(default=None, gt=0, le=1)
    price_per_hour: PositiveFloat | None = None
    zero_stage: int = Field(default=1, ge=0, le=3)
    micro_batch_sequences: PositiveInt | None = None
    compile: bool = False
    concurrent_runs: PositiveInt | None = None
    max_accelerator_hours: PositiveFloat | None = None
    max_failures: NonNegativeInt = 3
    labels: dict[str, str] = Field(default={})
    larger: list[SizedResources] = Field(default=[])
    priority: int = 0
    wait_seconds: NonNegativeFloat = 900.0
    hang_seconds: PositiveFloat | None = 1800.0

    @property
    def units_per_worker(self) -> float:
        """GPUs of a worker; its cores where it has none."""
        return self.gpus_per_worker or self.cpus_per_worker

    @property
    def accelerators(self) -> float:
        """GPUs of a run; its cores where it has none: what accelerator hours count."""
        return self.workers * self.units_per_worker

    def at(self, core_parameters: int) -> ResourcesSpec:
        """Resources of a run of this size: the largest entry of `larger` that it reaches counts."""
        reached = [item for item in self.larger if item.core_parameters <= core_parameters]
        if not reached:
            return self
        largest = max(reached, key=lambda item: item.core_parameters)
        changes = largest.model_dump(exclude={"core_parameters"}, exclude_none=True)
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _elastic_range(self) -> ResourcesSpec:
        for place in (None, *range(len(self.larger))):
            sized = self if place is None else self.at(self.larger[place].core_parameters)
            if sized.min_workers is not None and sized.min_workers > sized.workers:
                where = "" if place is None else f"larger.{place}."
                raise ValueError(
                    f"{where}min_workers={sized.min_workers} must be at most workers="
                    f"{sized.workers}"
                )
        return self


class CheckpointSpec(Spec):
    """Training state: how often it is saved, where, and what is kept of it.

    `every_seconds` of training apart; the last `keep`, with `keep_best` also the one of the lowest
    validation NLL, with `keep_points` also one at every evaluation point. `storage` is a folder or
    the address of an object store (as s3://bucket/prefix; None: beside the run), `upload` whether
    training waits until a checkpoint is there.
    """

    every_seconds: PositiveFloat = 60.0
    keep: PositiveInt = 2
    keep_best: bool = False
    keep_points: bool = False
    storage: str | None = None
    upload: Literal["sync", "async"] = "sync"


class DivergenceRetry(Spec):
    """Train a diverged run again from its start at `factor` times the learning rate, and so on.

    What is trained then is another run (its rate is part of its identity), and is told as such.
    """

    factor: float = Field(default=0.5, gt=0, lt=1)
    times: PositiveInt = 1


class TrackingSpec(Spec):
    """MLflow. `uri` None means a SQLite file in the output folder.

    An address with a password is given by reference: `env:NAME` or `file:/path` of what holds it.
    """

    uri: str | None = None
    log_every_steps: PositiveInt = 10

    @model_validator(mode="after")  # of the model: an error about the field would repeat it
    def _no_password(self) -> TrackingSpec:
        if self.uri is not None and holds_password(self.uri):
            raise ValueError(
                "uri holds a password, which a specification must not: put the address into an "
                "environment variable or a file, and write uri: env:NAME or uri: file:/path (a "
                "server's user and password may also be MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD)"
            )
        return self
