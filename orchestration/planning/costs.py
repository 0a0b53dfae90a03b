"""What a run takes: time, accelerator hours, money, storage (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from cola.families.registry import definition_of
from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.planning.accelerators import STARTUP_SECONDS, worker_flops
from orchestration.planning.memory import MOMENTS, WEIGHT
from orchestration.planning.rates import Rates, rate_key


@dataclass(frozen=True)
class Costs:
    """Of one run. `calibrated` says that the time rests on rates measured on this machine.

    The time is that of start-up, training and validations.
    """

    seconds: float
    accelerator_hours: float
    price: float | None
    checkpoint_bytes: float
    calibrated: bool


def run_costs(
    spec: RunSpec,
    resources: ResourcesSpec,
    parameters: int,
    keep: int,
    rates: Rates,
    first_step: int = 0,
) -> Costs:
    """Costs of one run on its workers; `keep` checkpoints are kept, and the exported model.

    Its first `first_step` steps are carried out by another run.
    """
    flops = worker_flops(resources, spec.training.precision)
    seconds, calibrated = STARTUP_SECONDS, True
    for stage, work in zip(spec.stages, executed_flops(spec, first_step), strict=True):
        measured = rates.get(rate_key(spec, resources, stage.name))
        calibrated = calibrated and measured is not None
        seconds += work / ((measured or flops) * resources.workers)
    evaluation = evaluation_flops(spec) / (flops * resources.workers)
    measured = rates.get(rate_key(spec, resources, "evaluation"))
    seconds += spec.evaluation.points * (evaluation if measured is None else measured)
    seconds += task_flops(spec) / flops
    units = resources.accelerators
    hours = seconds / 3600 * units
    price = None if resources.price_per_hour is None else hours * resources.price_per_hour
    stored = keep * (WEIGHT + MOMENTS) * parameters + WEIGHT * parameters
    return Costs(seconds, hours, price, stored, calibrated)


def executed_flops(spec: RunSpec, first_step: int = 0) -> list[float]:
    """Training FLOPs that a run carries out in each stage from `first_step` on."""
    found, left = [], first_step
    for stage in spec.stages:
        skipped = min(left, stage.steps)
        tokens = (stage.steps - skipped) * spec.tokens_per_step
        found.append(tokens * stage.train_flops_per_token_executed)
        left -= skipped
    return found


def evaluation_flops(spec: RunSpec) -> float:
    """FLOPs of one validation of the run (its NLL; samples are generated once, by one worker)."""
    settings, length = spec.evaluation, spec.data.sequence_length
    family = definition_of(spec.family)
    each = family.likelihood_flops_per_token(spec.model, settings.likelihood, length).total
    return settings.validation_sequences * length * each


def sample_flops(spec: RunSpec) -> float:
    """FLOPs of the finished run's text samples."""
    settings, new = spec.evaluation, spec.evaluation.generation.max_new_tokens
    if not settings.samples:
        return 0.0
    each = definition_of(spec.family).generation_flops_per_token(
        spec.model, settings.generation, settings.prompt_tokens, settings.samples
    )
    return settings.samples * new * each.total


def task_flops(spec: RunSpec) -> float:
    """FLOPs of the tasks on the finished model, by one worker: prompts of `prompt_tokens`, and
    answers as long as they may be."""
    settings, length, items = spec.evaluation, spec.data.sequence_length, spec.evaluation.task_items
    family, total = definition_of(spec.family), 0.0
    for task in settings.tasks:
        if task == "likelihood":
            each = family.likelihood_flops_per_token(spec.model, settings.likelihood, length).total
            total += items * length * each
            continue
        new = settings.generation.max_new_tokens
        new = FEW_SHOT_NEW_TOKENS if task in FEW_SHOT_TASKS else new
        generation = settings.generation.model_copy(update={"max_new_tokens": new})
        prompt = 0 if task == "unconditional" else settings.prompt_tokens
        total += (
            items * new * family.generation_flops_per_token(spec.model, generation, prompt).total
        )
    return total


def bytes_per_token_id(vocab_size: int) -> int:
    """How wide packed token ids are on disk."""
    return 2 if vocab_size <= 2**16 else 4
