"""What a run costs: time, accelerator hours, money, storage (torch-free)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cola.errors import first_of
from cola.families.registry import definition_of
from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from cola.study.task_lengths import PROMPTED_TASKS
from orchestration.planning.accelerators import (
    STARTUP_SECONDS,
    WARM_STARTUP_SECONDS,
    Utilization,
    utilization,
    worker_flops,
)
from orchestration.planning.memory import MOMENTS, WEIGHT
from orchestration.planning.rates import EVALUATION, Rates, first_step_of, rate_of

CALIBRATED = "measured by --calibrate"
# Forward, backward (twice a forward pass) and the forward pass again, over the first two.
RECOMPUTED = 4 / 3


@dataclass(frozen=True)
class Costs:
    """Costs of one run.

    `seconds` are of start-up, training, validation and tasks; `price` is None without a price per
    hour. `utilization` has the MFU of each stage, with its origin.
    """

    seconds: float
    accelerator_hours: float
    price: float | None
    checkpoint_bytes: float
    utilization: Mapping[str, Utilization]

    @property
    def calibrated(self) -> bool:
        """Whether every stage's rate was measured by `--calibrate`."""
        return all(found.basis == CALIBRATED for found in self.utilization.values())


def run_costs(
    spec: RunSpec,
    resources: ResourcesSpec,
    parameters: int,
    *,
    keep: int,
    rates: Rates,
    first_step: int = 0,
    warm: bool = False,
) -> Costs:
    """Costs of a run of `parameters` whose first `first_step` steps another run trains.

    A `warm` run finds the process of one before it. Stored are `keep` checkpoints and the exported
    model. Validation and tasks run at the MFU of the last stage where they are not measured.
    """
    seconds = WARM_STARTUP_SECONDS if warm else STARTUP_SECONDS
    used: dict[str, Utilization] = {}
    flops = 0.0
    for stage, stage_flops in zip(spec.stages, executed_flops(spec, first_step), strict=True):
        measured = rate_of(rates, spec, resources, stage.name)
        used[stage.name] = (
            utilization(spec, resources, stage.name)
            if measured is None
            else Utilization(
                measured / worker_flops(resources, spec.training.precision, 1.0), CALIBRATED
            )
        )
        flops = worker_flops(resources, spec.training.precision, used[stage.name].mfu)
        # MFUs count the model's own FLOPs; measured rates have what is computed again in them.
        again = RECOMPUTED if resources.checkpoints_activations and measured is None else 1.0
        seconds += again * stage_flops / (flops * resources.workers)
        if stage_flops:
            seconds += first_step_of(rates, spec, resources, stage.name)
    evaluation = evaluation_flops(spec) / (flops * resources.workers)
    measured = rate_of(rates, spec, resources, EVALUATION)
    seconds += evaluations(spec) * (evaluation if measured is None else measured)
    seconds += task_flops(spec) / flops
    hours = seconds / 3600 * resources.accelerators
    price = None if resources.price_per_hour is None else hours * resources.price_per_hour
    stored = keep * (WEIGHT + MOMENTS) * parameters + WEIGHT * parameters
    return Costs(
        seconds=seconds,
        accelerator_hours=hours,
        price=price,
        checkpoint_bytes=stored,
        utilization=used,
    )


def warm_starts(needs: Iterable[ResourcesSpec]) -> list[bool]:
    """Whether each run, one after another, finds the process of one before it.

    On a cluster of the driver's own, runs of one worker do; on one that is joined none does.
    """
    before: set[tuple[float, float]] = set()
    found = []
    for each in needs:
        kind = (each.cpus_per_worker, each.gpus_per_worker)
        found.append(each.is_for_one_worker and kind in before)
        before = before | {kind} if each.is_for_one_worker else set()
    return found


def basis_of(costs: Sequence[Costs], accelerator: str) -> str:
    """What the hours rest on, as a clause: measured rates, or MFUs with their origin."""
    if all(cost.calibrated for cost in costs):
        return "rates measured by --calibrate"
    used = [found for cost in costs for found in cost.utilization.values()]
    some = [found for found in used if found.basis != CALIBRATED]
    least, most = (f"{pick(found.mfu for found in some):.3g}" for pick in (min, max))
    bases = ", ".join(dict.fromkeys(found.basis for found in some))
    clauses = list(dict.fromkeys(clause for found in some for clause in found.extrapolated))
    beyond = f"; extrapolated to {first_of(clauses, most=6)}" if clauses else ""
    rest = "; the rest at calibrated rates" if len(some) < len(used) else ""
    return (
        f"MFU {least if least == most else f'{least} to {most}'} of the {accelerator}'s peak, "
        f"{bases}{beyond}{rest}; --calibrate measures"
    )


def executed_flops(spec: RunSpec, first_step: int = 0) -> list[float]:
    """Executed training FLOPs of each stage from `first_step` on."""
    by_stage, left = [], first_step
    for stage in spec.stages:
        skipped = min(left, stage.steps)
        tokens = (stage.steps - skipped) * spec.tokens_per_step
        by_stage.append(tokens * stage.train_flops_per_token_executed)
        left -= skipped
    return by_stage


def evaluations(spec: RunSpec) -> int:
    """How often held-out sequences are scored: at each validation, and once on the test split."""
    return spec.evaluation.points + 1


def evaluation_flops(spec: RunSpec) -> float:
    """FLOPs of one validation: the NLL of all validation sequences."""
    settings, length = spec.evaluation, spec.data.sequence_length
    family = definition_of(spec.family)
    per_token = family.likelihood_flops_per_token(spec.model, settings.likelihood, length).total
    return settings.validation_sequences * length * per_token


def sample_flops(spec: RunSpec) -> float:
    """FLOPs of the finished model's text samples, which one worker generates once."""
    settings, new = spec.evaluation, spec.evaluation.generation.max_new_tokens
    if not settings.samples:
        return 0.0
    per_token = definition_of(spec.family).generation_flops_per_token(
        spec.model, settings.generation, settings.prompt_tokens, batch=settings.samples
    )
    return settings.samples * new * per_token.total


def task_flops(spec: RunSpec) -> float:
    """FLOPs of the finished model's tasks, which one worker answers.

    From above: prompts of `prompt_tokens`, and answers of the greatest length; with measurements on
    further held-out texts and at lengths beyond training.
    """
    settings, length, items = spec.evaluation, spec.data.sequence_length, spec.evaluation.task_items
    family, total = definition_of(spec.family), held_out_flops(spec) + context_flops(spec)
    for task in settings.tasks:
        if task == "predictive":
            total += settings.prompt_remainders * predictive_flops(spec)
            continue
        if task == "likelihood":
            flops = family.likelihood_flops_per_token(spec.model, settings.likelihood, length)
            total += items * length * flops.total
            continue
        new = settings.generation.max_new_tokens
        new = FEW_SHOT_NEW_TOKENS if task in FEW_SHOT_TASKS else new
        generation = settings.generation.model_copy(update={"max_new_tokens": new})
        prompt = settings.prompt_tokens
        if task == "unconditional":
            generation, prompt = generation.ancestral(), 0
        flops = family.generation_flops_per_token(spec.model, generation, prompt)
        lengths = settings.prompt_remainders if task in PROMPTED_TASKS else 1
        total += lengths * items * new * flops.total
    return total


def held_out_flops(spec: RunSpec) -> float:
    """FLOPs of the finished model's measurements on further held-out texts: the likelihood of each
    and of the study's own, and predictive draws of each; 0 where there is no such text."""
    count = len(spec.evaluation.held_out)
    if not count:
        return 0.0
    return (count + 1) * evaluation_flops(spec) + count * predictive_flops(spec)


def context_flops(spec: RunSpec) -> float:
    """FLOPs of the finished model's measurements at lengths beyond training; 0 without any."""
    settings, trained, total = spec.evaluation, spec.data.sequence_length, 0.0
    family = definition_of(spec.family)
    for length in spec.readable_lengths:
        flops = family.likelihood_flops_per_token(spec.model, settings.likelihood, length)
        total += settings.sequences_of(length, trained) * length * flops.total
        new = settings.new_tokens_of_contexts(trained)
        generation = settings.generation.model_copy(update={"max_new_tokens": new})
        for context in (length, trained):
            made = family.generation_flops_per_token(spec.model, generation, context - new)
            total += settings.task_items * new * made.total
    return total


def predictive_flops(spec: RunSpec) -> float:
    """FLOPs of the finished model's predictive draws; 0 where it makes none.

    Each prompt is of a sequence of its own, at the next length in turn; the text may have fewer.
    """
    settings, length = spec.evaluation, spec.data.sequence_length
    asked = settings.predictive
    if not settings.predictive_prompts:
        return 0.0
    generation = settings.generation.ancestral().model_copy(update={"max_new_tokens": asked.tokens})
    cuts = asked.prompt_lengths(length, settings.prompt_tokens)
    definition = definition_of(spec.family)
    each = [
        definition.predictive_flops(spec.model, generation, cut, draws=asked.draws) for cut in cuts
    ]
    whole, rest = divmod(settings.predictive_prompts, len(each))
    return whole * sum(each) + sum(each[:rest])


def bytes_per_token_id(vocab_size: int) -> int:
    """Width of packed token ids on disk: 2 or 4 bytes."""
    return 2 if vocab_size <= 2**16 else 4
