"""Training rates that were measured on this machine, kept beside the studies (torch-free)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

from cola.files import read_json, write_atomically
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec

FILE = "calibration.json"
Rates = Mapping[str, float]  # by `rate_key`


def rate_key(spec: RunSpec, resources: ResourcesSpec, what: str) -> str:
    """What a measurement holds for: machine, threads, precision, model, and a stage.

    A stage's rate is executed FLOP/s of one worker; `evaluation` is seconds of one evaluation.
    """
    threads = f"{resources.cpus_per_worker:g}x{resources.workers}"
    batch = f"{spec.training.batch_sequences}x{spec.data.sequence_length}"
    parts = (platform.node(), threads, spec.training.precision, batch)
    return "/".join([*parts, spec.model.content_hash()[:12], what])


def measured_rates(root: Path) -> dict[str, float]:
    """All rates measured so far in an output folder."""
    return {key: float(str(value)) for key, value in read_json(root / FILE).items()}


def keep_rates(root: Path, rates: Rates) -> None:
    """Add rates to those kept; a new measurement replaces an old one."""
    write_atomically(root / FILE, json.dumps(measured_rates(root) | dict(rates), indent=1))
