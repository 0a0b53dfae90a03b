"""What a run takes: time, accelerator hours, money, storage (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from cola.spec import RunSpec
from cola.spec.study import ResourcesSpec
from orchestration.accelerators import STARTUP_SECONDS, worker_flops
from orchestration.memory import MOMENTS, WEIGHT
from orchestration.rates import Rates, rate_key


@dataclass(frozen=True)
class Costs:
    """Of one run. `calibrated` says that the time rests on rates measured on this machine.

    The time is that of start-up, training and (where it was measured) evaluations.
    """

    seconds: float
    accelerator_hours: float
    price: float | None
    checkpoint_bytes: float
    calibrated: bool


def run_costs(
    spec: RunSpec, resources: ResourcesSpec, parameters: int, keep: int, rates: Rates
) -> Costs:
    """Costs of one run on its workers; `keep` checkpoints are kept, and the exported model."""
    flops = worker_flops(resources, spec.training.precision)
    seconds, calibrated = STARTUP_SECONDS, True
    for stage in spec.stages:
        work = stage.steps * spec.tokens_per_step * stage.train_flops_per_token_executed
        measured = rates.get(rate_key(spec, resources, stage.name))
        calibrated = calibrated and measured is not None
        seconds += work / ((measured or flops) * resources.workers)
    seconds += spec.evaluation.points * rates.get(rate_key(spec, resources, "evaluation"), 0.0)
    units = resources.workers * (resources.gpus_per_worker or resources.cpus_per_worker)
    hours = seconds / 3600 * units
    price = None if resources.price_per_hour is None else hours * resources.price_per_hour
    stored = keep * (WEIGHT + MOMENTS) * parameters + WEIGHT * parameters
    return Costs(seconds, hours, price, stored, calibrated)


def bytes_per_token_id(vocab_size: int) -> int:
    """How wide packed token ids are on disk."""
    return 2 if vocab_size <= 2**16 else 4
