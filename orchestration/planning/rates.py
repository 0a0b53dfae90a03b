"""Training rates that were measured on this machine, kept beside the studies (torch-free)."""

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
from orchestration.state.paths import OutputFolder

log = logging.getLogger(__name__)

REMEDY = "remove it, and `cola plan --calibrate` measures again"

Rates = Mapping[str, float]  # by `rate_key`


def rate_key(spec: RunSpec, resources: ResourcesSpec, what: str) -> str:
    """Name of a measurement: machine, threads, precision, batch, model and `what`.

    `what` is a stage, whose rate is the executed FLOP/s of one worker, or "evaluation", whose value
    is the seconds of one evaluation.
    """
    threads = f"{resources.cpus_per_worker:g}x{resources.workers}"
    batch = f"{spec.training.batch_sequences}x{spec.data.sequence_length}"
    parts = (platform.node(), threads, spec.training.precision, batch)
    return "/".join([*parts, spec.model.content_hash()[:12], what])


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
        log.warning("%s; costs rest on an assumed rate", error)
        return {}
    return {key: float(value) for key, value in values.items()}


def _is_rate(value: object) -> bool:
    return type(value) in (int, float) and 0 < float(str(value)) < float("inf")


def save_rates(root: Path, rates: Rates) -> None:
    """Add rates to those of the output folder; a new measurement replaces an old one."""
    merged = measured_rates(root) | dict(rates)
    log.info("%d measured rates in %s", len(merged), OutputFolder(root).calibration)
    write_atomically(OutputFolder(root).calibration, json.dumps(merged, indent=1))
