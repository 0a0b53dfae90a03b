"""The folder of a sweep: one driver at a time, and one sweep for all of its trials."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cola.errors import SpecError
from cola.files import file_lock, write_atomically
from cola.records import Artifact, SweepFile
from cola.spec import load_yaml
from cola.study import StudySpec
from orchestration.state.ledger import LeaseHeldError
from sweeps.space.spec import SweepSpec
from sweeps.space.storage import storage_errors

log = logging.getLogger(__name__)

# Keys of a sweep that do not change the results of its trials.
CHANGEABLE_SWEEP_KEYS = (
    "description",
    "question",
    "answer",
    "budget",
    "concurrent_trials",
    "scales",
    "warm_workers",
)
# Keys of its base study that do not.
CHANGEABLE_STUDY_KEYS = ("resources", "checkpoint", "tracking", "description", "output")


@contextlib.contextmanager
def exclusive_driver(folder: Path, name: str) -> Iterator[None]:
    """Keep other drivers from the sweep inside the block.

    Raises:
        LeaseHeldError: another process runs the sweep.
        StorageError: the folder cannot be locked.
    """
    lock = folder / SweepFile.LOCK
    with contextlib.ExitStack() as stack:
        with storage_errors(lock):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(file_lock(lock, wait=False))
            except BlockingIOError:
                raise LeaseHeldError(
                    f"sweep {name}: is being run by another process, which holds {lock}; wait for "
                    "it or stop it, or give this sweep another name"
                ) from None
        yield


def save_spec(sweep: SweepSpec, base: StudySpec, folder: Path) -> None:
    """Write the sweep and its base study beside its trials.

    Raises:
        SpecError: the folder holds trials of another sweep of this name.
        StorageError: a file cannot be written.
    """
    path = folder / SweepFile.SPEC
    values = {"sweep": sweep.model_dump(mode="json"), "study": base.model_dump(mode="json")}
    if path.exists() and (folder / SweepFile.TRIALS).exists():
        check_same_sweep(load_yaml(path), values, folder)
    log.debug("writing %s", path)
    with storage_errors(path):
        write_atomically(path, yaml.safe_dump(values, sort_keys=False))
        write_atomically(folder / Artifact.STUDY, base.to_yaml())


def check_same_sweep(former: dict[str, Any], present: dict[str, Any], folder: Path) -> None:
    """Check that the trials of a former call of a sweep can be continued by the present one.

    Raises:
        SpecError: keys that change their results differ.
    """
    former_sweep = former.get("sweep", {})
    differing = [
        key
        for key, value in present["sweep"].items()
        if key not in CHANGEABLE_SWEEP_KEYS and former_sweep.get(key) != value
    ]
    if result_settings(former.get("study", {})) != result_settings(present["study"]):
        differing.append("study")
    if differing:
        raise SpecError(
            f"{folder}: holds trials of another sweep of this name (other: "
            f"{', '.join(differing)}); name this one otherwise, or remove the folder"
        )


def result_settings(study: dict[str, Any]) -> dict[str, Any]:
    """The values of a study that decide its results."""
    return {key: value for key, value in study.items() if key not in CHANGEABLE_STUDY_KEYS}
