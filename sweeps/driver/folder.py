"""The folder of a sweep: one driver at a time, and one sweep for all of its trials."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cola.errors import SpecError, StorageError
from cola.files import file_lock, write_atomically
from cola.records import Artifact, SweepFile
from cola.spec import load_yaml
from cola.spec.locations import located
from cola.spec.yaml_text import dump_yaml
from cola.study import StudySpec
from orchestration.state.ledger import LeaseHeldError
from orchestration.state.paths import StudyFolder
from sweeps.search.trial_log import SweepLog
from sweeps.space.spec import SweepSpec
from sweeps.space.storage import storage_errors

log = logging.getLogger(__name__)

# Keys of a sweep that do not change the results of its trials, or do so through the base study,
# which is compared itself.
CHANGEABLE_SWEEP_KEYS = (
    "study",
    "set",
    "description",
    "question",
    "answer",
    "budget",
    "concurrent_trials",
    "scales",
    "warm_workers",
    "rungs",  # arms, where the trials begin
    "widening",
)
# Keys of its base study that do not.
CHANGEABLE_STUDY_KEYS = (
    "resources",
    "checkpoint",
    "tracking",
    "description",
    "output",
    "output_mirror",
)


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


def save_spec(
    sweep: SweepSpec, base: StudySpec, folder: Path, *, fingerprint: str, trial_log: SweepLog
) -> None:
    """Write the sweep and its base study beside its trials.

    `fingerprint` is that of the base study's corpus.

    Raises:
        SpecError: the folder holds trials of another sweep of this name.
        StorageError: a file cannot be written.
    """
    path = folder / SweepFile.SPEC
    values = {
        "sweep": sweep.model_dump(mode="json"),
        "study": base.model_dump(mode="json"),
        "data_fingerprint": fingerprint,
        "left_out": dict(trial_log.left_out),
    }
    if path.exists() and trial_log.requests:
        check_same_sweep(former_sweep(path), values, folder)
    log.debug("writing %s", path)
    with storage_errors(path):
        write_atomically(path, dump_yaml(values))
        write_atomically(folder / Artifact.STUDY, base.to_yaml())
        StudyFolder(folder).fetched.unlink(missing_ok=True)  # from here on it is this folder's own


def former_sweep(path: Path) -> dict[str, Any]:
    """The sweep and its base study of the call before.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        former = load_yaml(path)
    except SpecError as error:
        raise StorageError(
            f"{error}; if the trials beside it are of this sweep, remove the file, and it is "
            "written anew"
        ) from None
    if not isinstance(former.get("sweep"), dict):
        raise StorageError(
            f"{path}: is damaged (it holds no sweep); if the trials beside it are of this sweep, "
            "remove the file, and it is written anew"
        )
    return former


def check_same_sweep(former: dict[str, Any], present: dict[str, Any], folder: Path) -> None:
    """Check that the trials of a former call of a sweep can be continued by the present one.

    Raises:
        SpecError: keys that change their results differ.
    """
    before, now = fixed_settings(former.get("sweep", {})), fixed_settings(present["sweep"])
    differing = [key for key, value in now.items() if before.get(key) != value]
    if result_settings(former.get("study", {})) != result_settings(present["study"]):
        differing.append("study")
    known = former.get("data_fingerprint")
    if known is not None and known != present["data_fingerprint"]:
        differing.append("the content of the corpus, or how this release packs and splits it")
    if differing:
        raise SpecError(
            f"{folder}: holds trials of another sweep of this name (other: "
            f"{', '.join(differing)}); name this one otherwise, or remove the folder"
        )


def fixed_settings(sweep: dict[str, Any]) -> dict[str, Any]:
    """The values of a sweep that its trials have in common.

    Its space is none of them, as trials outside of the present one are left out, unless it is
    that of a population, whose generations follow from each other.
    """
    changeable: tuple[str, ...] = CHANGEABLE_SWEEP_KEYS
    fixed = dict(sweep)
    if sweep.get("scheduler", {}).get("kind") != "pbt":
        changeable += ("space", "start")
        arms = sweep.get("arms") or {}
        fixed["arms"] = {
            name: {
                k: value
                for k, value in (arm or {}).items()
                if k != "space" and value not in (None, {})
            }
            for name, arm in arms.items()
        }
    return {key: value for key, value in fixed.items() if key not in changeable}


def result_settings(study: dict[str, Any]) -> dict[str, Any]:
    """The values of a study that decide its results: not where its files lie."""
    try:
        spec = located(StudySpec.parse(study))
    except SpecError:  # of another release
        values = study
    else:
        values = {**spec.model_dump(mode="json"), "data": spec.data.identity()}
    return {key: value for key, value in values.items() if key not in CHANGEABLE_STUDY_KEYS}
