"""Measures this machine's training rates for a plan's models: a few steps of every stage."""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from cola.errors import SpecError
from cola.families.interface.family import Batch, Family, StageModule
from cola.families.registry import family_of
from cola.seeding import Stream
from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import rate_key, save_rates
from orchestration.state.paths import output_root
from orchestration.training.engine import EngineSettings, MicroBatch
from orchestration.training.torch_engine import TorchEngine

SECONDS = 2.0  # of measured steps a stage; chosen, as is the least number of steps
MIN_STEPS = 3

log = logging.getLogger(__name__)


def calibrate(study: StudySpec, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Measured rates of every distinct model of the plan, by `rate_key`; they are saved, too.

    As many copies are measured side by side as runs would train: they share caches and memory.

    Raises:
        SpecError: the plan needs GPUs and this machine has none.
    """
    resources = study.resources
    if resources.gpus_per_worker and not torch.cuda.is_available():
        raise SpecError(
            f"resources.gpus_per_worker={resources.gpus_per_worker:g}: --calibrate measures this "
            "machine, which has no GPU; calibrate on a node of the cluster, or give resources.mfu"
        )
    distinct = list({run.spec.model.content_hash(): run for run in runs}.values())
    threads = max(1, int(resources.cpus_per_worker))
    at_once = max(1, min(len(runs), (os.cpu_count() or 1) // (threads * resources.workers)))
    context = multiprocessing.get_context("spawn")
    rates: dict[str, float] = {}
    with ProcessPoolExecutor(at_once, mp_context=context) as pool:
        for run in distinct:
            jobs = [
                pool.submit(measure_rates, run.spec, threads, index) for index in range(at_once)
            ]
            measured = [job.result() for job in jobs]
            for what in measured[0]:
                mean = statistics.mean(values[what] for values in measured)
                rates[rate_key(run.spec, run.resources, what)] = mean
                log.info("%s, %s: %.3g", run.name, what, mean)
    save_rates(output_root(study), rates)
    return rates


def measure_rates(spec: RunSpec, threads: int, seed: int) -> dict[str, float]:
    """Executed FLOP/s by stage, and the seconds of one `evaluation`, on random tokens."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    family = family_of(spec.family)
    model = family.build(spec.model)
    rates: dict[str, float] = {}
    for stage in spec.stages:
        module = family.stage_module(model, spec.objective, stage.name)
        seconds = seconds_per_step(spec, family, module, stage=stage.name)
        flops = spec.tokens_per_step * stage.train_flops_per_token_executed
        rates[stage.name] = flops / seconds
    rates["evaluation"] = seconds_per_evaluation(spec, family, model)
    return rates


def seconds_per_step(spec: RunSpec, family: Family, module: StageModule, *, stage: str) -> float:
    """Median seconds of a few optimiser steps with their draws.

    Where a group of parameters rests in most steps, steps of both kinds are measured in turn, and
    weighed as often as training makes them.
    """
    groups = family.parameter_groups(module, spec.objective, stage)
    interval = max(int(group.get("interval", 1)) for group in groups)
    rows = spec.training.batch_sequences
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = TorchEngine(module, groups, EngineSettings(spec.training, 0, 1), device=device)
    seconds: list[float] = []
    while len(seconds) <= MIN_STEPS or sum(seconds[1:]) < SECONDS:
        began = time.perf_counter()
        tokens = random_tokens(spec, rows, device)
        batch = Batch(
            tokens,
            Stream(0, len(seconds), range(rows), device=device),
            list(range(rows)),
            rows,
            stage_step=interval - 1 if len(seconds) % 2 else 0,
        )
        with torch.no_grad():
            inputs = module.draw(batch)
        engine.step([MicroBatch(inputs)], 1.0)
        seconds.append(time.perf_counter() - began)
    # The first step includes lazy initialisation.
    if interval == 1:
        return statistics.median(seconds[1:])
    trained, rested = (statistics.median(seconds[first::2]) for first in (1, 2))
    return (trained + (interval - 1) * rested) / interval


@torch.no_grad()
def seconds_per_evaluation(spec: RunSpec, family: Family, model: torch.nn.Module) -> float:
    """Seconds of the validation likelihood, extrapolated from a few sequences."""
    rows = min(8, spec.evaluation.validation_sequences)
    device = next(model.parameters()).device
    tokens = random_tokens(spec, rows, device)
    model.eval()
    began = time.perf_counter()
    stream = Stream(0, 0, range(rows), device=device)
    family.likelihood(model, tokens, spec.evaluation.likelihood, stream=stream)
    return (time.perf_counter() - began) * spec.evaluation.validation_sequences / rows


def random_tokens(spec: RunSpec, rows: int, device: torch.device) -> torch.Tensor:
    """Random token ids (rows, L)."""
    shape = (rows, spec.data.sequence_length)
    return torch.randint(0, spec.model.vocab_size, shape, device=device)
