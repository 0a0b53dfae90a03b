"""Training rates that `cola plan --calibrate` measured, kept beside the studies (torch-free)."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path

from cola.errors import StorageError
from cola.files import read_json, write_atomically
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.planning.accelerators import accelerator_name
from orchestration.state.paths import OutputFolder

log = logging.getLogger(__name__)

REMEDY = "remove it, and `cola plan --calibrate` measures again"

Rates = Mapping[str, float]  # by `rate_key`


EVALUATION = "evaluation"
FIRST_STEP = "first step of "


def rate_key(
    spec: RunSpec, resources: ResourcesSpec, what: str, *, machine: str | None = None
) -> str:
    """Name of a measurement: machine, threads, precision, batch, model, objective and `what`.

    `what` is a stage, whose rate is the executed FLOP/s of one worker, EVALUATION, whose value is
    the seconds of one evaluation, or FIRST_STEP with a stage: the seconds that its first step takes
    more than another. `machine` is this one, unless it is given.
    """
    threads = f"{resources.cpus_per_worker:g}x{resources.workers}"
    if resources.gpus_per_worker:
        threads += f"x{resources.gpus_per_worker:g}gpu"
    batch = f"{spec.training.batch_sequences}x{spec.data.sequence_length}"
    if resources.micro_batch_sequences is not None:
        batch += f"by{resources.micro_batch_sequences}"
    precision = spec.training.precision + ("+compile" if resources.compiles else "")
    precision += "+recompute" if resources.checkpoints_activations else ""
    model = f"{spec.model.content_hash()[:12]}-{spec.objective.content_hash()[:8]}"
    return "/".join([machine or platform.node(), threads, precision, batch, model, what])


def machines_of(resources: ResourcesSpec) -> list[str]:
    """Names under which rates of such workers are kept: this machine's, and of workers with GPUs
    the accelerator's, as GPUs of a kind are alike wherever they are."""
    named = [accelerator_name(resources)] if resources.gpus_per_worker else []
    return [platform.node(), *named]


def rate_of(rates: Rates, spec: RunSpec, resources: ResourcesSpec, what: str) -> float | None:
    """The measurement of `what`: this machine's first, then the accelerator's; None: there is
    none."""
    for machine in machines_of(resources):
        found = rates.get(rate_key(spec, resources, what, machine=machine))
        if found is not None:
            return found
    return None


def first_step_of(rates: Rates, spec: RunSpec, resources: ResourcesSpec, stage: str) -> float:
    """Seconds that a stage's first step takes more than another, as compilation does; 0 where that
    was not measured."""
    return rate_of(rates, spec, resources, FIRST_STEP + stage) or 0.0


def measured_rates(root: Path) -> dict[str, float]:
    """All rates measured so far in an output folder, by `rate_key`.

    A damaged file is reported and passes for none: rates only make costs more exact.
    """
    path = OutputFolder(root).calibration
    try:
        values = read_json(path, remedy=REMEDY)
        wrong = [key for key, value in values.items() if not _is_rate(value)]
        if wrong:
            raise StorageError(f"{path}: {wrong[0]} is no positive number; {REMEDY}")
    except StorageError as error:
        log.warning("%s; costs rest on none of its rates", error)
        return {}
    return {key: float(value) for key, value in values.items()}


def _is_rate(value: object) -> bool:
    return type(value) in (int, float) and 0 < float(str(value)) < float("inf")


def save_rates(root: Path, rates: Rates) -> None:
    """Add rates to those of the output folder; a new measurement replaces an old one."""
    merged = measured_rates(root) | dict(rates)
    log.info("%d measured rates in %s", len(merged), OutputFolder(root).calibration)
    write_atomically(OutputFolder(root).calibration, json.dumps(merged, indent=1))
