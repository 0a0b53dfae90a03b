"""Optimiser steps of a run's stages, timed as the run makes them, on random tokens."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cola.data import micro_batches
from cola.errors import RunError, SpecError, one_line
from cola.families.interface.family import Batch, Family, StageModule
from cola.families.registry import family_of, has_likelihood
from cola.seeding import Stream
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.step.draws import MicroBatch
from orchestration.step.micro_batch import largest_pass
from orchestration.training.engine import EngineSettings, PassMemoryError, autocast
from orchestration.training.hardware import compiles_here
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.validation import ROWS_AT_ONCE

MIN_STEPS = 3  # chosen
# Chosen: of a step of more micro-batches, so many are made, as each takes as long as another. The
# optimiser's part of the step then counts for too much.
MOST_MICRO_BATCHES = 4


@dataclass(frozen=True)
class Execution:
    """How a worker of a run executes its steps."""

    device: torch.device
    workers: int = 1
    micro_batch_sequences: int | None = None
    compile: bool = False
    checkpoints_activations: bool = False

    @classmethod
    def of(cls, resources: ResourcesSpec, micro_batch_sequences: int | None) -> Execution:
        """As workers with these resources execute on this machine.

        Raises:
            RunError: they are to compile, and the machine cannot.
        """
        return cls(
            device_of(resources),
            resources.workers,
            micro_batch_sequences,
            compiles_here(resources),
            resources.checkpoints_activations,
        )


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a stage's steps on one worker, and what a step holds.

    `first_step_seconds` is what the first steps take in all more than others; `peak_bytes` of the
    device's memory include weights and optimiser, and are None on a CPU.
    """

    seconds: float
    first_step_seconds: float
    tokens: int
    micro_batch_sequences: int
    accumulation: int
    steps: int
    peak_bytes: int | None

    @property
    def tokens_per_second(self) -> float:
        """Of the worker."""
        return self.tokens / self.seconds


def step_times(
    spec: RunSpec, stage: str, execution: Execution, *, seconds: float, seed: int = 0
) -> StepTimes:
    """Median time of the stage's optimiser steps with their draws, of `seconds` in all.

    Each has the worker's share of the batch in the run's micro-batches, precision and way of
    execution; nothing is communicated. Where a group of parameters rests in most steps, steps of
    both kinds are measured in turn, and weighed as often as training makes them.

    Raises:
        SpecError: a micro-batch does not fit the device's memory.
        RunError: the stage fails with compiled blocks.
    """
    try:
        return _timed(spec, stage, execution, seconds=seconds, seed=seed)
    except (torch.OutOfMemoryError, PassMemoryError):
        raise SpecError(
            f"resources.micro_batch_sequences={_rows(spec, execution)}: stage {stage} of "
            f"{spec.family} does not fit the memory of {device_name(execution.device)}; give a "
            "smaller one"
        ) from None
    except RuntimeError as error:
        if not execution.compile:
            raise
        raise RunError(
            f"stage {stage} of {spec.family} fails with compiled blocks ({one_line(error)}); set "
            "resources.compile=false"
        ) from error
    finally:
        gc.collect()
        if execution.compile:  # torch counts forms of a block over all sizes, and fails at a limit
            torch.compiler.reset()


def _timed(
    spec: RunSpec, stage: str, execution: Execution, *, seconds: float, seed: int
) -> StepTimes:
    device, family = execution.device, family_of(spec.family)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(seed)
    module: Any = family.stage_module(family.build(spec.model), spec.objective, stage)
    if execution.checkpoints_activations:
        module.checkpoint_activations()
    groups = family.parameter_groups(module, spec.objective, stage)
    interval = max(int(group.get("interval", 1)) for group in groups)
    count = min(_accumulation(spec, execution), MOST_MICRO_BATCHES)
    rows = _rows(spec, execution)
    settings = EngineSettings(spec.training.of_stage(stage), 0, count, execution.compile)
    engine = TorchEngine(module, groups, settings, device=device)
    # The first step includes lazy initialisation; with `compile` a step of each kind compiles.
    warm = 1 if interval == 1 and not execution.compile else 2
    taken: list[float] = []
    while len(taken) < MIN_STEPS + warm or sum(taken[warm:]) < seconds:
        began = time.perf_counter()
        batches = drawn(
            spec,
            engine.module,
            device,
            rows=rows,
            count=count,
            step=len(taken),
            stage_step=interval - 1 if len(taken) % 2 else 0,
        )
        engine.step(batches, 1.0)
        synchronise(device)
        taken.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    engine.close()
    median = statistics.median(taken[warm:])
    if interval > 1:
        rested, trained = (statistics.median(taken[warm + kind :: 2]) for kind in (0, 1))
        median = (trained + (interval - 1) * rested) / interval
    return StepTimes(
        seconds=median,
        first_step_seconds=max(0.0, sum(taken[:warm]) - warm * median),
        tokens=count * rows * spec.data.sequence_length,
        micro_batch_sequences=rows,
        accumulation=_accumulation(spec, execution),
        steps=len(taken),
        peak_bytes=peak,
    )


def drawn(
    spec: RunSpec,
    module: StageModule,
    device: torch.device,
    *,
    rows: int,
    count: int = 1,
    step: int = 0,
    stage_step: int = 0,
    tokens: Tensor | None = None,
) -> list[MicroBatch]:
    """`count` micro-batches of `rows` sequences with their draws; `tokens` are random unless they
    are given, and the same in each."""
    batches = []
    with torch.no_grad():
        for first in range(0, count * rows, rows):
            positions = list(range(first, first + rows))
            batch = Batch(
                random_tokens(spec, rows, device) if tokens is None else tokens.to(device),
                Stream(0, step, positions, device=device),
                positions,
                count * rows,
                stage_step=stage_step,
                images=random_images(spec, rows, device),
            )
            batches.append(MicroBatch(module.draw(batch)))
    return batches


def random_images(spec: RunSpec, rows: int, device: torch.device) -> Tensor | None:
    """An image for each of `rows` sequences; None of a corpus without images."""
    if spec.data.image_shape is None:
        return None
    shape = (rows, *spec.data.image_shape)
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8).to(device)


def _accumulation(spec: RunSpec, execution: Execution) -> int:
    size = execution.micro_batch_sequences
    return micro_batches(spec.training.batch_sequences, execution.workers, size)


def _rows(spec: RunSpec, execution: Execution) -> int:
    size = execution.micro_batch_sequences
    return largest_pass(spec.training.batch_sequences, execution.workers, size)


@torch.no_grad()
def evaluation_seconds(spec: RunSpec, execution: Execution) -> float:
    """Seconds of a worker's share of the validation likelihood, extrapolated from a pass."""
    family, device = family_of(spec.family), execution.device
    model = family.build(spec.model).to(device).eval()
    share = -(-spec.evaluation.validation_sequences // execution.workers)
    rows = min(ROWS_AT_ONCE, share)
    tokens = random_tokens(spec, rows, device)
    taken = []
    for _ in range(2 if device.type == "cuda" else 1):  # a GPU's first pass chooses its kernels
        began = time.perf_counter()
        _score(spec, family, model, tokens=tokens)
        synchronise(device)
        taken.append(time.perf_counter() - began)
    return taken[-1] * share / rows


def _score(spec: RunSpec, family: Family, model: torch.nn.Module, *, tokens: torch.Tensor) -> None:
    stream = Stream(0, 0, range(len(tokens)), device=tokens.device)
    with autocast(tokens.device, spec.training.precision):
        if has_likelihood(spec.family, spec.model, spec.evaluation.likelihood):
            family.likelihood(model, tokens, spec.evaluation.likelihood, stream=stream)
        else:
            family.measurements(model, tokens, stream)


def random_tokens(spec: RunSpec, rows: int, device: torch.device) -> Tensor:
    """Random token ids (rows, L)."""
    shape = (rows, spec.data.sequence_length)
    return torch.randint(0, spec.model.vocab_size, shape, device=device)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(resources: ResourcesSpec) -> torch.device:
    """Where a worker with these resources trains."""
    return torch.device("cuda" if resources.gpus_per_worker else "cpu")


def set_threads(resources: ResourcesSpec) -> None:
    """Give this process's torch the threads of a worker."""
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))


def device_name(device: torch.device) -> str:
    """The GPU's name; "the CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
