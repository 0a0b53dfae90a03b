"""Training rates that were measured on this machine, kept beside the studies (torch-free)."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path

from cola.files import read_json, write_atomically
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.state.paths import OutputFolder

log = logging.getLogger(__name__)

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
    """All rates measured so far in an output folder, by `rate_key`."""
    return {
        key: float(str(value)) for key, value in read_json(OutputFolder(root).calibration).items()
    }


def save_rates(root: Path, rates: Rates) -> None:
    """Add rates to those of the output folder; a new measurement replaces an old one."""
    merged = measured_rates(root) | dict(rates)
    log.info("%d measured rates in %s", len(merged), OutputFolder(root).calibration)
    write_atomically(OutputFolder(root).calibration, json.dumps(merged, indent=1))
