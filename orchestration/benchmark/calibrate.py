"""Measures this machine's training rates for a plan's models: a few steps of every stage."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from cola.errors import RunError, SpecError
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec, StudySpec
from orchestration.benchmark.steps import Execution, evaluation_seconds, set_threads, step_times
from orchestration.planning.accelerators import accelerator_in, accelerator_name
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import EVALUATION, FIRST_STEP, rate_key, save_rates
from orchestration.state.paths import output_root

SECONDS = 2.0  # of measured steps a stage; chosen

log = logging.getLogger(__name__)


def calibrate(study: StudySpec, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Measured rates of every distinct run of the plan, by `rate_key`; they are saved, too.

    Steps have the run's own micro-batches, precision and way of execution. As many processes are
    measured side by side as would train: they share caches, memory and GPUs. Of runs with GPUs the
    rates hold for every machine with such a GPU.

    Raises:
        SpecError: the plan needs GPUs and this machine has none, or another kind; a micro-batch
            does not fit.
        RunError: a stage cannot be compiled here, or a measuring process died.
    """
    machines = [platform.node(), *gpu_names(study.resources)]
    distinct = list({rate_key(run.spec, run.resources, ""): run for run in runs}.values())
    counts = [side_by_side(study, run.resources, len(runs)) for run in distinct]
    rates: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(counts), mp_context=context) as pool:
        for run, count in zip(distinct, counts, strict=True):
            for what, value in measured_side_by_side(run, count, pool).items():
                for machine in machines:
                    rates[rate_key(run.spec, run.resources, what, machine=machine)] = value
                log.info("%s, %s: %.3g", run.name, what, value)
    save_rates(output_root(study), rates)
    return rates


def gpu_names(resources: ResourcesSpec) -> list[str]:
    """The plan's accelerator, if this machine has it; none where workers have no GPUs.

    Raises:
        SpecError: there is no GPU, or one of another kind than the study names.
    """
    if not resources.gpus_per_worker:
        return []
    if not torch.cuda.is_available():
        raise SpecError(
            f"resources.gpus_per_worker={resources.gpus_per_worker:g}: --calibrate measures this "
            "machine, which has no GPU; calibrate on a node of the cluster, or give resources.mfu"
        )
    planned, own = accelerator_name(resources), torch.cuda.get_device_name()
    if planned in own:
        return [planned]
    known = accelerator_in(own)
    if resources.accelerator is not None or known is not None:
        other = "" if known is None else f", or set resources.accelerator={known}"
        raise SpecError(
            f"resources.accelerator={planned}: --calibrate measures this machine, whose GPU is "
            f"{own}; calibrate on a node with the right one{other}"
        )
    log.warning("%s is no GPU that plans know: its memory is planned as that of %s", own, planned)
    return []


def side_by_side(study: StudySpec, resources: ResourcesSpec, runs: int) -> int:
    """Worker processes that would train on this machine, or its first GPU, at the same time."""
    at_once = min(runs, study.resources.concurrent_runs or runs) * resources.workers
    if resources.gpus_per_worker:
        room = int(1 / resources.gpus_per_worker + 1e-9)
    else:
        room = int((os.cpu_count() or 1) / resources.cpus_per_worker)
    return max(1, min(at_once, room))


def measured_side_by_side(
    run: PlannedRun, processes: int, pool: ProcessPoolExecutor
) -> dict[str, float]:
    """Mean over so many processes of what each measures.

    Raises:
        RunError: one of them died.
    """
    jobs = [
        pool.submit(measure_rates, run.spec, run.resources, run.micro_batch_sequences, seed=seed)
        for seed in range(processes)
    ]
    try:
        measured = [job.result() for job in jobs]
    except BrokenProcessPool:
        raise RunError(
            f"--calibrate: a process that measured {run.name} died, as it does where memory is "
            "short; set a smaller resources.micro_batch_sequences or resources.concurrent_runs"
        ) from None
    return {what: statistics.mean(each[what] for each in measured) for what in measured[0]}


def measure_rates(
    spec: RunSpec, resources: ResourcesSpec, micro_batch_sequences: int | None, *, seed: int
) -> dict[str, float]:
    """Of one worker: executed FLOP/s by stage, the seconds that a stage's first step takes more
    where it compiles, and the seconds of its share of an evaluation; on random tokens.

    Raises:
        ColaError: see `step_times`.
    """
    set_threads(resources)
    execution = Execution.of(resources, micro_batch_sequences)
    rates: dict[str, float] = {}
    for stage in spec.stages:
        times = step_times(spec, stage.name, execution, seconds=SECONDS, seed=seed)
        rates[stage.name] = times.tokens_per_second * stage.train_flops_per_token_executed
        if execution.compile:
            # Of rates that are kept none is 0: a millisecond stands for nothing.
            rates[FIRST_STEP + stage.name] = max(times.first_step_seconds, 1e-3)
    rates[EVALUATION] = evaluation_seconds(spec, execution)
    return rates
