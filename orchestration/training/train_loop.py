"""The training loop: stages of steps, with hooks for all effects; in process, without Ray."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cola.data import PackedTokens, micro_batches, micro_slices, sequence_ids, worker_slice
from cola.errors import RunError
from cola.families.interface.family import Batch, Family, StageModule
from cola.families.registry import family_of
from cola.records import StopCode
from cola.seeding import Stream
from cola.study import RunSpec, StagePlan
from cola.study.schedule import learning_rate_factor, rate_change_factor
from orchestration.checkpoint.manifest import Cursor
from orchestration.training.distributed import WorkerRank
from orchestration.training.engine import (
    Engine,
    EngineSettings,
    MicroBatch,
    ParameterGroups,
    StepResult,
)
from orchestration.training.weight_average import WeightAverage

log = logging.getLogger(__name__)
EngineFactory = Callable[[StageModule, ParameterGroups, EngineSettings], Engine]
Outcome = Literal["finished", "interrupted", "diverged"]


@dataclass(frozen=True)
class Validation:
    """NLL in nats per token after a step: of all validation sequences and of each, by id; with all
    that was measured, by metric."""

    step: int
    nll: float
    nll_by_sequence: dict[int, float]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainState:
    """State of a run after a step, which hooks read; `step` counts steps over all stages."""

    run: RunSpec
    family: Family
    worker: WorkerRank
    model: nn.Module
    engine: Engine
    zero_stage: int
    stage_index: int = 0
    step: int = 0
    learning_rate: float = 0.0
    result: StepResult = field(default_factory=lambda: StepResult({}, math.nan))
    elapsed_seconds: float = 0.0
    data_seconds: float = 0.0  # the part of them spent on batches
    stop: Outcome | None = None
    stop_reason: str | None = None
    stop_code: StopCode | None = None  # the reason for programs
    average: WeightAverage | None = None
    validation: Validation | None = None  # the last one

    @property
    def stage(self) -> StagePlan:
        """The stage in training."""
        return self.run.stages[self.stage_index]

    @property
    def stage_step(self) -> int:
        """Steps of the stage in training."""
        return self.step - sum(stage.steps for stage in self.run.stages[: self.stage_index])

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has its averaged weights, if the run keeps an average."""
        return self.average.applied() if self.average is not None else nullcontext()

    def save(self, folder: Path) -> None:
        """Write this worker's part of a checkpoint.

        Raises:
            OSError: the folder cannot be written.
        """
        self.engine.save(folder)
        if self.average is not None and self.worker.rank == 0:
            self.average.save(folder)

    def load(self, folder: Path, cursor: Cursor) -> None:
        """Take over the training state that `save` wrote, and its position."""
        self.engine.load(folder)
        self.step, self.elapsed_seconds = cursor.step, cursor.elapsed_seconds
        if self.average is not None:
            self.average.load(folder, self.stage_step)

    def cursor(self) -> Cursor:
        """Position and sharding of a checkpoint taken now."""
        return Cursor(
            stage=self.stage_index,
            step=self.step,
            world_size=self.worker.world_size,
            zero_stage=self.zero_stage,
            elapsed_seconds=self.elapsed_seconds,
        )


class Hook(Protocol):
    """An effect after a step; every worker calls every hook after every step."""

    def __call__(self, state: TrainState) -> None:
        """Act on the state; set `state.stop` to end the run after this step."""


@dataclass(frozen=True)
class LoopSettings:
    """How the loop executes; none of it changes results beyond rounding."""

    zero_stage: int
    micro_batch_sequences: int | None = None
    compile: bool = False
    checkpoints_activations: bool = False


def train(
    run: RunSpec,
    tokens: PackedTokens,
    engine_factory: EngineFactory,
    *,
    settings: LoopSettings,
    worker: WorkerRank,
    hooks: Sequence[Hook],
    resume: tuple[Path, Cursor] | None = None,
) -> TrainState:
    """Train all stages of the run, or the rest of them from the checkpoint `resume`.

    Returns the last state: its `stop` is finished, interrupted or diverged.

    Raises:
        RunError: the checkpoint belongs to another run.
    """
    family = family_of(run.family)
    start = resume[1] if resume else None
    model = initial_model(family, run)
    first_step, state = 0, None
    for index, stage in enumerate(run.stages):
        if start is None or start.stage <= index:
            if state is not None:
                model = whole_model(state, state.engine.full_state_dict())
                state.engine.close()
            state = open_stage(
                run,
                family,
                model,
                engine_factory=engine_factory,
                settings=settings,
                worker=worker,
                index=index,
                before=state,
            )
            if start is not None and start.stage == index and resume is not None:
                log.info("resuming at step %d from %s", start.step, resume[0])
                state.load(resume[0], start)
            log.info("stage %s from step %d", stage.name, state.step)
            run_stage(state, tokens, first_step, settings=settings, hooks=hooks)
            if state.stop is not None:
                log.info("%s at step %d: %s", state.stop, state.step, state.stop_reason)
                return state
        first_step += stage.steps
    if state is None:
        number, folder = (start.stage, resume[0]) if start and resume else (0, "none")
        raise RunError(
            f"checkpoint {folder}: is of stage {number}, but run {run.run_key} has "
            f"{len(run.stages)} stages; remove this folder, it belongs to another run"
        )
    state.stop = "finished"
    return state


def run_stage(
    state: TrainState,
    tokens: PackedTokens,
    first_step: int,
    *,
    settings: LoopSettings,
    hooks: Sequence[Hook],
) -> None:
    """Train one stage, which begins at `first_step`, to its end or until a hook stops the run."""
    run, engine = state.run, state.engine
    training = run.training.of_stage(state.stage.name)
    while state.step < first_step + state.stage.steps and state.stop is None:
        began = time.perf_counter()
        batches = draw_micro_batches(state, tokens, settings)
        state.data_seconds += time.perf_counter() - began
        factor = learning_rate_factor(
            training.schedule,
            state.step - first_step,
            state.stage.steps,
            first_step=first_step,
        )
        factor *= rate_change_factor(run, state.step)
        state.result = engine.step(batches, factor)
        if state.average is not None:
            state.average.update()
        state.learning_rate = factor * training.optimizer.learning_rate
        state.step += 1
        state.elapsed_seconds += time.perf_counter() - began
        for hook in hooks:
            hook(state)


def draw_micro_batches(
    state: TrainState, tokens: PackedTokens, settings: LoopSettings
) -> list[MicroBatch]:
    """This worker's micro-batches of the step, with all random draws made.

    Sequences and draws are functions of (data seed, seed, step), so any number of workers and any
    micro-batch size give the same global batch. A worker with fewer sequences than other workers
    have micro-batches repeats one at weight zero, because collectives need equally many passes.
    """
    run, worker, engine = state.run, state.worker, state.engine
    size = run.training.batch_sequences
    ids = sequence_ids(run.data.seed, state.step, size, num_sequences=len(tokens))
    mine = worker_slice(np.arange(size), worker.rank, worker.world_size)
    count = micro_batches(size, worker.world_size, settings.micro_batch_sequences)
    batches = []
    with torch.no_grad():
        for part in micro_slices(mine, count):
            weight = len(part) * count * worker.world_size / size
            positions = (part if len(part) else mine[:1]).tolist()
            batch = Batch(
                tokens_BL=torch.from_numpy(tokens.rows(ids[positions])).to(engine.device),
                # In a global batch of more than an epoch a sequence appears twice: draws are keyed
                # by its position in the batch.
                stream=Stream(run.seed, state.step, positions, device=engine.device),
                positions=positions,
                global_size=size,
                stage_step=state.stage_step,
            )
            batches.append(MicroBatch(engine.module.draw(batch), weight))
    return batches


def initial_model(family: Family, run: RunSpec) -> nn.Module:
    """The untrained model, whose weights are the same on every worker."""
    torch.manual_seed(run.seed)
    return family.build(run.model)


def whole_model(state: TrainState, weights: dict[str, Tensor]) -> nn.Module:
    """A whole model on the CPU with these `weights` of the state's stage.

    The state's own model may be sharded by its engine.
    """
    model = initial_model(state.family, state.run)
    module = state.family.stage_module(model, state.run.objective, state.stage.name)
    module.load_state_dict(weights)
    return model


def open_stage(
    run: RunSpec,
    family: Family,
    model: nn.Module,
    *,
    engine_factory: EngineFactory,
    settings: LoopSettings,
    worker: WorkerRank,
    index: int,
    before: TrainState | None,
) -> TrainState:
    """A state whose engine trains stage `index` of `model`; steps and seconds follow `before`."""
    stage = run.stages[index]
    module = family.stage_module(model, run.objective, stage.name)
    if settings.checkpoints_activations:
        module.checkpoint_activations()
    groups = family.parameter_groups(module, run.objective, stage.name)
    count = micro_batches(
        run.training.batch_sequences, worker.world_size, settings.micro_batch_sequences
    )
    engine = engine_factory(
        module,
        groups,
        EngineSettings(
            run.training.of_stage(stage.name), settings.zero_stage, count, settings.compile
        ),
    )
    state = TrainState(run, family, worker, model, engine, settings.zero_stage, stage_index=index)
    if run.training.ema_decay is not None and index == len(run.stages) - 1:
        state.average = WeightAverage(engine.module, run.training.ema_decay)
    if before is not None:
        state.step, state.elapsed_seconds = before.step, before.elapsed_seconds
        state.data_seconds = before.data_seconds
        state.validation = before.validation
    return state
