"""Where and how runs execute, what is kept of them and where they are tracked: no result depends on
any of it beyond rounding."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from cola.spec.address import holds_password
from cola.spec.base import Spec, check_distinct
from cola.spec.locations import StorageAddress, StoreAddress


class SizedResources(Spec):
    """What larger runs need; what is null is as for the others."""

    core_parameters: PositiveInt = Field(
        description="Smallest size, in core parameters, that the entry is for."
    )
    workers: PositiveInt | None = Field(
        default=None, description="In place of `resources.workers`."
    )
    min_workers: PositiveInt | None = Field(
        default=None, description="In place of `resources.min_workers`."
    )
    zero_stage: int | None = Field(
        default=None, ge=0, le=3, description="In place of `resources.zero_stage`."
    )
    micro_batch_sequences: PositiveInt | None = Field(
        default=None, description="In place of `resources.micro_batch_sequences`."
    )
    labels: dict[str, str] | None = Field(
        default=None, description="In place of `resources.labels`."
    )


class ResourcesSpec(Spec):
    """Where and how a run executes; none of it changes the result beyond rounding.

    A worker is one process with one GPU, or a share of one: more GPUs are more workers.
    """

    workers: PositiveInt = Field(
        default=1,
        description="Training processes of a run; each takes an equal part of the batch, so at "
        "most `training.batch_sequences`.",
    )
    min_workers: PositiveInt | None = Field(
        default=None,
        description="Makes runs elastic: when nodes die they resume with the workers that are "
        "left, down to this many, and grow back to `workers`. Null: a run needs all of them.",
    )
    cpus_per_worker: PositiveFloat = Field(default=1.0, description="CPU cores of a worker.")
    gpus_per_worker: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="GPUs of a worker: 0 (trains on the CPU), a share of one, or 1.",
    )
    accelerator: Literal["H100", "H200", "A100", "L40S", "CPU"] | None = Field(
        default=None,
        description="What `cola plan` computes time and memory for; null: H100 where workers have "
        "GPUs, else CPU. With a known memory the micro-batch is chosen to fit.",
    )
    mfu: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the accelerator's peak FLOP/s that `cola plan` assumes; null: on "
        "GPUs what was measured for the family, its stage and the nearest size, on CPUs 0.3.",
    )
    price_per_hour: PositiveFloat | None = Field(
        default=None,
        description="Price of an hour of one GPU (of one core where there are none), for the cost "
        "in `cola plan`; in any currency.",
    )
    zero_stage: int = Field(
        default=1,
        ge=0,
        le=3,
        description="What DeepSpeed ZeRO shards over the workers: 0 nothing, 1 the optimiser's "
        "state, 2 also gradients, 3 also weights.",
    )
    micro_batch_sequences: PositiveInt | None = Field(
        default=None,
        description="Most sequences that a worker passes through the model at once; gradients are "
        "accumulated up to its share of the batch. Null: chosen to fit an accelerator of known "
        "memory, and on a GPU the memory that is free; else the whole share. Passes that a GPU has "
        "no memory for are halved, whoever chose them.",
    )
    compile: bool | None = Field(
        default=None,
        description="Compile the networks' blocks (`torch.compile`) and use fused AdamW; on a CPU "
        "this needs a C++ compiler. Not with `zero_stage: 3`. Null: where workers have GPUs, and "
        "their machine has what compiling needs (triton, a C compiler).",
    )
    activation_checkpointing: Literal["never", "auto", "always"] = Field(
        default="auto",
        description="Keep only the inputs of the networks' blocks for the backward pass and "
        "compute the blocks again there: less memory, for about a third more time. `auto`: where "
        "a run would not fit the accelerator's memory otherwise (never where that is not known). "
        "Losses are the same; FLOPs are those of the model, without what is computed again.",
    )
    concurrent_runs: PositiveInt | None = Field(
        default=None,
        description="Most runs of the study that train at the same time; null: as many as the "
        "cluster has room for.",
    )
    max_accelerator_hours: PositiveFloat | None = Field(
        default=None,
        description="No run starts once the study has used this many GPU hours (core hours where "
        "workers have no GPUs); runs that have started finish. Null: no limit.",
    )
    max_failures: NonNegativeInt = Field(
        default=3,
        description="Times that a run is restarted from its checkpoint after a worker, node or "
        "controller failed.",
    )
    labels: dict[str, str] = Field(
        default={},
        description="Ray node labels that a worker's node must have, as "
        "`ray.io/accelerator-type: H100`.",
    )
    larger: list[SizedResources] = Field(
        default=[],
        description="Other resources for larger runs; of the entries that a run's size reaches, "
        "the largest applies.",
    )
    priority: int = Field(
        default=0,
        description="Of several studies on one cluster, runs of the highest priority start first.",
    )
    wait_seconds: NonNegativeFloat = Field(
        default=900.0,
        description="Seconds that a run waits for a cluster which is too small for it, or a "
        "driver for a cluster that does not answer, before it gives up.",
    )
    hang_seconds: PositiveFloat | None = Field(
        default=1800.0,
        description="Seconds without an optimiser step after which a run's workers count as hung "
        "and are restarted; longer than a validation or an export takes. Null: never.",
    )

    @property
    def compiles(self) -> bool:
        """Whether blocks are compiled, as far as that is known without the workers' machines."""
        if self.compile is None:
            return self.gpus_per_worker > 0 and self.zero_stage < 3
        return self.compile

    @property
    def checkpoints_activations(self) -> bool:
        """Whether blocks are computed again in the backward pass; a plan resolves `auto` first."""
        return self.activation_checkpointing == "always"

    @property
    def is_for_one_worker(self) -> bool:
        """Whether a run has one worker, and never another number of them."""
        return self.workers == 1 and self.min_workers in (None, 1)

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
    """Training state: how often it is saved, where, and what is kept of it."""

    every_seconds: PositiveFloat = Field(
        default=60.0, description="Seconds of training between two checkpoints."
    )
    keep: PositiveInt = Field(
        default=2, description="Newest checkpoints that are kept while a run is not finished."
    )
    keep_best: bool = Field(
        default=False,
        description="Also save at evaluation points, and keep the checkpoint with the lowest "
        "validation NLL.",
    )
    keep_points: bool = Field(
        default=False, description="Also save and keep a checkpoint at every evaluation point."
    )
    keep_finished: bool = Field(
        default=False,
        description="Keep the newest checkpoints of finished runs too. Else they are removed once "
        "the exported model has been found to be the one that was validated; those of `keep_best` "
        "and `keep_points` stay.",
    )
    storage: StorageAddress | None = Field(
        default=None,
        description="Folder that every node sees, or address of an object store "
        "(`s3://bucket/prefix`, ...); null: beside the run in `output`.",
    )
    upload: Literal["sync", "async"] = Field(
        default="sync",
        description="`sync`: training waits until a checkpoint is in the storage; `async`: only "
        "until it is on the local disk.",
    )


class DivergenceRetry(Spec):
    """Train a diverged run again from its start at a lower learning rate.

    What is trained then is another run: its rate is part of its identity.
    """

    factor: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Learning rate of a retry over that of the run that diverged.",
    )
    times: PositiveInt = Field(
        default=1, description="Most retries of a run, each at `factor` times the rate before."
    )


class TrackingSpec(Spec):
    """MLflow, trackers beside it, and how often a run logs."""

    uri: StoreAddress | None = Field(
        default=None,
        description="MLflow server or database; null: a SQLite file in `output`. An address with a "
        "password is given by reference: `env:NAME` (an environment variable) or `file:/path` "
        "(its first line).",
    )
    log_every_steps: PositiveInt = Field(
        default=10, description="Optimiser steps between two points of a training curve."
    )
    also: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=(),
        description="Trackers that get every run beside MLflow: `tensorboard` (event files in the "
        "study's folder) and `wandb` (its own settings say where to; `WANDB_MODE=offline` needs no "
        "network).",
    )

    @model_serializer(mode="wrap")
    def _without_empty_parts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies without other trackers are the same as before there were any."""
        values: dict[str, Any] = handler(self)
        if not self.also:
            values.pop("also", None)
        return values

    @field_validator("also")
    @classmethod
    def _are_distinct(cls, also: tuple[str, ...]) -> tuple[str, ...]:
        check_distinct(also)
        return also

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
