"""What a part of a benchmark measures: a stage's training, or a model's generation."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch

from cola.evaluation.tasks.speed import first_tokens
from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.study import RunSpec
from orchestration.benchmark.memory import kept_bytes
from orchestration.benchmark.parts import Part
from orchestration.benchmark.steps import (
    Execution,
    device_of,
    drawn,
    set_threads,
    step_times,
    synchronise,
)
from orchestration.planning.memory import memory_plan
from orchestration.planning.plan import PlannedRun
from orchestration.training.hardware import peak_flops

REPEATS = 2  # chosen: of a generation; the fastest counts


def measure(part: Part, seconds: float) -> dict[str, Any]:
    """What the part's measurement gives, as plain values.

    Raises:
        ColaError: see `step_times`.
    """
    set_threads(part.run.resources)
    if part.stage is not None:
        return training(part.run, part.stage, seconds=seconds)
    return generation(part.run.spec, part.batch or 1, device_of(part.run.resources))


def training(run: PlannedRun, stage: str, *, seconds: float) -> dict[str, Any]:
    """Tokens a second, MFU, model FLOPs, memory against the plan, the first step."""
    spec, device = run.spec, device_of(run.resources)
    execution = Execution.of(run.resources, run.micro_batch_sequences)
    times = step_times(spec, stage, execution, seconds=seconds)
    planned = next(item for item in spec.stages if item.name == stage)
    flops = planned.train_flops_per_token_executed
    peak = peak_flops(spec.training.precision, device)
    return {
        "precision": spec.training.precision,
        "compile": execution.compile,
        "activation_checkpointing": execution.checkpoints_activations,
        "vocabulary": spec.model.vocab_size,
        "sequence_length": spec.data.sequence_length,
        **asdict(times),
        "tokens_per_second": times.tokens_per_second,
        "train_flops_per_token": {
            "executed": flops,
            "nominal": planned.train_flops_per_token_nominal,
        },
        "peak_flops": peak,
        "mfu": times.tokens_per_second * flops / peak,
        "memory": memory(run, stage, device, micro=times.micro_batch_sequences)
        | {"peak_bytes": times.peak_bytes},
    }


def memory(run: PlannedRun, stage: str, device: torch.device, *, micro: int) -> dict[str, Any]:
    """Bytes that the plan expects, and on a CPU those that a micro-batch's forward pass keeps.

    The plan is of the family's largest stage, without what it reserves beside. What is kept is not
    known with activation checkpointing, of which autograd shows nothing.
    """
    resources = run.resources.model_copy(
        update={"workers": 1, "min_workers": None, "micro_batch_sequences": micro}
    )
    plan = memory_plan(run.spec, resources, 0, device_bytes=math.inf)
    found: dict[str, Any] = {
        "planned_state_bytes": plan.states,
        "planned_activation_bytes": plan.activations,
    }
    if device.type == "cpu" and not resources.checkpoints_activations:
        spec, family = run.spec, family_of(run.spec.family)
        module = family.stage_module(family.build(spec.model), spec.objective, stage)
        (batch,) = drawn(spec, module, device, rows=micro, count=1)
        found["kept_bytes"] = kept_bytes(module, batch.inputs, spec.training.precision)
    return found


@torch.no_grad()
def generation(spec: RunSpec, batch: int, device: torch.device) -> dict[str, Any]:
    """Tokens a second of a batch of random prompts, and the time to the first tokens of one."""
    family, settings = family_of(spec.family), spec.evaluation.generation
    precision = spec.training.precision
    model = family.build(spec.model).to(device, getattr(torch, precision)).eval()
    length = spec.evaluation.prompt_tokens
    draws = torch.Generator().manual_seed(0)
    shape = (batch, length)
    prompts = torch.randint(0, spec.model.vocab_size, shape, generator=draws).tolist()
    taken = []
    for _ in range(REPEATS + 1):  # the first one chooses kernels
        began = time.perf_counter()
        stream = Stream(0, 0, range(batch), device=device)
        family.generate(model, prompts, settings, stream=stream, eos_token_id=None)
        synchronise(device)
        taken.append(time.perf_counter() - began)
    found: dict[str, Any] = {
        "precision": precision,
        "prompt_tokens": length,
        "new_tokens": settings.max_new_tokens,
        "seconds": min(taken[1:]),
        "first_seconds": taken[0],
        "tokens_per_second": batch * settings.max_new_tokens / min(taken[1:]),
        "flops_per_token": definition_of(spec.family)
        .generation_flops_per_token(spec.model, settings, length, batch=batch)
        .total,
        "evaluations_per_token": family.generation_evaluations(model, settings, length)
        / settings.max_new_tokens,
    }
    if batch == 1:
        made, latency = first_tokens(family, model, prompts[0], settings=settings, device=device)
        found |= {"first_tokens": made, "first_tokens_seconds": latency}
    return found
