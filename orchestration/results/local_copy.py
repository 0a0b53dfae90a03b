"""Makes a fetched study one of the folder it lies in: its own output, its own MLflow store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cola.errors import SpecError, StorageError
from cola.records import Artifact, SweepFile, Tag
from cola.spec import load_yaml
from cola.spec.address import resolve_address
from cola.spec.yaml_text import dump_yaml
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.driver.attempt import closing_tags, opening_tags
from orchestration.results.saved_runs import saved_runs
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, StudyFolder, output_root
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.mirror import MirroredStudy, open_mirror, state_left

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  # for a database on this machine's disk; a chosen value
WAS_RUNNING = "was running when it was fetched"


def is_rewritten(name: str, thing: Thing) -> bool:
    """Whether a file says where the output folder is, so that its copy says something else."""
    return name in (f"{thing.folder}/{Artifact.STUDY}", f"{thing.folder}/{SweepFile.SPEC}")


def rewritten(path: Path, root: Path, thing: Thing) -> str:
    """The specification in a file with this output folder in place of the cluster's.

    A database of MLflow's in a file stays on the cluster: the copy has its own, in the folder. So
    do training checkpoints in a store, and the output's mirror: what runs or cleans the copy must
    not reach them.

    Raises:
        StorageError: it is no specification.
    """
    try:
        values = load_yaml(path)
    except SpecError as error:
        raise StorageError(
            f"{thing.folder}/{path.name}: is damaged on the cluster "
            f"({str(error).removeprefix(f'{path}: ')}); resume the "
            f"{thing.kind} there, and it is written anew"
        ) from None
    study = values if path.name == Artifact.STUDY else values.get("study")
    if isinstance(study, dict):
        study["output"] = str(root)
        study.pop("output_mirror", None)
        tracking = study.get("tracking")
        if isinstance(tracking, dict) and str(tracking.get("uri")).startswith("sqlite:"):
            tracking["uri"] = None
        if isinstance(study.get("checkpoint"), dict):
            study["checkpoint"]["storage"] = None
    return dump_yaml(values)


def fill_store(root: Path, name: str, notify: Callable[[str], None]) -> None:
    """Send the journals of a fetched study to the database in its folder; a server has them.

    What could not be sent costs one line.

    Raises:
        ColaError: the study's files are damaged, or the database cannot be used.
    """
    folder = OutputFolder(root).studies / name
    path = StudyFolder(folder).spec
    study = StudySpec.parse(load_yaml(path), origin=str(path))
    if study.tracking.uri is not None:
        shown = resolve_shown(study.tracking.uri)
        log.info("%s: its metrics are in MLflow at %s", name, shown)
        return
    ledger = Ledger(output_root(study))
    runs = saved_runs(study, folder).started
    mirror = open_mirror(tracking_uri(study), name, OutputFolder(root).artifacts / name)
    plan = [StudyFolder(folder).plan]
    mirror.start(MirroredStudy(folder, ledger, [run.key for run in runs], files=plan))
    for run in runs:
        entry = ledger.known_entry(run.key)
        if entry.state in ("new", "unreadable"):
            continue
        tags: dict[str, Any] = closing_tags(run, ledger)
        if entry.state == "running":
            tags[Tag.STATUS_REASON] = WAS_RUNNING
        mirror.follow(run.name, run.spec, ledger.run_folder(run.key), tags=opening_tags(name, run))
        mirror.close_run(run.key, state_left(entry), tags)
    unsent = mirror.finish(PATIENCE_SECONDS)
    if unsent:
        notify(
            f"the database {OutputFolder(root).mlflow} did not take everything of "
            f"{', '.join(unsent)} ({mirror.trouble or 'it was too slow'}); fetch again"
        )


def resolve_shown(uri: str) -> str:
    """An address for messages; a reference that is not set here is shown as it is."""
    try:
        return resolve_address(uri).shown
    except SpecError:
        return uri
