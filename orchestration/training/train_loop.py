"""The training loop: stages of steps, with hooks for all effects; in process, without Ray."""

from __future__ import annotations

import gc
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from cola.data import PackedTokens
from cola.errors import RunError
from cola.families.interface.family import Family, StageModule
from cola.families.registry import family_of
from cola.records import StopCode
from cola.study import RunSpec, StagePlan
from cola.study.schedule import learning_rate_factor, rate_change_factor
from orchestration.checkpoint.manifest import Cursor
from orchestration.state.scratch import scratch_folder
from orchestration.step.ahead import Ahead
from orchestration.step.draws import MicroBatch, StageDraws
from orchestration.step.exchange import StepExchange, StepNumbers
from orchestration.step.micro_batch import (
    GroupShortageError,
    Shortage,
    passes_of,
    shortage_at,
    update_shortage,
)
from orchestration.training.distributed import WorkerRank
from orchestration.training.engine import (
    Engine,
    EngineSettings,
    ParameterGroups,
    PassMemoryError,
    StepResult,
    UpdateMemoryError,
)
from orchestration.training.weight_average import WeightAverage

log = logging.getLogger(__name__)
EngineFactory = Callable[[StageModule, ParameterGroups, EngineSettings], Engine]
Outcome = Literal["finished", "interrupted", "diverged"]


@dataclass(frozen=True)
class Validation:
    """NLL in nats per token after a step: of all validation sequences and of each, by id (None and
    nothing of a model without a likelihood); with all that was measured, by metric."""

    step: int
    nll: float | None
    nll_by_sequence: dict[int, float]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """What the state of one engine hands on to that of the next."""

    step: int = 0
    elapsed_seconds: float = 0.0
    data_seconds: float = 0.0
    validation: Validation | None = None


@dataclass
class TrainState:
    """State of a run after a step, which hooks read; `step` counts steps over all stages.

    `result` is this worker's, `known` what all workers know since the step before, oldest first.
    """

    run: RunSpec
    family: Family
    worker: WorkerRank
    model: nn.Module
    engine: Engine
    zero_stage: int
    stage_index: int = 0
    step: int = 0
    learning_rate: float = 0.0
    micro_batch: int | None = None  # most sequences of a pass (None: the worker's share)
    result: StepResult = field(default_factory=lambda: StepResult({}, torch.tensor(math.nan)))
    known: list[StepNumbers] = field(default_factory=list)
    elapsed_seconds: float = 0.0
    data_seconds: float = 0.0  # the part of them spent waiting for batches
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
    def first_step(self) -> int:
        """Steps of the stages before."""
        return sum(stage.steps for stage in self.run.stages[: self.stage_index])

    @property
    def stage_step(self) -> int:
        """Steps of the stage in training."""
        return self.step - self.first_step

    @property
    def numbers(self) -> StepNumbers:
        """All workers' numbers of this step, where a hook `acts_at` it."""
        newest = self.known[-1]
        if newest.step != self.step:
            raise ValueError(f"step {self.step} is asked for, {newest.step} is known: no hook acts")
        return newest

    def asked(self, question: str) -> bool:
        """Whether rank 0 asked for this; the same on every worker."""
        return any(question in numbers.asked for numbers in self.known)

    def progress(self) -> Progress:
        """What the next engine's state takes over."""
        return Progress(self.step, self.elapsed_seconds, self.data_seconds, self.validation)

    def release(self) -> None:
        """Close the engine and drop all that holds the device's memory, before another is built."""
        self.engine.close()
        device = self.engine.device
        del self.engine, self.model, self.average, self.result
        if device.type == "cuda":
            gc.collect()  # engines have cycles
            torch.cuda.empty_cache()

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


class StepHook(ABC):
    """A hook that needs a step's numbers, or an answer of rank 0 that all workers act on.

    Numbers and answers of all such hooks are one collective a step. On a GPU they are known one
    step late, but at once where a hook `acts_at` the step or rank 0 asks for something.
    """

    question = ""  # names what `asks` is about

    def asks(self, state: TrainState) -> bool:
        """Rank 0's answer after a step, before the hooks are called."""
        return False

    def acts_at(self, step: int) -> bool:
        """Whether the hook uses the numbers or the weights of this step."""
        return False

    @abstractmethod
    def __call__(self, state: TrainState) -> None:
        """See `Hook`."""


@dataclass(frozen=True)
class LoopSettings:
    """How the loop executes; none of it changes results beyond rounding.

    `prepare_ahead`: inputs of the next step, in a thread (None: on a GPU; on a CPU the thread would
    take what the passes need). `lag`: see `StepExchange`.
    """

    zero_stage: int
    micro_batch_sequences: int | None = None
    compile: bool = False
    prepare_ahead: bool | None = None
    lag: int | None = None
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
    on_shortage: Callable[[Shortage], None] = lambda shortage: None,
) -> TrainState:
    """Train all stages of the run, or the rest of them from the checkpoint `resume`.

    Passes that do not fit the device's memory are halved (`on_shortage` is called before the step
    is made again). Returns the last state: its `stop` is finished, interrupted or diverged.

    Raises:
        RunError: the checkpoint is another run's, or one sequence or the optimiser does not fit.
        GroupShortageError: passes do not fit, and other workers wait for this one: all must resume
            from a checkpoint with smaller ones.
    """
    family, at = family_of(run.family), resume[1].stage if resume else 0
    if resume is not None and at >= len(run.stages):
        raise RunError(
            f"checkpoint {resume[0]}: is of stage {at}, but run {run.run_key} has "
            f"{len(run.stages)} stages; remove this folder, it belongs to another run"
        )
    opened = partial(open_stage, run, family, engine_factory=engine_factory, worker=worker)
    model, progress = initial_model(family, run), Progress()
    for index in range(at, len(run.stages)):
        state = opened(model, settings=settings, index=index, before=progress)
        if resume is not None and index == at:
            log.info("resuming at step %d from %s", resume[1].step, resume[0])
            state.load(*resume)
        log.info("stage %s from step %d", state.stage.name, state.step)
        while (shortage := run_stage(state, tokens, settings=settings, hooks=hooks)) is not None:
            log.warning("%s", shortage)
            on_shortage(shortage)
            if worker.world_size > 1:
                raise GroupShortageError(shortage)
            settings = replace(settings, micro_batch_sequences=shortage.smaller)
            with scratch_folder("passes") as folder:
                state.save(folder)
                cursor, progress = state.cursor(), state.progress()
                state.release()
                model = initial_model(family, run)
                state = opened(model, settings=settings, index=index, before=progress)
                state.load(folder, cursor)
        if state.stop is not None:
            log.info("%s at step %d: %s", state.stop, state.step, state.stop_reason)
            return state
        if index + 1 < len(run.stages):
            model, progress = whole_model(state, state.engine.full_state_dict()), state.progress()
            state.release()
    state.stop = "finished"
    return state


def run_stage(
    state: TrainState, tokens: PackedTokens, *, settings: LoopSettings, hooks: Sequence[Hook]
) -> Shortage | None:
    """Train one stage to its end or until a hook stops the run; then None.

    Where passes do not fit the device's memory, the state is that before the step.
    """
    run, engine, worker = state.run, state.engine, state.worker
    training = run.training.of_stage(state.stage.name)
    first, asking = state.first_step, [hook for hook in hooks if isinstance(hook, StepHook)]
    end = first + state.stage.steps
    exchange = StepExchange(worker.world_size, engine.device, settings.lag)

    draws, device = draws_of(state, tokens), engine.device

    def prepare(step: int) -> list[MicroBatch]:
        drawn = draws.at(step)
        return [each.pinned() for each in drawn] if device.type == "cuda" else drawn

    ahead = device.type == "cuda" if settings.prepare_ahead is None else settings.prepare_ahead
    with Ahead(prepare, end if ahead else 0) as batches:
        while state.step < end and state.stop is None:
            began = time.perf_counter()
            inputs = batches.take(state.step)
            state.data_seconds += time.perf_counter() - began
            factor = learning_rate_factor(
                training.schedule, state.step - first, state.stage.steps, first_step=first
            )
            factor *= rate_change_factor(run, state.step)
            try:
                state.result = engine.step([each.on(device) for each in inputs], factor)
            except PassMemoryError as error:
                _, rows = passes_of(run, worker.world_size, state.micro_batch)
                return shortage_at(state.step, rows, str(error), stage=state.stage.name)
            except UpdateMemoryError as error:
                raise update_shortage(state.step, str(error), stage=state.stage.name) from None
            if state.average is not None:
                state.average.update()
            state.learning_rate = factor * training.optimizer.learning_rate
            state.step += 1
            asked = {
                hook.question: worker.rank == 0 and hook.asks(state)
                for hook in asking
                if hook.question
            }
            exchange.begin(state.step, state.result.means, state.result.norm, asked=asked)
            at_once = state.step == end or any(hook.acts_at(state.step) for hook in asking)
            state.known = exchange.known(at_once=at_once)
            state.elapsed_seconds += time.perf_counter() - began
            for hook in hooks:
                hook(state)
    return None


def draws_of(state: TrainState, tokens: PackedTokens) -> StageDraws:
    """What the state's worker draws in its stage."""
    return StageDraws(
        state.run,
        tokens,
        state.engine.module,
        first_step=state.first_step,
        rank=state.worker.rank,
        workers=state.worker.world_size,
        micro_batch_sequences=state.micro_batch,
    )


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
    before: Progress,
) -> TrainState:
    """A state whose engine trains stage `index` of `model`; steps and seconds follow `before`."""
    stage = run.stages[index]
    module = family.stage_module(model, run.objective, stage.name)
    if settings.checkpoints_activations:
        module.checkpoint_activations()
    groups = family.parameter_groups(module, run.objective, stage.name)
    count, rows = passes_of(run, worker.world_size, settings.micro_batch_sequences)
    training = run.training.of_stage(stage.name)
    how = EngineSettings(training, settings.zero_stage, count, settings.compile, rows)
    engine = engine_factory(module, groups, how)
    state = TrainState(
        run,
        family,
        worker,
        model,
        engine,
        settings.zero_stage,
        stage_index=index,
        micro_batch=settings.micro_batch_sequences,
        step=before.step,
        elapsed_seconds=before.elapsed_seconds,
        data_seconds=before.data_seconds,
        validation=before.validation,
    )
    if run.training.ema_decay is not None and index == len(run.stages) - 1:
        state.average = WeightAverage(engine.module, run.training.ema_decay)
    return state
