"""Publishes what a study or sweep on a cluster has found, for machines that see no folder of it.

To its own run in MLflow go report, figures, tables and plan; to that on a server also what `cola
fetch` needs of its runs. Where checkpoints are in an object store, that gets the same with the
exported models, unless the output has a mirror, which has all of it. What the list of a server or a
store has already is not sent again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cola.errors import ColaError, StorageError, TrackingError, one_line
from cola.files import sha256_of, storage_errors
from cola.records import Artifact
from cola.spec import load_yaml
from cola.spec.address import resolve_address, sqlite_file, sqlite_uri
from cola.study import StudySpec
from orchestration.checkpoint.address import is_folder
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.files import (
    ResultFile,
    ResultList,
    names_below,
    own_names,
    parse_list,
    result_names,
)
from orchestration.output_mirror.mirror import mirror_of
from orchestration.output_mirror.stored import StoredFiles
from orchestration.state.paths import OutputFolder, StudyFolder, output_root
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.artifacts import StudyArtifacts
from orchestration.tracking.relocation import adopt_artifacts

log = logging.getLogger(__name__)

MIRROR = "the output's mirror"
SUMMARY = "report.md"  # in a report's folder
MOST_CHARACTERS = 4000  # of a note: MLflow takes 5,000 and more


class Shelf(Protocol):
    """Where a thing's results are published, by names. All methods raise ColaError."""

    def read(self, name: str, folder: Path) -> Path | None:
        """The file of this name, brought into an empty folder; None where there is none."""

    def write(self, path: Path, name: str) -> None:
        """Store a file under this name."""


def publish(study: StudySpec, thing: Thing, notify: Callable[[str], None]) -> bool:
    """Publish the results of a study, or of the sweep over this base study.

    A place that does not take them costs one line. Whether the output's mirror has them, where
    there is one: it stands for the output folder.
    """
    places: dict[str, Callable[[StudySpec, Thing], int]] = {"MLflow": to_mlflow}
    storage = study.checkpoint.storage
    if study.output_mirror is not None:
        places[MIRROR] = to_mirror
    elif storage is not None and not is_folder(storage):
        places["the object store"] = to_object_store
    mirrored = True
    for where, send in places.items():
        try:
            sent = send(study, thing)
        except Exception as error:  # clients of stores raise errors of their own
            log.debug("publishing to %s fails", where, exc_info=True)
            mirrored = mirrored and where != MIRROR
            notify(
                f"results are not published to {where}: {one_line(error)}; they are in "
                f"{output_root(study) / thing.folder}, and the same command publishes them"
            )
        else:
            log.info("%s: %d files published to %s", thing.name, sent, where)
    return mirrored


def to_mlflow(study: StudySpec, thing: Thing) -> int:
    """Publish to MLflow; the number of files sent.

    A database has them beside the output folder already, and gets the thing's own files alone.
    """
    address, root = resolve_address(tracking_uri(study)), output_root(study)
    shelf = StudyArtifacts(address, thing.name)
    if address.is_server:
        return publish_to(shelf, root, thing, models=False)
    names = list(own_names(root, thing))
    for name in names:
        shelf.write(root / name, thing.published(name))
    return len(names)


def store_report(folder: Path, notify: Callable[[str], None]) -> None:
    """Give MLflow the report that was written of the study or sweep of this folder.

    Nothing is done for runs of other projects and for what was fetched from a cluster. What MLflow
    does not take costs one line.
    """
    root, place = folder.parent.parent, StudyFolder(folder)
    if not place.spec.is_file() or place.fetched.is_file():
        return
    thing = Thing("study" if folder.parent == OutputFolder(root).studies else "sweep", folder.name)
    try:
        given = (load_yaml(place.spec).get("tracking") or {}).get("uri")
        report_to_mlflow(root, thing, given or sqlite_uri(OutputFolder(root).mlflow))
    except ColaError as error:
        notify(f"the report is not stored in MLflow: {error}")


def report_to_mlflow(root: Path, thing: Thing, uri: str) -> None:
    """Store the report that was written of a study or sweep of an output folder with its own run,
    and its summary on MLflow's pages of it.

    A server that has a list of the thing's results gets a new one with them, for `cola fetch`.

    Raises:
        ColaError: MLflow does not take it, or has no run of the thing itself.
    """
    address = resolve_address(uri)
    file = sqlite_file(address.uri)
    if file is not None and not file.is_file():  # opening it would make it
        raise TrackingError(f"tracking.uri={address.shown}: there is no such file")
    adopt_artifacts(address, OutputFolder(root).artifacts)
    shelf, report = StudyArtifacts(address, thing.name), StudyFolder(root / thing.folder).report
    if address.is_server and published_list(shelf, thing) is not None:
        publish_to(shelf, root, thing, models=False)
    else:
        for name in names_below(root, report):
            shelf.write(root / name, thing.published(name))
    text = report / SUMMARY
    if text.is_file():
        shelf.describe(summary_of(text.read_text(encoding="utf-8")))


def summary_of(report: str) -> str:
    """What a report in Markdown says before its first section, its title in bold; without figures,
    whose files notes do not reach."""
    lines: list[str] = []
    for line in report.splitlines():
        if line.startswith("## ") or sum(map(len, lines)) + len(line) > MOST_CHARACTERS:
            break
        if not line.startswith(("![", "### ")):
            lines.append(f"**{line[2:]}**" if line.startswith("# ") else line)
    return "\n".join(lines).strip()


def to_mirror(study: StudySpec, thing: Thing) -> int:
    """Publish to the output's mirror, which has the runs already; the number of files sent."""
    mirror = mirror_of(study)
    return 0 if mirror is None else mirror.send_thing(thing)


def to_object_store(study: StudySpec, thing: Thing) -> int:
    """Publish beside the checkpoints; the number of files sent."""
    shelf = StoredFiles.of(str(study.checkpoint.storage), thing)
    return publish_to(shelf, output_root(study), thing, models=True)


def publish_to(shelf: Shelf, root: Path, thing: Thing, *, models: bool) -> int:
    """Send the results that a shelf does not have yet, then their list; how many were sent.

    Raises:
        ColaError: a file cannot be read, or the shelf does not take it.
    """
    before = published_list(shelf, thing)
    known = {} if before is None else before.files
    files: dict[str, ResultFile] = {}
    sent = 0
    for name in result_names(root, thing, models=models):
        with storage_errors(root / name, remedy="check its permissions and the disk", done="read"):
            size, digest = (root / name).stat().st_size, sha256_of(root / name)
        files[name] = ResultFile(bytes=size, sha256=digest)
        if known.get(name) != files[name]:
            shelf.write(root / name, thing.published(name))
            sent += 1
    listed = ResultList(kind=thing.kind, name=thing.name, models=models, files=files)
    with tempfile.TemporaryDirectory(prefix="cola-publish-") as folder:
        path = Path(folder, Artifact.RESULTS)
        path.write_text(listed.model_dump_json(indent=1), encoding="utf-8")
        shelf.write(path, Artifact.RESULTS)
    return sent


def published_list(shelf: Shelf, thing: Thing) -> ResultList | None:
    """The list of what was published before; None where there is none that can be read."""
    with tempfile.TemporaryDirectory(prefix="cola-publish-") as folder:
        path = shelf.read(Artifact.RESULTS, Path(folder))
        try:
            return None if path is None else parse_list(path.read_bytes(), str(path), thing)
        except StorageError as error:
            log.warning("%s", error)
            return None
